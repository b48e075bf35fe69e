# An image manifest -> one line each: vendor key, its signature, signature of the config (hex); config digest and
# size; number of layers; then for each layer its kind, digest and size.
# Nothing reaches the shell but hex, digests, numbers and three known words.
# Spec: OCI image-spec 1.1, manifest.md and descriptor.md; Islet's annotations: image-registry, ir-sign/src/oci.rs.
include "common";

# DER of a P-384 key is 120 bytes; a DER signature has at most 104 (two integers of up to 49 bytes, headers).
def hex($low; $high): type == "string" and test("\\A([0-9a-f]{2}){\($low),\($high)}\\z");

def size: type == "number" and . == floor and . >= 0 and . <= 2147483647;

def descriptor($what):
    need(type == "object"; "\($what) is no descriptor")
    | need(.digest | digest; "\($what) has no sha256 or sha512 digest")
    | need(.size | size; "\($what) has no size below 2 GiB");

def annotation($key; $low; $high):
    .annotations[$key] | need(hex($low; $high); "the annotation \($key) is missing or malformed");

{
    "application/vnd.oci.image.layer.v1.tar": "tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd"
} as $kinds
| only
| need(type == "object"; "is no JSON object")
| need(.schemaVersion == 2; "schemaVersion is not 2")
| need(.mediaType == "application/vnd.oci.image.manifest.v1+json"; "mediaType is not that of an image manifest")
| need((.annotations | type) == "object"; "has no annotations; sign the image")
| need((.layers | type) == "array" and (.layers | length) >= 1 and (.layers | length) <= 127; "has not 1 to 127 layers")
| (.config | descriptor("the config")
    | need(.mediaType == "application/vnd.oci.image.config.v1+json"; "the config's mediaType is not that of a config")
  ) as $config
| annotation("com.samsung.islet.image.vendorpub"; 120; 120),
  annotation("com.samsung.islet.image.vendorpub.signature"; 8; 104),
  annotation("com.samsung.islet.image.signature"; 8; 104),
  "\($config.digest) \($config.size)",
  (.layers | length),
  (.layers | to_entries[] | .key as $number
    | .value | descriptor("layer \($number)")
    | (if (.mediaType | type) == "string" then $kinds[.mediaType] else null end) as $kind
    | need($kind != null; "layer \($number) is of a media type that is not known")
    | "\($kind) \(.digest) \(.size)")
