# shellcheck shell=sh disable=SC2154 # common.sh, the configuration and devices.sh set them
# Extends the boot phases into PCR 11 and records them as systemd does.
#
# /etc/initramfs/tpm2/<phase>.<bank> is a whole TPM2_PCR_Extend command with one digest, SHA-x of the phase's name
# (systemd-pcrphase.service(8)); the builder makes it, so no hash is computed and no command is put together here.

TPM_DEVICE=/dev/tpmrm0
PHASES=/etc/initramfs/tpm2
# systemd-pcrextend(8), FILES.
MEASURE_LOG=/run/log/systemd/tpm2-measure.log
# The digest in a TPM2_PCR_Extend command: header 10, handle 4, authorisation size 4 and area 9, count 4, algorithm 2
# (TCG TPM 2.0 Library, Part 3, 22.2).
DIGEST_OFFSET=33

# measure_phase PHASE
measure_phase() {
    if ! wait_tpm; then
        [ "$TPM" = if-present ] ||
            die "the TPM did not appear; give the machine a TPM 2.0, or build the image with tpm if-present"
        log "no TPM: phase $1 is not measured"
        return 0
    fi
    begin_record
    digests=
    for bank in $BANKS; do
        [ -d "/sys/class/tpm/tpm0/pcr-$bank" ] || continue
        if ! tpm_command "$PHASES/$1.$bank"; then
            [ "$TPM" = if-present ] ||
                die "phase $1 was not extended into PCR 11 of bank $bank, the TPM answered" \
                    "'${answer:-nothing}'; see the TPM's own log"
            # The record stays marked as unfinished: some banks may have the phase and some not.
            warn "phase $1 was not extended into PCR 11 of bank $bank, the TPM answered '${answer:-nothing}'"
            return 0
        fi
        digest=$(od -An -v -tx1 -j$DIGEST_OFFSET "$PHASES/$1.$bank" | tr -d ' \n')
        digests="$digests${digests:+,}{\"hashAlg\":\"$bank\",\"digest\":\"$digest\"}"
    done
    if [ -z "$digests" ] && [ "$TPM" = required ]; then
        die "the TPM has none of the banks $BANKS, so phase $1 is nowhere; allocate one of them"
    fi
    end_record "$1" "$digests"
    log "phase $1 is in PCR 11"
}

# True when the TPM's device is there. A driver that is a module may need a moment; only `required` waits for it.
wait_tpm() {
    read_clock
    tpm_deadline=$((now + DEVICE_TIMEOUT * 1000))
    until [ -c "$TPM_DEVICE" ]; do
        [ "$TPM" = required ] && [ "$now" -lt "$tpm_deadline" ] || return 1
        sleep 0.1
        read_clock
    done
}

# tpm_command FILE: sends one command and sets $answer to the response in hex; true when the response code is 0.
# The device wants the command in one write and gives the response to a read of the same descriptor
# (Linux drivers/char/tpm/tpm-dev-common.c). It repeats what the TPM wants repeated by itself.
tpm_command() {
    answer=$({ dd bs=4096 count=1 <"$1" >&4 && dd bs=4096 count=1 <&4 | od -An -v -tx1; } \
        4<>"$TPM_DEVICE" 2>/dev/null | tr -d ' \n')
    case $answer in
        # TPM_ST_SESSIONS, size, TPM_RC_SUCCESS; an error comes as TPM_ST_NO_SESSIONS (Part 1, 18.4).
        8002????????00000000*) return 0 ;;
    esac
    return 1
}

# Marks the log as being written. systemd holds a file lock as well; nobody else runs here. Mode 0600 and the
# sticky bit as the mark are systemd's (src/shared/tpm2-util.c, tpm2_userspace_log_open, v257).
begin_record() {
    mkdir -p "${MEASURE_LOG%/*}"
    (umask 077 && : >>"$MEASURE_LOG")
    chmod 1600 "$MEASURE_LOG"
}

# end_record PHASE DIGESTS: appends one record of a JSON text sequence (RFC 7464) and takes the mark away. The
# fields are those of tpm2_userspace_log in the same file; the time is CLOCK_BOOTTIME in microseconds.
end_record() {
    read -r boot_id </proc/sys/kernel/random/boot_id
    boot_id=$(printf '%s' "$boot_id" | tr -d -)
    read_clock
    printf '\036{"pcr":11,"digests":[%s],"content_type":"systemd","content":{"string":"%s","bootId":"%s",%s}}\n' \
        "$2" "$1" "$boot_id" "\"timestamp\":${now}000,\"eventType\":\"phase\"" >>"$MEASURE_LOG"
    chmod 600 "$MEASURE_LOG"
}
