"""OCI documents written: new ones, and changed ones that keep every field nobody here knows.

Objects keep the order of their keys, numbers and texts their values, and the layout of the text is always the
same: two spaces a level, no newline at the end, as Islet's signing tool writes it. Equal input gives equal
bytes.

Spec: OCI image-spec 1.1.0; islet-project/image-registry 92e5635, ir-sign/src/oci.rs (sign_config,
replace_hash_index).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..errors import FormatError
from .oci import (
    LAYOUT_VERSION,
    REF_NAME,
    SCHEMA_VERSION,
    Descriptor,
    Digest,
    ImageConfig,
    MediaType,
    Platform,
    read_index,
    read_json,
    read_manifest,
)


def layout_marker() -> bytes:
    """The file ``oci-layout``."""
    return _text({"imageLayoutVersion": LAYOUT_VERSION})


def write_config(config: ImageConfig) -> bytes:
    """An image configuration without a creation time and without a history; empty settings are left out."""
    settings: dict[str, object] = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "User": config.user,
        "WorkingDir": config.working_dir,
    }
    diff_ids = [str(digest) for digest in config.diff_ids]
    return _text(
        {
            **_platform(config.platform),
            "config": {key: value for key, value in settings.items() if value},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def write_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An image manifest."""
    return _text(
        {
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": MediaType.MANIFEST.value,
            "config": _descriptor(config),
            "layers": [_descriptor(layer) for layer in layers],
        }
    )


def write_index(manifests: Sequence[Descriptor]) -> bytes:
    """An index."""
    return _text(
        {
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": MediaType.INDEX.value,
            "manifests": [_descriptor(item) for item in manifests],
        }
    )


def annotate_manifest(data: bytes, source: str, annotations: Mapping[str, str]) -> bytes:
    """The manifest with these annotations, each in its old place or behind the others in the order given.

    Raises:
        FormatError: it is no manifest, or holds a number that cannot be written back.
    """
    read_manifest(data, source)
    document = _object(data, source)
    document["annotations"] = {**_inner(document, "annotations"), **annotations}
    return _text(document)


def redirect_index(data: bytes, source: str, targets: Mapping[Digest, tuple[Digest, int]]) -> bytes:
    """The index with every reference to a key of ``targets`` leading to the digest and size given there.

    A copy of the old content inside the reference (``data``) would be stale and is dropped.

    Raises:
        FormatError: it is no index, or holds a number that cannot be written back.
    """
    read_index(data, source)
    document = _object(data, source)
    for item in _references(document):
        target = targets.get(Digest.parse(str(item["digest"]), source))
        if target is not None:
            item["digest"], item["size"] = str(target[0]), target[1]
            item.pop("data", None)
    return _text(document)


def narrow_index(data: bytes, source: str, place: int, referrer: bytes, tag: str) -> bytes:
    """The index with one reference alone, tagged ``tag``; one that is that already keeps its bytes.

    Args:
        place: which reference of ``referrer`` it is, from 0.
        referrer: the index it is taken from, ``data`` itself or one below it.

    Raises:
        FormatError: either is no index, or holds a number that cannot be written back.
    """
    index = read_index(data, source)
    read_index(referrer, source)
    if data == referrer and len(index.manifests) == 1 and index.manifests[0].tag == tag:
        return data
    document = _object(data, source)
    item = _references(_object(referrer, source))[place]
    item["annotations"] = {**_inner(item, "annotations"), REF_NAME: tag}
    document["manifests"] = [item]
    return _text(document)


def _descriptor(descriptor: Descriptor) -> dict[str, object]:
    document: dict[str, object] = {
        "mediaType": descriptor.media_type.value,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        document["platform"] = _platform(descriptor.platform)
    return document


def _platform(platform: Platform) -> dict[str, object]:
    document: dict[str, object] = {"architecture": platform.architecture, "os": platform.os}
    return document | ({"variant": platform.variant} if platform.variant else {})


def _text(document: object) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _object(data: bytes, source: str) -> dict[str, object]:
    """The document's top object, as a copy to change."""
    _check_numbers(data, source)
    document = read_json(data, source)
    if not isinstance(document, dict):
        raise FormatError(source, "not a JSON object")
    return document


def _check_numbers(data: bytes, source: str) -> None:
    """Stops at a fraction or exponent that Python would write in other digits, ``1.50`` or ``1E2``."""

    def exact(text: str) -> float:
        if repr(float(text)) != text:
            raise FormatError(source, f"number {text[:40]} cannot be written back as it is; remove it")
        return float(text)

    json.loads(data, parse_float=exact)


def _references(document: dict[str, object]) -> list[dict[str, object]]:
    """The references of an index that was read before, to change in place."""
    items = document["manifests"]
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _inner(document: dict[str, object], key: str) -> dict[str, object]:
    """An object within an object, empty where it is missing or null."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}
