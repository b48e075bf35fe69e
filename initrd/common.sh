# shellcheck shell=sh disable=SC2034,SC2154 # variables of one file are set and read in the others
# What the scripts of the initramfs share: log lines, a clock, and the one way to give up.

# One line for the kernel's log; `quiet` keeps it off the console.
log() {
    printf '<6>goldsmith: %s\n' "$*" >/dev/kmsg
}

warn() {
    printf '<4>goldsmith: %s\n' "$*" >/dev/kmsg
}

# Level 3 is on the console with every `loglevel` that images are built with.
complain() {
    printf '<3>goldsmith: %s\n' "$*" >/dev/kmsg
}

# Sets $now to the milliseconds since boot. A variable, because a subshell for each look at the clock is slow.
read_clock() {
    read -r now _ </proc/uptime
    # 12.05 -> 12050; the leading 1 keeps the shell from reading 05 as an octal number.
    now=$((${now%.*} * 1000 + 1${now#*.}0 - 1000))
}

# Text from outside, made safe for a console: plain characters only, not more than a line.
plain() {
    printf '%s' "$1" | tr -c 'A-Za-z0-9=:,./_+-' '?' | cut -c 1-80
}

# Ends the boot: one message `what; how to fix`, then what the recipe says. Level 0 reaches the console whatever
# `quiet` and `loglevel` say (kernel/printk: the console level is never below 1). Call it from the boot script's
# own shell only: a subshell cannot end the first process.
die() {
    trap - EXIT
    printf '<0>goldsmith: FATAL: %s\n' "$*" >/dev/kmsg 2>/dev/null ||
        printf 'goldsmith: FATAL: %s\n' "$*" >/dev/console
    give_up "${PROFILE:-release}" "${ON_FAILURE:-panic}"
}

# give_up PROFILE POLICY: never returns. What follows a panic is the kernel's `panic=`.
give_up() {
    case $1:$2 in
        dev:shell) rescue_shell ;;
        *:poweroff) echo o >/proc/sysrq-trigger && sleep 30 ;;
        *:reboot) echo b >/proc/sysrq-trigger && sleep 30 ;;
        *:shell) printf '<0>goldsmith: no shell in profile %s; build with profile dev for one\n' "$1" >/dev/kmsg ;;
    esac
    echo c >/proc/sysrq-trigger
    # Only a kernel without the sysrq trigger gets here; the end of the first process is a panic too.
    exit 1
}

# A shell on the console, in a development image alone. The last phase is extended first, so that a key bound to
# the initramfs cannot be had from the shell.
rescue_shell() {
    TPM=if-present
    measure_phase leave-initrd
    printf 'goldsmith: development profile: a shell; leave it to stop the machine\n' >/dev/console
    # Its own session with the console as terminal, so that ^C reaches what runs in the shell and nothing else.
    setsid -c sh -i </dev/console >/dev/console 2>&1
}
