# shellcheck shell=dash disable=SC2034,SC2154 # common.sh and the manager set them
# From the registry into memory, and every check: who vouches for the vendor, the vendor for the config, the config
# for the layers. Nothing is unpacked here.

# Bytes of a manifest or a config.
TEXT_LIMIT=4194304
ACCEPT='application/vnd.oci.image.manifest.v1+json'

# DER of a SubjectPublicKeyInfo for P-384 up to the point (RFC 5480: id-ecPublicKey, secp384r1; uncompressed).
P384_KEY=3076301006072a8648ce3d020106052b8104002203620004

# download KIND REFERENCE LIMIT FILE: not a byte more than LIMIT is kept. $1 and $2 come from the list, or have the
# shape of a digest. Spec: OCI distribution-spec 1.1, end-2 and end-3.
download() {
    (
        # In units of 512 bytes. One unit more, so that what is too long is told from what fits exactly.
        ulimit -f $(($3 / 512 + 1))
        exec wget -q -T 20 --header "Accept: $ACCEPT" -O "$4" "http://$registry/v2/$name/$1/$2"
    ) </dev/null 2>"$folder/words" || {
        # Where the limit ended it, the file is too long and the next line says so.
        { [ -e "$4" ] && [ "$(size_of "$4")" -gt "$3" ]; } ||
            refuse "download: $1/$(plain "$2"): $(plain "$(tail -n 1 "$folder/words")"); does the registry at $registry have it?"
    }
    [ "$(size_of "$4")" -le "$3" ] || refuse "size: $1/$(plain "$2") is longer than $3 bytes"
}

# check_digest WHAT DIGEST FILE
check_digest() {
    [ "${2%%:*}:$(digest_of "${2%%:*}" "$3")" = "$2" ] || refuse "$1 digest: the content is not $2"
    report "$1 digest: ok"
}

# check_size WHAT SIZE FILE
check_size() {
    [ "$(size_of "$3")" -eq "$2" ] || refuse "$1 size: $(size_of "$3") bytes, the manifest says $2"
}

# check_signature WHAT KEY SIGNATURE FILE: ECDSA over SHA-384; KEY is a file in DER, SIGNATURE hex of DER.
check_signature() {
    printf '%s' "$3" | xxd -r -p >"$folder/signature"
    OPENSSL_CONF=/dev/null openssl dgst -sha384 -keyform DER -verify "$2" -signature "$folder/signature" "$4" \
        >"$folder/words" 2>&1 || refuse "$1: it does not verify; $5"
    report "$1: ok"
}

# Sets what the manifest says. It is not signed itself: the signatures in it are, and what it leads to.
get_manifest() {
    manifest=$folder/manifest
    download manifests "$version" $TEXT_LIMIT "$manifest"
    case $version in
        *:*) check_digest manifest "$version" "$manifest" ;;
    esac
    filter manifest.jq "$manifest" >"$folder/summary" || refuse "manifest: $(fault)"
    {
        read -r vendor_key
        read -r vendor_signature
        read -r config_signature
        read -r config_digest config_size
        read -r layers
        cat >"$folder/layers"
    } <"$folder/summary"
    report "manifest: ok, $layers layer(s)"
}

# The root CA vouches for the vendor's key.
check_vendor() {
    case $vendor_key in
        "$P384_KEY"*) ;;
        *) refuse 'vendor key: it is no P-384 key' ;;
    esac
    printf '%s' "$vendor_key" | xxd -r -p >"$folder/vendor.pub"
    check_signature 'vendor key signature by the root CA' "$ca" "$vendor_signature" "$folder/vendor.pub" \
        'have the vendor signed by the CA of this image'
}

# The vendor vouches for the config, byte for byte.
get_config() {
    config=$folder/config
    [ "$config_size" -le $TEXT_LIMIT ] || refuse "config size: $config_size bytes are more than $TEXT_LIMIT"
    download blobs "$config_digest" "$config_size" "$config"
    check_size config "$config_size" "$config"
    check_digest config "$config_digest" "$config"
    check_signature 'config signature by the vendor' "$folder/vendor.pub" "$config_signature" "$config" \
        'sign the image again'
    filter config.jq "$config" --arg layers "$layers" >"$folder/diff_ids" || refuse "config: $(fault)"
    report 'config: ok'
}

# The config vouches for the content of each layer; all are in memory and verified when this ends.
get_layers() {
    layer=0
    while read -r kind digest size <&3 && read -r diff_id <&4; do
        file=$folder/layer.$layer
        download blobs "$digest" "$size" "$file"
        check_size "layer $layer" "$size" "$file"
        check_digest "layer $layer" "$digest" "$file"
        [ "$kind" != zstd ] || [ -x /usr/bin/zstd ] ||
            refuse "layer $layer: it is compressed with zstd; add the package zstd to the initramfs, or use gzip"
        content_of "$kind" "$file" >"$folder/blob" 2>/dev/null ||
            refuse "layer $layer: it does not decompress, or needs more memory than the realm has"
        check_digest "layer $layer content (diff_id)" "$diff_id" "$folder/blob"
        # From here on only this file is used: what was verified is what is unpacked.
        mv "$folder/blob" "$file"
        layer=$((layer + 1))
    done 3<"$folder/layers" 4<"$folder/diff_ids"
    [ "$layer" -eq "$layers" ] || refuse "layers: $layer of $layers were there"
}

# content_of KIND FILE: the plain tar archive.
content_of() {
    case $1 in
        tar) cat "$2" ;;
        gzip) gzip -dc "$2" ;;
        zstd) zstd -qdc "$2" ;;
    esac
}

# What can be known to fail is refused before a disk is touched.
check_settings() {
    [ "$disk" != - ] || [ "$image_uuid" != "$data_uuid" ] || refuse 'partitions: image and data are the same'
    find_volumes
}
