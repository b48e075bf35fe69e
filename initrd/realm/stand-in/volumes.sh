# shellcheck shell=dash disable=SC2034,SC2154 # common.sh and the manager set them
# The application's partitions, encrypted; its layers unpacked on one, what it writes on the other.

# Sets $image_device and $data_device.
find_volumes() {
    if [ "$disk" = - ]; then
        image_device=$(named "$image_uuid") || refuse "partitions: there is no PARTUUID $image_uuid; attach its disk"
        data_device=$(named "$data_uuid") || refuse "partitions: there is no PARTUUID $data_uuid; attach its disk"
    else
        # Linux names virtio disks vda, vdb, ... in the order in which it finds them.
        block=vd$(printf 'abcdefghijklmnopqrstuvwxyz' | cut -c $((disk + 1)))
        image_device=$(labelled image) || refuse "partitions: disk $disk ($block) has not one partition named image"
        data_device=$(labelled data) || refuse "partitions: disk $disk ($block) has not one partition named data"
    fi
    report "partitions: $image_device, $data_device"
}

# named PARTUUID: the device.
named() {
    [ -b "/dev/disk/by-partuuid/$1" ] && readlink -f "/dev/disk/by-partuuid/$1"
}

# labelled NAME: the one partition of disk $block with that name in its GPT.
labelled() {
    found=
    for entry in "/sys/block/$block/$block"*/uevent; do
        { [ -e "$entry" ] && grep -qx "PARTNAME=$1" "$entry"; } || continue
        [ -z "$found" ] || return 1
        node=${entry%/uevent}
        found=/dev/${node##*/}
    done
    [ -b "$found" ] && printf '%s\n' "$found"
}

# Islet derives these keys from the realm's sealing key, so that the same realm can read its disks again. There is
# none without RSI, and anything else that could be kept the host could have as well: a random key, known to the
# kernel alone and gone with this boot, is the best that is left. It never is in a file.
# A cipher without authentication is Islet's choice too: the host can still damage what is on the disk.
make_volumes() {
    make_volume image "$image_device"
    make_volume data "$data_device"
}

# make_volume ROLE DEVICE: an empty file system at $place/ROLE.
make_volume() {
    place=$workdir/$name
    mapped=app$number-$1
    mkdir -p "$place/$1"
    # Without udev libdevmapper must make the nodes in /dev/mapper itself.
    head -c $((key_bits / 8)) /dev/urandom | DM_DISABLE_UDEV=1 cryptsetup open --batch-mode --type plain \
        --cipher "$cipher" --key-size "$key_bits" --skip "$iv_offset" --key-file - "$2" "$mapped" >"$folder/words" 2>&1 ||
        refuse "dm-crypt: $2: $(plain "$(tail -n 1 "$folder/words")")"
    # No journal: what is on it does not outlive this boot.
    mkfs.ext4 -q -F -O ^has_journal -L "$1" "/dev/mapper/$mapped" >"$folder/words" 2>&1 ||
        refuse "file system: $2: $(plain "$(tail -n 1 "$folder/words")"); is the partition large enough?"
    mount -t ext4 -o nosuid,nodev "/dev/mapper/$mapped" "$place/$1" || refuse "file system: $2 does not mount"
    report "$1 partition: encrypted with $cipher, a key for this boot only"
}

# Undoes make_root and make_volumes as far as they came.
close_volumes() {
    for part in overlay data image; do
        umount "$workdir/$name/$part" 2>/dev/null
    done
    umount "$folder/jail/root" 2>/dev/null
    umount "$folder/jail" 2>/dev/null
    for part in data image; do
        [ ! -e "/dev/mapper/app$number-$part" ] || DM_DISABLE_UDEV=1 cryptsetup close "app$number-$part"
    done
}

# Unpacks the layers at $place/image/root, each over those before. Programs that follow names out of an archive do
# it in a root of their own, where there is nothing but themselves and the tree: a link in one layer cannot lead the
# next one into the realm's files.
unpack_layers() {
    jail=$folder/jail
    mkdir "$place/image/root" "$jail"
    mount -t tmpfs -o nosuid,nodev,mode=0700,size=8m tmpfs "$jail" || refuse 'unpack: no memory for it'
    { mkdir "$jail/root" && cp /usr/bin/busybox "$jail/busybox"; } || refuse 'unpack: no memory for it'
    { mount -o bind "$place/image/root" "$jail/root" && mount -o remount,ro "$jail"; } ||
        refuse 'unpack: no root for it'
    layer=0
    while [ "$layer" -lt "$layers" ]; do
        unpack_layer "$folder/layer.$layer"
        layer=$((layer + 1))
    done
    { umount "$jail/root" && umount "$jail"; } || refuse 'unpack: its root does not unmount'
    report "unpacked $layers layer(s)"
}

# unpack_layer FILE: what the layer takes away goes first, then it is laid over the rest, then its marks go.
# Spec: OCI image-spec 1.1, layer.md, "Whiteouts".
unpack_layer() {
    chroot "$jail" /busybox tar -t -f - <"$1" >"$folder/names" 2>"$folder/words" ||
        refuse "unpack: layer $layer: $(plain "$(tail -n 1 "$folder/words")")"
    grep -E '(^|/)\.wh\.[^/]*$' "$folder/names" >"$folder/whiteouts"
    while IFS= read -r path; do
        case /$path in
            */../* | *//*) refuse "unpack: layer $layer has the whiteout $(plain "$path")" ;;
        esac
        parent=/root/${path%"${path##*/}"}
        case ${path##*/} in
            .wh..wh..opq)
                # The folder's content; the folder itself keeps its mode and owner.
                chroot "$jail" /busybox find "$parent" -mindepth 1 -maxdepth 1 -exec /busybox rm -rf {} + \
                    2>/dev/null
                ;;
            .wh. | .wh.. | .wh...) refuse "unpack: layer $layer has the whiteout $(plain "$path")" ;;
            *)
                target=${path##*/}
                chroot "$jail" /busybox rm -rf "$parent${target#.wh.}"
                ;;
        esac
    done <"$folder/whiteouts"
    chroot "$jail" /busybox tar -x --numeric-owner -f - -C /root <"$1" 2>"$folder/words" ||
        refuse "unpack: layer $layer: $(plain "$(tail -n 1 "$folder/words")"); is the image partition large enough?"
    while IFS= read -r path; do
        chroot "$jail" /busybox rm -f "/root/$path"
    done <"$folder/whiteouts"
}

# The layers below, what the application writes above. Sets $root.
make_root() {
    root=$place/overlay
    mkdir -p "$place/data/root" "$place/data/workdir" "$root"
    # The root of the application has the mode that its image gives it.
    chmod "$(stat -c %a "$place/image/root")" "$place/data/root"
    mount -t overlay -o "nosuid,nodev,lowerdir=$place/image/root,upperdir=$place/data/root,workdir=$place/data/workdir" \
        overlay "$root" || refuse 'overlay: it does not mount; see the kernel log'
}
