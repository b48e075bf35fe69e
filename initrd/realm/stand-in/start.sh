# shellcheck shell=dash disable=SC2034,SC2154 # common.sh and the manager set them
# The application as its config wants it: words, variables, folder, user. No text of the config is read by a shell.

# lookup FILE NAME: the third field of the line of /etc/passwd or /etc/group that begins with NAME. The file is the
# application's; one that a link leads elsewhere is not read.
lookup() {
    [ "$(readlink -f "$root/etc/$1")" = "$root/etc/$1" ] || return 1
    while IFS=: read -r entry _ id _; do
        [ "$entry" = "$2" ] || continue
        printf '%s\n' "$id"
        return 0
    done <"$root/etc/$1"
    return 1
}

# number_of FILE NAME: NAME itself when it is a number, else what the file says.
number_of() {
    case $2 in
        *[!0-9]*) id=$(lookup "$1" "$2") || return 1 ;;
        *) id=$2 ;;
    esac
    case $id in
        '' | *[!0-9]* | ???????????*) return 1 ;;
    esac
    printf '%s\n' "$id"
}

# Writes the command with NULs between its words. Without a group, as in Islet, it is group 0.
write_command() {
    user=$(jq -r '.config.User // "" | if . == "" then "0" else . end' "$config")
    group=0
    case $user in
        *:*)
            group=$(number_of group "${user#*:}") || refuse "user: the image has no group $(plain "${user#*:}")"
            ;;
    esac
    uid=$(number_of passwd "${user%%:*}") || refuse "user: the image has no user $(plain "${user%%:*}")"
    filter command.jq "$config" --join-output --arg root "$root" --arg uid "$uid" --arg gid "$group" >"$folder/command" ||
        refuse "command: $(fault)"
    report "user $uid, group $group"
}

# Runs it to its end. What it says is shown a line at a time with its name in front. It is in a root of its own and
# under the image's user, and in no namespace, as under Islet.
run_application() {
    report 'STARTED'
    {
        # -x: rather not at all than in two parts. What the inner shell runs are its arguments, as they are.
        # shellcheck disable=SC2016 # it is the inner shell that is to expand them
        xargs -0 -x sh -c 'env -i "$@"; printf "%s\n" "$?" >"$0"' "$folder/status" <"$folder/command" 2>&1
    } | while IFS= read -r line; do
        printf '%s| %s\n' "$name" "$line"
    done
    report "ended with status $(cat "$folder/status")"
}
