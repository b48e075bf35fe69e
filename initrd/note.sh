# shellcheck shell=sh disable=SC2034,SC2154 # the driver and the volume's configuration set them
# Whether a volume may be formatted: what is on the disk, the note about a format that was begun, and who remembers one.
#
# A host can wipe a disk, and a guest that then makes a new volume has lost its state without a word. A blank disk is
# therefore formatted only where the recipe says if-blank, and only once where a provider remembers it.
#
# The note is a block of 512 bytes, the text and zeros. It makes nothing safer: the host can write one as well as it
# can wipe the disk. It is there so that a power cut while a volume is made does not leave a disk that is neither.

FORMATTING='goldsmith volume 1 formatting'
FORMATTED='goldsmith volume 1 formatted'

# What is looked at has to be zeros to be blank. Behind it are the data.
case $HEADER in
    luks2) RESERVED=$DATA_OFFSET NOTE_OFFSET=8388608 ;;
    # Without a header only the note is there; a volume that is new at every boot needs none.
    *) RESERVED=1048576 NOTE_OFFSET=0 ;;
esac

read_note() {
    dd if="$device" of="$note" bs=512 skip=$((NOTE_OFFSET / 512)) count=1 2>/dev/null ||
        finish 10 temporary "$device cannot be read; the disk fails"
}

# note_says TEXT: also false when there is no note.
note_says() {
    printf %s "$1" | dd bs=512 conv=sync 2>/dev/null | cmp -s - "$note"
}

# write_note TEXT: no text clears it.
write_note() {
    printf '%s\000' "$1" |
        dd of="$device" bs=512 seek=$((NOTE_OFFSET / 512)) conv=sync,notrunc,fsync 2>/dev/null ||
        finish 10 temporary "$device cannot be written; the disk fails"
}

# True when nothing was ever written to the volume, or a format of it was begun and not finished.
is_blank() {
    note_says "$FORMATTING" || is_zero
}

# What cannot be read is not zero: words take its place. Of all that can compare bytes here, tr is five times as fast.
is_zero() {
    if [ "$HEADER" = luks2 ] && [ -n "$(head -c 4096 "$header" | tr -d '\000')" ]; then
        return 1
    fi
    { dd if="$device" bs=1048576 count=$((RESERVED / 1048576)) 2>/dev/null || echo unreadable; } |
        tr -d '\000' | head -c 1 >"$words"
    [ ! -s "$words" ]
}

# A header can be on the disk, and those who have to remember it do not yet: then the next boot makes the volume again,
# because its file system was never used. Nobody else may put a header there meanwhile.
is_unfinished() {
    [ "$FORMAT" = if-blank ] && [ -n "$REMEMBERS" ] && note_says "$FORMATTING" && ! is_known
}

# True when a provider knows that the volume was formatted before.
is_known() {
    for name in $REMEMBERS; do
        consult "$name" known
        case $code in
            0) return 0 ;;
            30) ;;
            *)
                finish 20 denied "provider $name does not know if $device was formatted before (code $code);" \
                    "see the kernel log"
                ;;
        esac
    done
    return 1
}

# Returns when a volume may be made, else ends the driver.
may_format() {
    [ "$FORMAT" = if-blank ] ||
        finish 20 denied "$device is blank and the image never formats it; attach this machine's own disk"
    if is_known; then
        finish 20 denied "$device is blank, and provider $name knows that it was formatted: the host has wiped it;" \
            "attach this machine's own disk, or make the provider forget it to begin anew"
    fi
    # Whoever may use the TPM can also make it forget, so that a new volume is said aloud in any case.
    complain "unlock $volume: $device is BLANK and is formatted; if it ever held data, the host has wiped them"
}
