#!/usr/bin/busybox sh
# shellcheck shell=dash
# The first program of a test machine, in place of the initramfs' own: asks the unlock driver for every volume it is
# configured for, one after the other, then looks at an EROFS image as only a kernel can. What it finds goes out in
# the end, a fact a line, with the kernel silent: `JUDGE <topic> ...`.
#
# /dev/vda  a disk for the volumes
# /dev/vdb  an EROFS image
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

facts=/run/facts
judge() {
    echo "JUDGE $*" >>$facts
}

# ---- volumes

for conf in /etc/unlock/*.conf; do
    volume=${conf##*/}
    volume=${volume%.conf}
    reason=$(/usr/lib/goldsmith/unlock "$volume" /dev/vda 2>/dev/kmsg)
    judge exit "$volume" $? "$reason"
    judge record "$volume" "$(cat "/run/unlock/$volume.json")"
    judge left "$volume" "$(cd /run/unlock && echo "$volume".*)"
    if [ -b "/dev/mapper/$volume" ]; then
        judge opened "$volume"
        # A block that the host can look for; the key and the place decide how it looks there.
        printf '%s' "$volume" | dd of="/dev/mapper/$volume" bs=4096 seek=1 conv=sync,fsync 2>/dev/null
        cryptsetup close "$volume"
    fi
done
for process in /proc/[0-9]*; do
    read -r name <"$process/comm"
    case $name in
        sleep) judge process "$name" ;;
    esac
done

# ---- the EROFS image

files=/mnt
mount -t erofs -o ro /dev/vdb $files || judge mount failed
cd $files || judge cd failed
busybox find . -path './big/*' -prune -o -exec stat -c 'JUDGE node %f %u %g %h %t %T %Y %s %n' {} + >>$facts
busybox find . -path ./big -prune -o -type f -exec busybox sha256sum {} + | sed 's/^/JUDGE content /' >>$facts
busybox find . -type l | while read -r link; do
    judge link "$(busybox readlink "$link")" "$link"
done
[ hardlink -ef again/hardlink ] && judge same hardlink again/hardlink
[ hardlink -ef plain ] && judge same hardlink plain
judge zeros "$(head -c 4 nodes/zero | od -An -tx1)"
for name in user.colour user.empty trusted.note; do
    busybox getfattr -n $name attributes | sed "s/^/JUDGE xattr /" >>$facts
    busybox getfattr -n $name attributes-too | sed "s/^/JUDGE xattr /" >>$facts
done
judge capabilities "$(busybox start-stop-daemon -S -c judge -a cat -x $files/capable -- /proc/self/status |
    sed -n 's/^CapEff:.//p')"
judge big "$(busybox ls big | busybox wc -l)" "$(busybox ls big | busybox sort | busybox sha256sum)"
missing=0
while read -r name; do
    [ -e "big/$name" ] || missing=$((missing + 1))
    [ ! -e "big/$name-not" ] || missing=$((missing + 1))
done </test/names
judge lookups $missing

echo 1 >/proc/sys/kernel/printk
echo
cat $facts
echo 'JUDGE end'
echo o >/proc/sysrq-trigger
sleep 60
