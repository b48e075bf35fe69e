# shellcheck shell=sh disable=SC2154 # the driver and the volume's configuration set them
# A LUKS2 header that only the image itself can have written: checked, opened, made and put on the disk.
#
# The header on the disk is the host's to write, and nothing authenticates it: one that names the null cipher lets
# every passphrase open a volume whose key the host has chosen (CVE-2025-59054). So it is copied once, the copy has to
# match the template that the builder made, and from then on the copy is the header.
#
# /etc/unlock/VOLUME.header is that template, a line for each part, in order and without gaps:
#   literal OFFSET SIZE SHA256      the SHA-256 of these bytes is this
#   hole NAME OFFSET SIZE ALPHABET  these bytes are binary, base64, hex, or a checksum: `sha256`
#   same OFFSET SIZE EARLIER        these bytes are those at EARLIER
# A checksum is that of the header copy around it, with its own bytes as zeros.

# LUKS2 On-Disk Format 1.1: two copies of a header of the smallest size, each with 4096 binary bytes in front.
COPY_SIZE=16384
BINARY_SIZE=4096
# Where the data begin; the template says the same, and cryptsetup wants a header that reaches up to them.
DATA_OFFSET=16777216

# Copies what the disk has in place of a header: the only time that it is read.
copy_header() {
    dd if="$device" of="$header" bs=4096 count=$((METADATA_SIZE / 4096)) 2>/dev/null ||
        finish 10 temporary "the header on $device cannot be read; the disk fails"
}

# Makes the header's file as long as cryptsetup wants it; what is added takes no memory.
pad_header() {
    dd if=/dev/null of="$header" bs=$DATA_OFFSET seek=1 2>/dev/null
}

# check_header: true when $header is what the template says; else $fault says where it is not.
check_header() {
    length=$(stat -c %s "$header")
    fault="only $length of its $METADATA_SIZE bytes are there"
    [ "$length" -ge "$METADATA_SIZE" ] || return 1
    mkdir "$parts"
    cut_header
    # What differs is most often in the text: there the message says most.
    check_literals && check_repeats && check_alphabets && check_checksums
    verdict=$?
    rm -rf "$parts"
    return $verdict
}

# Goes through the template and cuts out what has to be looked at, each part in a file named by its offset. Processes
# are what costs time here: there is one for each such part, and one more for the hashes of all literals.
cut_header() {
    : >"$parts/literals"
    repeats=
    alphabets=
    checksums=
    position=0
    while read -r part first second third fourth; do
        case $part:$fourth in
            literal: | same:) offset=$first length=$second ;;
            hole:*) offset=$second length=$third ;;
            *) offset=-1 ;;
        esac
        [ "$offset" -eq $position ] || break
        position=$((position + length))
        case $part:$fourth in
            literal:) echo "$third  $offset" >>"$parts/literals" ;;
            same:) repeats="$repeats $offset:$length:$third" && continue ;;
            hole:binary) continue ;;
            hole:base64 | hole:hex) alphabets="$alphabets $offset:$fourth:$first" ;;
            hole:sha256) checksums="$checksums $offset:$first" ;;
            *) break ;;
        esac
        dd if="$header" of="$parts/$offset" bs=16384 \
            iflag=skip_bytes,count_bytes skip="$offset" count="$length" 2>/dev/null
    done <"/etc/unlock/$volume.header"
    # A table that ends early, or has a word that this script does not know, would let bytes through.
    [ "$part:$position" = ":$METADATA_SIZE" ] ||
        finish 40 malformed "the template of the header is not whole; build the image again"
}

check_literals() {
    (cd "$parts" && sha256sum -c literals 2>/dev/null) >"$parts/verdicts" && return 0
    while IFS=: read -r offset verdict; do
        [ "$verdict" = ' OK' ] || break
    done <"$parts/verdicts"
    length=$(stat -c %s "$parts/$offset")
    fault="bytes $offset to $((offset + length - 1)), in the $(place_of "$offset")"
    return 1
}

# place_of OFFSET: what people call that place.
place_of() {
    copy=primary
    [ "$1" -lt $COPY_SIZE ] || copy=secondary
    [ $(($1 % COPY_SIZE)) -lt $BINARY_SIZE ] && echo "$copy binary header" || echo "$copy JSON area"
}

check_repeats() {
    for repeat in $repeats; do
        offset=${repeat%%:*}
        earlier=${repeat##*:}
        length=${repeat#*:}
        length=${length%:*}
        cmp -s -n "$length" "$header" "$header" "$offset" "$earlier" && continue
        fault="bytes $offset to $((offset + length - 1)) are not those at $earlier: the two copies differ"
        return 1
    done
}

check_alphabets() {
    for hole in $alphabets; do
        case $hole in
            *:base64:*) set -- base64 'A-Za-z0-9+/' ;;
            *) set -- hex '0-9a-f' ;;
        esac
        # What is left is looked at in a file: a variable would lose line breaks and NUL bytes.
        tr -d "$2" <"$parts/${hole%%:*}" >"$parts/rest"
        [ -s "$parts/rest" ] || continue
        fault="${hole##*:} is not $1 text"
        return 1
    done
}

check_checksums() {
    for checksum in $checksums; do
        offset=${checksum%%:*}
        dd if="$header" of="$parts/copy" bs=$COPY_SIZE skip=$((offset / COPY_SIZE)) count=1 2>/dev/null
        dd if=/dev/zero of="$parts/copy" bs=32 seek=$((offset % COPY_SIZE / 32)) count=1 conv=notrunc 2>/dev/null
        digest=$(od -An -v -tx1 "$parts/$offset" | tr -d ' \n')
        echo "$digest  $parts/copy" | sha256sum -c >/dev/null 2>&1 && continue
        fault="${checksum##*:} is wrong"
        return 1
    done
}

# Opens the volume with the copy: cryptsetup's exit code, of which 2 means that the key opens no key slot.
open_header() {
    DM_DISABLE_UDEV=1 cryptsetup open --batch-mode --type luks2 --header "$header" --key-file "$key" \
        --disable-external-tokens "$device" "$volume" >"$words" 2>&1 </dev/null
}

# Makes a header in memory for the key, with the token of the provider that gave it. With integrity the disk gets a
# superblock of dm-integrity at the data offset; nothing else is written to it.
format_header() {
    # shellcheck disable=SC2086 # words of the builder
    set -- $KDF
    case $1 in
        pbkdf2) set -- --pbkdf pbkdf2 --pbkdf-force-iterations "$2" ;;
        *) set -- --pbkdf "$1" --pbkdf-force-iterations "$2" --pbkdf-memory "$3" --pbkdf-parallel "$4" ;;
    esac
    # Without the wipe whoever makes the file system has to write whatever is read later.
    [ "$INTEGRITY" = none ] || set -- "$@" --integrity "$INTEGRITY" --integrity-no-wipe
    : >"$header"
    pad_header
    # /dev/random waits until the kernel's generator is seeded (random(4)); the default of cryptsetup does not.
    DM_DISABLE_UDEV=1 cryptsetup luksFormat --batch-mode --type luks2 --header "$header" --key-file "$key" \
        --cipher aes-xts-plain64 --key-size 512 --hash sha256 --sector-size 4096 --offset $((DATA_OFFSET / 512)) \
        --uuid "$PARTUUID" --use-random "$@" "$device" >"$words" 2>&1 </dev/null ||
        finish 40 malformed "cryptsetup makes no header for $device: $(tail -n 1 "$words"); see the kernel log"
    import_token
    check_header ||
        finish 40 malformed "the new header is not of the image's form: $fault; the token of provider $provider or" \
            "the costs do not fit the template, build the image again"
}

# A token goes in as its provider wrote it; the template says what it has to be.
import_token() {
    if [ "$TOKEN" = none ]; then
        [ ! -e "$token" ] ||
            finish 40 malformed "provider $provider wrote a token, and the volume has none; see the recipe"
        return 0
    fi
    [ -s "$token" ] ||
        finish 40 malformed "provider $provider wrote no token, and the volume needs $TOKEN; see the recipe"
    cryptsetup token import --batch-mode --token-id 0 --json-file "$token" --disable-external-tokens "$header" \
        >"$words" 2>&1 </dev/null ||
        finish 40 malformed "cryptsetup does not take the token of provider $provider: $(tail -n 1 "$words")"
    rm -f "$token"
}

# Puts the header on the disk. Until the first 4096 bytes are there, the note still says that this volume is being
# formatted; when the power fails between them, the next boot begins again.
write_header() {
    dd if="$header" of="$device" bs=4096 skip=1 seek=1 count=$((METADATA_SIZE / 4096 - 1)) conv=notrunc,fsync \
        2>/dev/null &&
        dd if="$header" of="$device" bs=4096 count=1 conv=notrunc,fsync 2>/dev/null
}
