# shellcheck shell=sh
# From the start of the kernel to the start of the real init: measure, verify, unlock, mount, hand over.
#
# /etc/initramfs/config      the recipe's decisions, KEY=value
# /etc/initramfs/modules*    paths of kernel modules, in load order
# /etc/initramfs/tpm2/       TPM commands, see measure.sh
# /etc/unlock/<volume>.conf  one file for each volume, see unlock
#
# ROOT in the configuration says what the root file system is: verity, a read-only EROFS that the root hash on the
# command line names; or luks2, an ext4 on the encrypted volume root, the first of the volumes. WORKLOAD_ROOTHASH and
# the two partitions beside it are of a workload that the system mounts later from /dev/mapper/workload.
set -u
umask 022

# shellcheck source=initrd/common.sh
. /usr/lib/goldsmith/common.sh
# shellcheck source=initrd/measure.sh
. /usr/lib/goldsmith/measure.sh
# shellcheck source=initrd/devices.sh
. /usr/lib/goldsmith/devices.sh
# shellcheck source=initrd/network.sh
. /usr/lib/goldsmith/network.sh
# shellcheck source=initrd/volumes.sh
. /usr/lib/goldsmith/volumes.sh

# Whatever ends this script without a message of its own ends the machine with this one.
trap 'die "the boot script stopped; this is a bug, see the kernel log"' EXIT
# Nobody stops the boot from the keyboard.
trap '' HUP INT QUIT TSTP

mount_kernel_filesystems() {
    mount -t proc -o nosuid,nodev,noexec proc /proc || die "/proc does not mount; the kernel lacks PROC_FS"
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys || die "/sys does not mount; the kernel lacks SYSFS"
    mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev || die "/dev does not mount; the kernel lacks DEVTMPFS"
    mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run || die "/run does not mount; the kernel lacks TMPFS"
    # Every line of ours reaches the log; by default the kernel drops some when they come fast.
    echo on >/proc/sys/kernel/printk_devkmsg
}

# load_modules LIST: each line is the path of a module; the builder has put them in order of dependence. A driver may
# say that there is nothing for it here, such as AES instructions or a hypervisor's bus, and then those that build on it
# lack its symbols; whoever needs one of them later stops the boot.
load_modules() {
    idle=
    while read -r module; do
        insmod "$module" 2>/run/insmod.log && continue
        case $idle$(cat /run/insmod.log) in
            *'No such device')
                log "module ${module##*/} has nothing to drive"
                idle='idle '
                ;;
            'idle '*'unknown symbol in module'*) log "module ${module##*/} builds on one that has nothing to drive" ;;
            *) die "module $module does not load: $(cat /run/insmod.log); build it for the kernel of this UKI" ;;
        esac
    done <"$1"
    rm -f /run/insmod.log
}

mount_root() {
    mount -t erofs -o ro,nodev /dev/mapper/root /sysroot ||
        die "the verified root is no EROFS file system; write the disk image again"
}

hand_over() {
    [ -x /sysroot/usr/lib/systemd/systemd ] || [ -x /sysroot/sbin/init ] || [ -L /sysroot/sbin/init ] ||
        die "the root file system has no /sbin/init; add the package systemd-sysv to the image"
    for directory in dev proc sys run; do
        [ -d "/sysroot/$directory" ] ||
            die "the root file system has no directory /$directory; add it to the image"
    done
    # The kernel log, where a message would go, is in the first of them.
    for directory in dev proc sys run; do
        mount -o move "/$directory" "/sysroot/$directory" || die "/$directory does not move; see the kernel log"
    done
    trap - HUP INT QUIT TSTP
    # systemd reads more command line words from the EFI variable SystemdOptions, which is the host's, unless its
    # environment has them already (src/basic/efivars.c, v257): these are the words.
    # switch_root removes what is in the initramfs before it becomes the new init.
    exec env SYSTEMD_EFI_OPTIONS= switch_root /sysroot /sbin/init
}

mount_kernel_filesystems
# shellcheck source=/dev/null
. /etc/initramfs/config
log "profile $PROFILE, on failure $ON_FAILURE, TPM $TPM"

# The phase comes before the first byte from a disk. Only the TPM's own driver may have to be loaded before it.
load_modules /etc/initramfs/modules.tpm
measure_phase enter-initrd
read_roothash
check_command_line
load_modules /etc/initramfs/modules

if [ "$ROOT" = verity ]; then
    open_root
    mount_root
fi
[ -z "${WORKLOAD_ROOTHASH:-}" ] || open_workload
network_up
for volume in $VOLUMES; do
    mount_volume "$volume"
done
network_down

# From here on a key that is bound to the initramfs can no longer be had.
measure_phase leave-initrd
hand_over
