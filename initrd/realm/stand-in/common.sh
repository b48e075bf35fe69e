# shellcheck shell=dash disable=SC2034,SC2154 # variables of one file are set and read in the others
# What the parts of the stand-in share: lines on the console, the settings, and the one way to refuse.

say() {
    printf 'app-manager: %s\n' "$*"
}

# A line about the application that is being worked on.
report() {
    say "$name: $*"
}

# Text from outside, made safe for a console: plain characters only, not more than a line.
plain() {
    printf '%s' "$1" | tr -c " 'A-Za-z0-9=:,./_+()-" '?' | cut -c 1-160
}

# refuse CHECK: REASON. Ends the subshell that prepares the application.
refuse() {
    report "REFUSED: $*"
    exit 1
}

# Sets what holds for all applications, from the list that the builder has checked and the RIM covers.
read_settings() {
    jq -r '.cipher, .key_bits, .iv_offset, .workdir, .ca, .autostart, (.applications | length)' "$LIST" >"$WORK/settings" || {
        say "$LIST cannot be read; build the image again"
        exit 1
    }
    {
        read -r cipher
        read -r key_bits
        read -r iv_offset
        read -r workdir
        read -r ca
        read -r autostart
        read -r count
    } <"$WORK/settings"
}

# read_application NUMBER: sets what the list says about one application. Of disk and PARTUUIDs, one is a `-`.
read_application() {
    name="application $1"
    jq -r --argjson number "$1" '.applications[$number] |
        .name, .version, .registry, (.disk // "-"), (.image // "-"), (.data // "-")' "$LIST" >"$folder/application" ||
        return 1
    {
        read -r name
        read -r version
        read -r registry
        read -r disk
        read -r image_uuid
        read -r data_uuid
    } <"$folder/application"
    report "version $version from $registry"
}

# digest_of ALGORITHM FILE: the digest in hex.
digest_of() {
    case $1 in
        sha256) sha256sum <"$2" | cut -c 1-64 ;;
        sha512) sha512sum <"$2" | cut -c 1-128 ;;
    esac
}

size_of() {
    stat -c %s "$1"
}

# filter RULES FILE [ARGUMENT...]: what a jq program makes of a JSON file with exactly one document; when the program
# finds fault, its words are in $folder/words.
filter() {
    program=$RULES/$1
    file=$2
    shift 2
    jq --slurp --raw-output "$@" -L "$RULES" --from-file "$program" "$file" 2>"$folder/words"
}

# What the last jq program found wrong, without what jq puts in front of it.
fault() {
    plain "$(sed -n 's/^jq: error ([^)]*): //p; t; s/^jq: //p' "$folder/words" | head -n 1)"
}
