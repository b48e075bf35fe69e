#!/usr/bin/busybox sh
# shellcheck shell=dash disable=SC2154 # the scripts of the initramfs set some
# The first program of a test machine: tries encrypted volumes as the host may leave them. What it finds goes out in
# the end, a fact a line, with the kernel silent: `JUDGE <topic> ...`.
#
# /dev/vda  a disk with a partition for each line of /test/partitions
# /dev/vdb  headers of 290816 bytes, the good one and then one for each line of /test/forged
# /dev/vdc  room for keys that nobody may see, one in each MiB, and behind them for all that was to be seen
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs tmpfs /run
exec </dev/null >/dev/console 2>&1
echo on >/proc/sys/kernel/printk_devkmsg
export PATH=/usr/bin:/usr/sbin LC_ALL=C
while read -r module; do
    insmod "$module"
done </etc/initramfs/modules

# shellcheck source=initrd/common.sh
. /usr/lib/goldsmith/common.sh
# shellcheck source=initrd/devices.sh
. /usr/lib/goldsmith/devices.sh
# shellcheck source=initrd/measure.sh
. /usr/lib/goldsmith/measure.sh
# shellcheck source=initrd/volumes.sh
. /usr/lib/goldsmith/volumes.sh

# shellcheck disable=SC2034 # of wait_partition
DEVICE_TIMEOUT=5
HEADER_BLOCKS=71
facts=/run/facts
mkdir -p /run/unlock

judge() {
    echo "JUDGE $*" >>$facts
}

# In the boot script the machine ends here; the functions run in a subshell so that only that ends.
die() {
    judge died "$case" "$*"
    exit 1
}

node_of() {
    number=0
    while read -r name; do
        number=$((number + 1))
        [ "$name" = "$1" ] && echo "/dev/vda$number"
    done </test/partitions
}

# try CASE VOLUME PARTITION: asks the driver.
try() {
    reason=$(/usr/lib/goldsmith/unlock "$2" "$(node_of "$3")" 2>/dev/kmsg)
    judge exit "$1:" $? "$reason"
    judge record "$1:" "$(cat "/run/unlock/$2.json")"
    judge left "$1:" "$(cd /run/unlock && echo "$2".*)"
}

# boot CASE VOLUME: mounts it as the boot script does.
boot() {
    case=$1
    (mount_volume "$2")
    judge booted "$1:" $?
}

# header NUMBER: puts that header on the partition `good`.
header() {
    dd if=/dev/vdb of="$good" bs=4096 skip=$(($1 * HEADER_BLOCKS)) count=$HEADER_BLOCKS conv=notrunc 2>/dev/null
}

# ends VOLUME: unmounts and closes it.
ends() {
    umount /sysroot/var 2>/dev/null
    cryptsetup close "$1"
}

# watch FILE: until `unwatch`, what there is in arguments, environments and key names of all processes goes there.
watch() {
    : >/run/samples
    while [ -e /run/samples ]; do
        cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/keys 2>/dev/null | tr '\000' '\n' >>"$1"
        echo '= sample' >>"$1"
        sleep 0.1
    done &
}

unwatch() {
    rm /run/samples
    wait
}

# keep MIB FILE: hands it to the test on a disk, because on the console nobody may see it.
keep() {
    dd if="$2" of=/dev/vdc bs=1048576 seek="$1" conv=sync,fsync 2>/dev/null
}

# ---- headers

good=$(node_of good)
try good good good
judge data first: "$(head -c 12 /dev/mapper/good)"
cryptsetup close good
try control spied good
judge uptime control "$(cat /proc/uptime)" "$(grep ^processes /proc/stat)"
number=0
while read -r name; do
    number=$((number + 1))
    header $number
    reason=$(/usr/lib/goldsmith/unlock spied "$good" 2>/dev/kmsg)
    judge forged "$name:" $? "$reason"
done </test/forged
judge uptime headers "$(cat /proc/uptime)" "$(grep ^processes /proc/stat)"

# The null cipher is the first of them. Stock takes it with any passphrase, and the attacker knows the key.
header 1
printf 'wrong-key-entirely' | cryptsetup open --type luks2 --key-file - "$good" stolen
judge stock open $?
printf 'what the guest writes' | dd of=/dev/mapper/stolen bs=4096 seek=1 conv=sync,fsync 2>/dev/null
cryptsetup close stolen
try null good good

header 0
try restored spied good
try wrong wrong good
try swapped good swapped
try typed typed good
judge data again: "$(head -c 12 /dev/mapper/typed)"
cryptsetup close typed

# ---- a person at the console

# Says on the console when a passphrase may be typed: whenever the echo has been turned off.
listen() {
    times=0
    hidden=
    while [ -e /run/samples ]; do
        case $hidden$(busybox stty -a </dev/console 2>/dev/null) in
            *' -echo '*)
                [ -n "$hidden" ] || times=$((times + 1))
                [ -n "$hidden" ] || echo "TYPE $times"
                hidden=' '
                ;;
            *) hidden= ;;
        esac
        sleep 0.1
    done
}

watch /run/samples.kept
listen &
try asked asked good
unwatch
judge data asked: "$(head -c 12 /dev/mapper/asked)"
judge echo "$(busybox stty -a </dev/console 2>/dev/null | grep -c ' echo ')"
cryptsetup close asked

# ---- blank disks, and disks that are not

try never never fresh
try dirty dirty dirty
try short good short
try empty good empty

# ---- a new volume, and power cuts on the way to it

fresh=$(node_of fresh)
# purpose CASE VOLUME: what the volume on `fresh` is asked to be opened for.
purpose() {
    : >/run/spied
    try "$1" "$2" fresh
    judge purpose "$1:" "$(cat /run/spied)"
}

# states: what is on the disk in front of the data: the first 4096 bytes, and the note.
state() {
    judge state "$1:" "$(dd if="$fresh" bs=4096 count=1 2>/dev/null | tr -d '\000' | wc -c)" \
        "$(dd if="$fresh" bs=512 skip=16384 count=1 2>/dev/null | tr -d '\000')"
}

purpose unwritten cut
purpose unwritten-fresh cut-fresh
state unwritten
# As with the word loglevel=4, or quiet: what an operator has to see is on the console all the same.
echo 4 >/proc/sys/kernel/printk
try formatted fresh fresh
echo 7 >/proc/sys/kernel/printk
state formatted
cryptsetup close fresh
dd if=/run/unlock/fresh.header of=/run/saved bs=4096 count=$HEADER_BLOCKS 2>/dev/null
purpose uncommitted cut
dd if=/run/saved of="$fresh" bs=4096 skip=1 seek=1 count=$((HEADER_BLOCKS - 1)) conv=notrunc 2>/dev/null
purpose behind cut
dd if=/run/saved of="$fresh" bs=4096 count=1 conv=notrunc 2>/dev/null
purpose written cut
purpose unremembered cut-fresh
head -c 32768 /run/saved >/run/remembered
purpose remembered cut-fresh
state written
rm /run/remembered
cp /run/saved /run/unlock/fresh.header
reason=$(/usr/lib/goldsmith/unlock commit fresh "$fresh" 2>/dev/kmsg)
judge commit fresh: $? "$reason"
state committed
printf 'goldsmith volume 1 formatting' | dd of="$fresh" bs=512 seek=16384 conv=sync,notrunc,fsync 2>/dev/null
try settled fresh fresh
state settled
cryptsetup close fresh
dd if=/dev/zero of="$fresh" bs=4096 count=$HEADER_BLOCKS conv=notrunc 2>/dev/null
try wiped fresh fresh

# ---- a token, and one that does not fit

token=$(node_of token)
try unfitting unfitting token
try token token token
reason=$(/usr/lib/goldsmith/unlock commit token "$token" 2>/dev/kmsg)
judge commit token: $? "$reason"
judge left committed: "$(cd /run/unlock && echo token.*)"
cryptsetup close token
try tokened token token
cryptsetup close token

# ---- a key that is sealed in the TPM, and another volume whose key the same TPM has sealed to the same policy

# commit VOLUME: on its own partition.
commit() {
    reason=$(/usr/lib/goldsmith/unlock commit "$1" "$(node_of "$1")" 2>/dev/kmsg)
    judge commit "$1:" $? "$reason"
    cryptsetup close "$1"
}

sealed=$(node_of sealed)
try new-sealed sealed sealed
cryptsetup close sealed
cp /run/unlock/sealed.header /run/saved.sealed
# The power is cut with the whole header on the disk, and before the TPM remembers it: it is made again.
dd if=/run/saved.sealed of="$sealed" bs=4096 count=$HEADER_BLOCKS conv=notrunc 2>/dev/null
watch /run/samples.kept
try unremembered-sealed sealed sealed
commit sealed
try sealed sealed sealed
unwatch
cryptsetup close sealed
# What was its key? The TPM says it once more, and stock cryptsetup says that it is the one, and the volume's own key.
head -c 32768 "$sealed" >/run/held.header
UNLOCK_VOLUME=sealed UNLOCK_CONF=/etc/unlock/sealed.conf UNLOCK_PURPOSE=open UNLOCK_KIND=passphrase \
    UNLOCK_HEADER=/run/held.header /usr/lib/unlock.d/tpm2 3>/run/held.passphrase
cryptsetup luksDump --batch-mode --dump-volume-key --volume-key-file /run/held.key \
    --key-file /run/held.passphrase "$sealed" >/run/held.log 2>&1 </dev/null
judge held $? "$(stat -c %s /run/held.passphrase)" "$(stat -c %s /run/held.key)"
keep 0 /run/held.passphrase
keep 1 /run/held.key
# The power is cut before the note is cleared: it is opened.
printf 'goldsmith volume 1 formatting' | dd of="$sealed" bs=512 seek=16384 conv=sync,notrunc,fsync 2>/dev/null
try settled-sealed sealed sealed
judge note settled-sealed: "$(dd if="$sealed" bs=512 skip=16384 count=1 2>/dev/null | tr -d '\000')"
cryptsetup close sealed
try new-theirs theirs theirs
commit theirs
try theirs theirs theirs
cryptsetup close theirs
theirs=$(node_of theirs)
try exchanged sealed theirs
printf 'goldsmith volume 1 formatting' | dd of="$theirs" bs=512 seek=16384 conv=sync,notrunc,fsync 2>/dev/null
try exchanged-noted sealed theirs
# The first volume on this disk is none that the TPM remembers, either.
dd if=/run/saved.sealed of="$sealed" bs=4096 count=$HEADER_BLOCKS conv=notrunc 2>/dev/null
try forgotten sealed sealed
dd if=/dev/zero of="$sealed" bs=4096 count=$HEADER_BLOCKS conv=notrunc 2>/dev/null
try wiped-sealed sealed sealed

# extend REGISTER: as anybody can who has the TPM.
extend() {
    tpm_command "/test/extend-$1"
    judge extended "$1:" $? "$answer"
}

# A register that its policy does not name, and then the one that it names.
extend 8
try beside theirs theirs
cryptsetup close theirs
extend 7
try changed theirs theirs
# The host writes into both copies that it was sealed to what the register holds now, and mends the checksums.
digest=$(/usr/lib/goldsmith/tpm2 digest sha256 7)
put_at() {
    dd of="$theirs" bs=1 seek="$1" conv=notrunc,fsync 2>/dev/null
}
for copy in 0 16384; do
    printf %s "$digest" | put_at $((copy + $(cat /test/policy)))
    head -c 64 /dev/zero | put_at $((copy + 448))
    sum=$(dd if="$theirs" bs=16384 skip=$((copy / 16384)) count=1 2>/dev/null | sha256sum | cut -c 1-64)
    # shellcheck disable=SC2059 # that is what it is for
    printf "$(printf %s "$sum" | sed 's/../\\x&/g')" | put_at $((copy + 448))
done
try rewritten theirs theirs

# ---- integrity, and a whole boot of a volume; what is seen of its key meanwhile

mkdir -p /sysroot/var/lib
echo skeleton >/sysroot/var/lib/file
chmod 750 /sysroot/var/lib
tagged=$(node_of tagged)
tail_of() {
    dd if="$tagged" of="$1" bs=1048576 skip=$(($(cat "/sys/class/block/${tagged##*/}/size") / 2048 - 1)) iflag=direct \
        2>/dev/null
}
last() {
    printf %s "$1" | dd of=/dev/mapper/tagged bs=4096 seek=$(($(blockdev --getsize64 /dev/mapper/tagged) / 4096 - 1)) \
        conv=sync,fsync 2>/dev/null
}

watch /run/samples.all
boot tagged tagged
unwatch
judge samples "$(grep -c '= sample' /run/samples.all)" "$(grep -c '^luksFormat$' /run/samples.all)" \
    "$(grep -c '^UNLOCK_KIND=' /run/samples.all)" "$(grep -c -F -f /test/needles /run/samples.all)"
judge needles "$(grep -c -F -f /test/needles "/etc/unlock/tagged.d/keyfile")"
judge mounted "$(grep ' /sysroot/var ' /proc/mounts)"
judge copied "$(cat /sysroot/var/lib/file)" "$(stat -c %a /sysroot/var/lib)"
echo kept >/sysroot/var/lib/kept
umount /sysroot/var
last before
cryptsetup close tagged
tail_of /run/before
boot again tagged
judge kept "$(cat /sysroot/var/lib/kept)"
umount /sysroot/var
last behind
cryptsetup close tagged
tail_of /run/after
cmp -l /run/before /run/after >/run/changed
read -r offset old new </run/changed
judge changed "$(wc -l </run/changed)" "$offset" "$old" "$new"

# put OCTAL: one byte of the ciphertext.
put() {
    # shellcheck disable=SC2059 # that is what it is for
    printf "\\$1" | dd of="$tagged" bs=1 count=1 conv=notrunc,fsync 2>/dev/null \
        seek=$((($(cat "/sys/class/block/${tagged##*/}/size") / 2048 - 1) * 1048576 + offset - 1))
}

tagged_reads() {
    judge integrity "$1:" "$(dd if=/dev/mapper/tagged bs=4096 count=1 2>/dev/null | wc -c)" \
        "$(dd if=/dev/mapper/tagged bs=4096 skip=$(($(blockdev --getsize64 /dev/mapper/tagged) / 4096 - 1)) 2>/dev/null |
            head -c 6)"
}

put "$old"
try flipped tagged tagged
tagged_reads flipped
cryptsetup close tagged
put "$new"
# The root file system is such a volume too.
boot root root
judge root "$(cat /sysroot/lib/kept)" "$(grep ' /sysroot ' /proc/mounts)"
umount /sysroot
cryptsetup close root
cryptsetup open --type luks2 --key-file /etc/unlock/tagged.d/keyfile "$tagged" tagged
tagged_reads mended
cryptsetup close tagged

# ---- without a header

plain=$(node_of plain)
try blank-plain cut-plain plain
boot plain plain
echo kept >/sysroot/var/lib/kept
ends plain
boot plain-again plain
judge plain "$(cat /sysroot/var/lib/kept)" "$(dd if="$plain" bs=512 count=1 2>/dev/null | tr -d '\000')"
ends plain
boot plain-wrong plain-wrong
cryptsetup close plain-wrong
printf 'goldsmith volume 1 formatting' | dd of="$plain" bs=512 conv=sync,notrunc,fsync 2>/dev/null
: >/run/spied
try cut-plain cut-plain plain
judge purpose cut-plain: "$(cat /run/spied)"
printf 'goldsmith volume 2 formatted' | dd of="$plain" bs=512 conv=sync,notrunc,fsync 2>/dev/null
try strange-plain cut-plain plain

# A key of its own at every boot; the only trace of it is in the kernel's table.
watch /run/samples.kept
try ephemeral ephemeral plain
# Only to be found: so would a key be.
env DECOY="$(cat /test/decoy)" sleep 0.5
unwatch
dmsetup table --showkeys ephemeral | cut -d ' ' -f 5 >/run/held.table
judge table "$(stat -c %s /run/held.table)" "$(dmsetup table ephemeral)"
cryptsetup close ephemeral
keep 2 /run/held.table
busybox dmesg >>/run/samples.kept
keep 3 /run/samples.kept

judge uptime "$(cat /proc/uptime)"
echo 1 >/proc/sys/kernel/printk
echo
cat $facts
echo 'JUDGE end'
echo o >/proc/sysrq-trigger
sleep 60
