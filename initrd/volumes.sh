# shellcheck shell=sh disable=SC2154 # common.sh, the configuration and devices.sh set them
# Opens each volume of the recipe, makes its file system and mounts it below the new root.

# mount_volume NAME
mount_volume() {
    # shellcheck source=/dev/null
    . "/etc/unlock/$1.conf"
    wait_partition "$1" "$PARTUUID"
    if ! reason=$(/usr/lib/goldsmith/unlock "$1" "$partition" 2>/dev/kmsg); then
        die "volume $1 is not open: ${reason:-the unlock driver ended without a reason; see the log}"
    fi
    case $FORMAT in
        always) make_filesystem "$1" "/dev/mapper/$1" "$MOUNTPOINT" ;;
        *) die "volume $1: format policy '$FORMAT' is not known; the builder writes always" ;;
    esac
}

# make_filesystem NAME DEVICE MOUNTPOINT: a new ext4 with the skeleton that the root carries at the same place.
# The volume does not outlive the boot, so it has no journal to protect it, and its inode tables are cleared by the
# kernel later on (mke2fs(8): lazy_itable_init) instead of now, while the boot waits.
make_filesystem() {
    mkfs.ext4 -q -F -b 4096 -O ^has_journal -E nodiscard,lazy_itable_init=1 -L "$1" "$2" >/run/mkfs.log 2>&1 ||
        die "volume $1: no file system on $2: $(tail -n 1 /run/mkfs.log); the disk fails, or the partition is too small"
    rm -f /run/mkfs.log
    mkdir -p /mnt
    # It is filled out of the way and moved into place, because the place itself holds the skeleton.
    mount -t ext4 -o nodev,nosuid "$2" /mnt ||
        die "volume $1: the new file system on $2 does not mount; see the kernel log"
    cp -a "/sysroot$3/." /mnt/ ||
        die "volume $1: the files of the image's $3 do not fit; make the partition larger"
    mount -o move /mnt "/sysroot$3" ||
        die "volume $1: $3 is no directory of the root file system; add it to the image"
}
