# shellcheck shell=sh disable=SC2154 # common.sh, the configuration and devices.sh set them
# Finds partitions by their GPT identity, without udev, and opens the verified root.

# A superblock in hex without the UUID, up to the block count: "verity", version 1, hash type 1; "sha256", blocks of
# 4096 bytes for data and for hashes. Layout: cryptsetup lib/verity/verity.c, struct verity_sb, little endian.
VERITY_KIND=76657269747900000100000001000000
VERITY_KIND=${VERITY_KIND}7368613235360000000000000000000000000000000000000000000000000000
VERITY_KIND=${VERITY_KIND}0010000000100000

LINE_BREAK='
'

# wait_partition NAME PARTUUID: sets $partition to the device node, or dies at the deadline.
wait_partition() {
    guid=$(disk_order "$2")
    read_clock
    device_deadline=$((now + DEVICE_TIMEOUT * 1000))
    until find_partition "$1" "$guid"; do
        read_clock
        [ "$now" -lt "$device_deadline" ] ||
            die "partition $1 (PARTUUID $2) did not appear within $DEVICE_TIMEOUT s, disks seen:${seen:- none};" \
                "attach the disk this UKI was built with, or build with a longer device timeout"
        sleep 0.1
    done
    log "partition $1 is $partition"
}

# A UUID as 32 hex digits in the order of a GUID on disk: the first three groups are little endian (UEFI 2.10,
# appendix A).
disk_order() {
    printf '%s\n' "$1" | sed 's/^\(..\)\(..\)\(..\)\(..\)-\(..\)\(..\)-\(..\)\(..\)-/\4\3\2\1\6\5\8\7/; s/-//'
}

# find_partition NAME GUID: sets $partition, and $seen to the names of the disks.
find_partition() {
    partition=
    seen=
    for disk in /sys/block/*; do
        # Where nothing matches, the pattern itself is what the loop gets.
        [ -e "$disk/size" ] || continue
        read -r sectors <"$disk/size"
        [ "$sectors" -gt 0 ] || continue
        seen="$seen ${disk##*/}"
        # A partition that the kernel has not listed yet gives no number below; the next look finds it.
        for number in $(partition_numbers "${disk##*/}" "$2"); do
            for entry in "$disk"/*/partition; do
                [ -e "$entry" ] || continue
                read -r found <"$entry"
                [ "$found" = "$number" ] || continue
                node=${entry%/partition}
                [ -z "$partition" ] ||
                    die "two partitions, $partition and /dev/${node##*/}, both claim to be $1;" \
                        "detach the disk that does not belong to this machine"
                partition=/dev/${node##*/}
            done
        done
    done
    [ -b "$partition" ]
}

# partition_numbers DISK GUID: the numbers of the partitions with that identity. Linux shows it in uevent files only
# since 6.13, so the table is read here as the builder lays it out: at LBA 2, entries of 128 bytes, 128 of them
# (UEFI 2.10, 5.3). It belongs to the host; what it leads to is verified or encrypted.
partition_numbers() {
    read -r block <"/sys/block/$1/queue/logical_block_size"
    header=$(dd if="/dev/$1" bs="$block" skip=1 count=1 2>/dev/null | od -An -v -tx1 -N92 | tr -d ' \n')
    # "EFI PART"; LBA of the entries; size of an entry.
    [ "$(printf '%s' "$header" | cut -c 1-16,145-160,169-176)" = 4546492050415254020000000000000080000000 ] || return 0
    dd if="/dev/$1" bs="$block" skip=2 count=$((16384 / block)) 2>/dev/null |
        od -An -v -tx1 -w128 | tr -d ' ' | cut -c 33-64 | sed -n "/^$2\$/="
}

# Sets $roothash from the command line, and $root_uuid and $hash_uuid from it: the identities of the data and the
# hash partition are the halves of the root hash (UAPI Discoverable Partitions Specification). An encrypted root has
# none.
read_roothash() {
    roothash=
    [ "$ROOT" = verity ] || return 0
    # Word splitting is what separates the words of a command line; -f keeps a `*` in one from becoming file names.
    set -f
    # shellcheck disable=SC2013
    for word in $(cat /proc/cmdline); do
        case $word in
            roothash=*)
                [ -z "$roothash" ] || die "the command line has two roothash= words; one UKI has one root"
                roothash=${word#roothash=}
                ;;
        esac
    done
    set +f
    [ -n "$roothash" ] || die "the command line has no roothash=; boot the UKI as it was built"
    case $roothash in
        *[!0-9a-f]*) die "roothash=$(plain "$roothash") is not lower-case hex; boot the UKI as it was built" ;;
    esac
    [ ${#roothash} -eq 64 ] ||
        die "roothash= has ${#roothash} digits and not 64 (SHA-256); boot the UKI as it was built"
    root_uuid=$(printf '%s' "$roothash" | cut -c 1-32 | dashes)
    hash_uuid=$(printf '%s' "$roothash" | cut -c 33-64 | dashes)
}

# A release boots with the command line it was built with and no other: systemd takes words such as
# systemd.debug_shell from it, and a host can add words without touching the UKI (SMBIOS strings, load options).
# The root hash is what $roothash says; it decides which root is opened, so a wrong one leads to no other root.
check_command_line() {
    own=$CMDLINE
    [ "$ROOT" != verity ] || own="${CMDLINE:+$CMDLINE }roothash=$roothash"
    # $() removes every line break at the end, and the kernel writes one: the mark keeps the others.
    given=$(cat /proc/cmdline && echo .)
    [ "$given" != "$own$LINE_BREAK." ] || return 0
    given=${given%"$LINE_BREAK".}
    # The own part is long: where words only follow it, they alone are shown.
    added=$(printf '%s' "${given#"$own"}" | tr -c ' -~' '?' | cut -c 1-200)
    [ "$PROFILE" = dev ] ||
        die "the kernel command line is not the image's own: '$added'; boot the UKI as it was built, without other words"
    warn "the kernel command line is not the image's own: '$added'; a release does not boot with it"
}

# 32 hex digits, written as a UUID.
dashes() {
    sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)/\1-\2-\3-\4-/'
}

# Opens the verified root as /dev/mapper/root.
open_root() {
    open_verity root "$root_uuid" "$hash_uuid" "$roothash"
}

# Opens the workload as /dev/mapper/workload; its root hash stands in the configuration.
open_workload() {
    open_verity workload "$WORKLOAD_DATA" "$WORKLOAD_HASHES" "$WORKLOAD_ROOTHASH"
}

# open_verity NAME DATA-UUID HASH-UUID ROOT-HASH: opens partitions NAME and NAME-verity as /dev/mapper/NAME. The
# superblock on the disk is the host's to write: it is read once, compared with the only kind the builder makes, and
# the table is written with those values. What is taken from it (block count, salt) goes into the root hash.
open_verity() {
    wait_partition "$1" "$2"
    data_device=$partition
    wait_partition "$1-verity" "$3"
    dd if="$partition" of=/run/verity bs=512 count=1 2>/dev/null ||
        die "cannot read the verity superblock on $partition; the disk fails"
    check_superblock "$partition"
    # When a block is wrong the kernel acts at once, in the middle of the read, and nobody sees the bytes.
    case $ON_FAILURE in
        reboot) corruption=restart_on_corruption ;;
        *) corruption=panic_on_corruption ;;
    esac
    # Linux Documentation/admin-guide/device-mapper/verity.rst: format 1, blocks of 4096 bytes for data and hashes, of
    # which there are eight sectors each; the hash tree begins with the block behind the superblock.
    table="0 $((blocks * 8)) verity 1 $data_device $partition 4096 4096 $blocks 1 sha256 $4 $salt 1 $corruption"
    printf '%s\n' "$table" | /usr/lib/goldsmith/dmtable create "$1" ro 2>/run/verity.log ||
        die "the $1 does not verify: $(tail -n 1 /run/verity.log); write the disk image again"
    # The kernel reads nothing until it is asked to. From here on what does not verify ends the machine, so what is
    # left to fail is the disk.
    dd if="/dev/mapper/$1" of=/dev/null bs=4096 count=1 status=none 2>/run/verity.log ||
        die "cannot read the verified $1 on $data_device: $(tail -n 1 /run/verity.log); the disk fails"
    rm -f /run/verity /run/verity.log
}

# check_superblock DEVICE: looks at the copy in /run/verity; sets $blocks and $salt.
check_superblock() {
    superblock=$(od -An -v -tx1 /run/verity | tr -d ' \n')
    kind=$(printf '%s' "$superblock" | cut -c 1-32,65-144)
    [ "$kind" = "$VERITY_KIND" ] ||
        die "$1 has no verity superblock of the kind this image is built with; write the disk image again"
    blocks=$(od -An -v -tu4 -j72 -N4 /run/verity | tr -d ' ')
    salt_size=$(od -An -v -tu2 -j80 -N2 /run/verity | tr -d ' ')
    # 2^32 blocks are 16 TiB, so the upper half of the count must be zero.
    if [ "$(printf '%s' "$superblock" | cut -c 153-160)" != 00000000 ] || [ "$salt_size" -gt 256 ]; then
        die "the verity superblock on $1 has too many blocks or a salt of $salt_size bytes; write the disk image again"
    fi
    salt=-
    [ "$salt_size" -eq 0 ] || salt=$(printf '%s' "$superblock" | cut -c "177-$((176 + salt_size * 2))")
}
