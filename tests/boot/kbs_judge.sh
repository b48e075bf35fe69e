#!/usr/bin/busybox sh
# shellcheck shell=dash disable=SC2154 # the scripts of the initramfs and the test's configuration set some
# The first program of a test machine: asks a broker for each volume's key while somebody attacks, and while nobody
# does. What it finds goes out in the end, a fact a line, with the kernel silent: `JUDGE <topic> ...`.
#
# /dev/vda         a disk with a partition for each line of /test/partitions
# /test/cases      what is tried: volume, lane, `first` for a try before the attack
# /test/config     where the operator listens, who attacks or stops to when told so, and what is quoted for enrolment
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
# shellcheck source=initrd/measure.sh
. /usr/lib/goldsmith/measure.sh
# shellcheck source=initrd/network.sh
. /usr/lib/goldsmith/network.sh
# shellcheck source=/dev/null
. /test/config

# shellcheck disable=SC2034 # of the scripts
TPM=required BANKS=sha256 NETWORK=dhcp DEVICE_TIMEOUT=10
QUOTE=/run/enrol
SECURITY=/sys/kernel/security
facts=/run/facts
mkdir -p /run/unlock $QUOTE

judge() {
    echo "JUDGE $*" >>$facts
}

die() {
    judge died "$*"
}

node_of() {
    number=0
    while read -r name; do
        number=$((number + 1))
        [ "$name" = "$1" ] && echo "/dev/vda$number"
    done </test/partitions
}

# tell WORDS [JSON]: the operator does something, and has done it when this returns.
tell() {
    wget -q -T 60 -O /dev/null --post-data "${2:-{\}}" "$OPERATOR/$1" || judge untold "$1"
}

text_of() {
    base64 "$1" | tr -d '\n'
}

# try VOLUME PHASE: asks the driver; closes what it opened.
try() {
    node=$(node_of "$1")
    log "judge $1: $2"
    reason=$(/usr/lib/goldsmith/unlock "$1" "$node" 2>/dev/kmsg)
    judge exit "$1 $2:" $? "$reason"
    judge record "$1 $2:" "$(cat "/run/unlock/$1.json")"
    judge left "$1 $2:" "$(cd /run/unlock && echo "$1".*)"
    judge note "$1 $2:" "$(head -c 512 "$node" | tr -d '\000')"
    # What the kernel has, whatever the nodes say.
    judge mapped "$1 $2:" "$(cat /sys/block/dm-*/dm/name 2>/dev/null | grep -c -x "$1")"
    if [ -b "/dev/mapper/$1" ]; then
        judge data "$1 $2:" "$(head -c 12 "/dev/mapper/$1" | tr -cd ' -~')"
        cryptsetup close "$1"
    fi
}

# tries VOLUME first|-: before, during and after the attack.
tries() {
    [ "$2" != first ] || try "$1" first
    tell "$1/attack"
    try "$1" attacked
    tell "$1/restore"
    try "$1" restored
}

# lane NAME: the cases of a lane, one after the other.
lane() {
    while read -r name where first; do
        [ "$where" != "$1" ] || tries "$name" "$first"
    done </test/cases
}

measure_phase enter-initrd
network_up || judge died network
mount -t securityfs -o nosuid,nodev,noexec securityfs $SECURITY

# ---- the operator enrols the machine, and starts its broker

/usr/lib/goldsmith/tpm2 quote "$SELECTION" "$FIRST_NONCE" $QUOTE || judge died quote
values=
for index in $REGISTERS; do
    values="$values $(cat "/sys/class/tpm/tpm0/pcr-sha256/$index")"
done
shown="{\"registers\":\"$values\",\"log\":\"$(text_of $SECURITY/tpm0/binary_bios_measurements)\""
for name in quote signature ak_public; do
    shown="$shown,\"$name\":\"$(text_of $QUOTE/$name)\""
done
tell enrol "$shown}"

# ---- nobody attacks; what is seen of the key meanwhile

: >/run/samples
while [ -e /run/samples ]; do
    cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\000' '\n' >>/run/samples.all
    echo '= sample' >>/run/samples.all
    sleep 0.05
done &
try good honest
rm /run/samples
wait
judge samples "$(grep -c '= sample' /run/samples.all)" "$(grep -c '^https://' /run/samples.all)" \
    "$(grep -c '^UNLOCK_KIND=' /run/samples.all)" "$(grep -c -F -f /test/needles /run/samples.all)"

# ---- the cases; those that wait leave time to the others, once they do nothing but wait

while read -r name where first; do
    [ "$where" = waits ] || continue
    tries "$name" "$first" &
    until wget -q -T 60 -O /dev/null --post-data '{}' "$OPERATOR/$name/asked"; do
        sleep 0.2
    done
done </test/cases
lane again &
lane also &
lane row
wait

# ---- the host's TPM has the right registers: all that it lacks is the operator's trust

tell enrol-other
tell other-tpm/attack
try other-tpm trusted

# ---- the boot goes on

measure_phase leave-initrd
try good later

judge uptime end "$(cat /proc/uptime)"
judge log "$(busybox dmesg | grep -c -F -f /test/needles)" "$(busybox dmesg | grep -c 'unlock good: provider kbs')"
judge needles "$(grep -c -F -f /test/needles /test/needles)"
echo 1 >/proc/sys/kernel/printk
echo
cat $facts
echo 'JUDGE end'
echo o >/proc/sysrq-trigger
sleep 60
