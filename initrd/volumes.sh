# shellcheck shell=sh disable=SC2154 # common.sh, the configuration and devices.sh set them
# Opens each volume of the recipe, makes its file system where it is new, and mounts it below the new root.

# mount_volume NAME: the volume whose mount point is / is the root file system itself and comes first.
mount_volume() {
    # shellcheck source=/dev/null
    . "/etc/unlock/$1.conf"
    wait_partition "$1" "$PARTUUID"
    if ! reason=$(/usr/lib/goldsmith/unlock "$1" "$partition" 2>/dev/kmsg); then
        die "volume $1 is not open: ${reason:-the unlock driver ended without a reason; see the log}"
    fi
    # What outlives the boot stops to change when its metadata are damaged, whoever did that.
    options=errors=remount-ro
    [ "$MOUNTPOINT" = / ] || options=$options,nodev,nosuid
    read -r record <"/run/unlock/$1.json"
    case $record in
        *'"result":"formatted"'*) new_filesystem "$1" "/dev/mapper/$1" ;;
        *) old_filesystem "$1" "/dev/mapper/$1" ;;
    esac
}

# old_filesystem NAME DEVICE: ext4 replays its journal when it is mounted; more does not happen to a file system that
# lost its power, so none is checked here.
old_filesystem() {
    mount -t ext4 -o "rw,$options" "$2" "/sysroot$MOUNTPOINT" && return 0
    # Without a header every key opens something.
    [ "$HEADER" = luks2 ] ||
        die "volume $1: the key opens no file system on $partition; this disk is not the one that the key is for"
    die "volume $1: its file system does not mount; see the kernel log, and restore the disk from a backup"
}

# new_filesystem NAME DEVICE: an ext4 with the skeleton that the root carries at the same place. Until it is committed,
# a power cut leaves a volume that the next boot makes again.
new_filesystem() {
    make_filesystem "$1" "$2"
    mkdir -p /mnt
    # It is filled out of the way and moved into place, because the place itself holds the skeleton.
    mount -t ext4 -o "rw,$options" "$2" /mnt ||
        die "volume $1: the new file system on $2 does not mount; see the kernel log"
    cp -a "/sysroot$MOUNTPOINT/." /mnt/ ||
        die "volume $1: the files of the image's $MOUNTPOINT do not fit; make the partition larger"
    if [ "$FORMAT" != always ]; then
        sync
        reason=$(/usr/lib/goldsmith/unlock commit "$1" "$partition" 2>/dev/kmsg) ||
            die "volume $1 is not kept: ${reason:-the unlock driver ended without a reason; see the log}"
    fi
    mount -o move /mnt "/sysroot$MOUNTPOINT" ||
        die "volume $1: $MOUNTPOINT is no directory of the root file system; add it to the image"
}

# make_filesystem NAME DEVICE
make_filesystem() {
    # A block that was never written has no tag, and reading it is an error: nothing may be left for later, and mkfs
    # writes only a part of the first block.
    [ "$INTEGRITY" = none ] || dd if=/dev/zero of="$2" bs=4096 count=1 2>/dev/null
    case $FORMAT:$INTEGRITY in
        # It does not outlive the boot, so it has no journal to protect it, and its inode tables are cleared by the
        # kernel later on (mke2fs(8): lazy_itable_init) instead of now, while the boot waits.
        always:*) set -- "$1" "$2" -O ^has_journal -E nodiscard,lazy_itable_init=1 ;;
        *:none) set -- "$1" "$2" -E nodiscard ;;
        *) set -- "$1" "$2" -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 ;;
    esac
    name=$1
    device=$2
    shift 2
    mkfs.ext4 -q -F -b 4096 "$@" -L "$name" "$device" >/run/mkfs.log 2>&1 ||
        die "volume $name: no file system on $device: $(tail -n 1 /run/mkfs.log); the disk fails, or the partition" \
            "is too small"
    rm -f /run/mkfs.log
}
