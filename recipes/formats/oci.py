"""OCI images: the layout marker, index, manifest and configuration, read strictly from bytes.

What is accepted is what Islet's image registry serves and its client unpacks, which is narrower than OCI:
every index and manifest must state its media type, and Docker's own formats are refused. Fields without a
meaning here are left alone; :mod:`oci_write` keeps them when it changes a document.

Spec: OCI image-spec 1.1.0 (image-layout.md, image-index.md, manifest.md, config.md, descriptor.md);
islet-project/image-registry 92e5635, ir-server/src/oci/ (application.rs, validate.rs, digest.rs, tag.rs).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..document import Fields, parse_json
from ..errors import FormatError
from ..units import MIB, format_size
from .decompress import Compression

LAYOUT_FILE, INDEX_FILE, BLOBS = "oci-layout", "index.json", "blobs"  # Spec: image-layout.md, "Content"
LAYOUT_VERSION = "1.0.0"  # Spec: image-layout.md, "oci-layout file"
SCHEMA_VERSION = 2  # Spec: image-index.md, manifest.md, schemaVersion
REF_NAME = "org.opencontainers.image.ref.name"  # Spec: annotations.md, "Pre-Defined Annotation Keys"
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")  # Spec: ir-server/src/oci/tag.rs; distribution-spec
MAX_DOCUMENT = 4 * MIB  # Spec: distribution-spec 1.1.0, "Pushing Manifests": the limit registries should have
MAX_DEPTH = 64  # far beyond what any document of an image needs, and far below Python's recursion limit


class MediaType(Enum):
    """What a blob is; the registry serves these and no others.

    Spec: image-spec media-types.md; ir-server/src/oci/application.rs, import_descriptor.
    """

    INDEX = "application/vnd.oci.image.index.v1+json"
    MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    CONFIG = "application/vnd.oci.image.config.v1+json"
    LAYER = "application/vnd.oci.image.layer.v1.tar"
    LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


LAYERS = {
    MediaType.LAYER: Compression.NONE,
    MediaType.LAYER_GZIP: Compression.GZIP,
    MediaType.LAYER_ZSTD: Compression.ZSTD,
}


class Hash(Protocol):
    """A digest that is being computed."""

    def update(self, data: bytes, /) -> None:
        """Takes in more bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far."""


class DigestAlgorithm(Enum):
    """Algorithms a blob may be named by. Spec: image-spec descriptor.md, "Registered algorithms"."""

    SHA256 = "sha256"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Length of a digest in bytes."""
        return 32 if self is DigestAlgorithm.SHA256 else 64

    def new(self) -> Hash:
        """A digest of no bytes yet."""
        return hashlib.new(self.value)


@dataclass(frozen=True)
class Digest:
    """The name of a blob: an algorithm and the digest of the blob's bytes."""

    algorithm: DigestAlgorithm
    value: bytes

    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.value.hex()}"

    @property
    def path(self) -> str:
        """Where a layout keeps the blob. Spec: image-layout.md, "Blobs"."""
        return f"{BLOBS}/{self.algorithm.value}/{self.value.hex()}"

    @classmethod
    def of(cls, data: bytes, algorithm: DigestAlgorithm = DigestAlgorithm.SHA256) -> Digest:
        """The digest of ``data``."""
        return cls(algorithm, hashlib.new(algorithm.value, data).digest())

    @classmethod
    def parse(cls, text: str, source: str) -> Digest:
        """A digest as it is written, ``sha256:`` and lower-case hexadecimal digits.

        Raises:
            FormatError: another algorithm, another length, or characters that a file name must not have.
        """
        name, _, digits = text.partition(":")
        known = {algorithm.value: algorithm for algorithm in DigestAlgorithm}
        if name not in known or re.fullmatch(f"[0-9a-f]{{{2 * known[name].size}}}", digits) is None:
            what = f"digest {text[:160]!r} is not sha256: or sha512: and its lower-case hexadecimal digits"
            raise FormatError(source, what, spec="OCI image-spec, descriptor.md")
        return cls(known[name], bytes.fromhex(digits))


@dataclass(frozen=True)
class Platform:
    """What an image runs on, in Go's words: ``linux`` and ``arm64``."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A reference to a blob.

    Attributes:
        tag: the annotation ``org.opencontainers.image.ref.name``; it names an image in ``index.json`` alone.
        platform: None where the reference does not say.
    """

    media_type: MediaType
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None

    @property
    def tag(self) -> str | None:
        """The annotation that names an image."""
        return dict(self.annotations).get(REF_NAME)


@dataclass(frozen=True, kw_only=True)
class Index:
    """A list of manifests and of further indexes."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One image: its configuration and its layers, the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What an image is made of and how it is run.

    Attributes:
        diff_ids: of each layer the digest of its uncompressed tar archive.
        entrypoint: first words of the command; ``cmd`` follows them.
        env: ``NAME=value`` each.
        user: ``user`` or ``user:group``, by name or number; empty is root.
    """

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""


def read_layout_marker(data: bytes, source: str) -> None:
    """Checks the file ``oci-layout``.

    Raises:
        FormatError: no JSON object, or another version than 1.0.0.
    """
    version = Fields.of(read_json(data, source), source).text("imageLayoutVersion")
    if version != LAYOUT_VERSION:
        raise FormatError(source, f"imageLayoutVersion {version!r}, expected {LAYOUT_VERSION!r}")


def read_index(data: bytes, source: str) -> Index:
    """The index in ``data``.

    Raises:
        FormatError: no JSON, a missing or wrong schema version or media type, or a reference that is wrong or
            leads to something that is neither manifest nor index.
    """
    fields = _document(data, source, MediaType.INDEX)
    wanted = (MediaType.MANIFEST, MediaType.INDEX)
    return Index(manifests=tuple(_descriptor(item, wanted) for item in fields.objects("manifests")))


def read_manifest(data: bytes, source: str) -> Manifest:
    """The image manifest in ``data``.

    Raises:
        FormatError: as for an index, or an image without a layer.
    """
    fields = _document(data, source, MediaType.MANIFEST)
    config = _descriptor(fields.fields("config"), (MediaType.CONFIG,))
    layers = tuple(_descriptor(item, tuple(LAYERS)) for item in fields.objects("layers"))
    if not layers:
        raise FormatError(source, "'layers' is empty; an image needs at least one layer")
    return Manifest(config=config, layers=layers, annotations=_annotations(fields))


def read_config(data: bytes, source: str) -> ImageConfig:
    """The image configuration in ``data``.

    Raises:
        FormatError: no JSON, a field of another type, or no list of the layers' digests.
    """
    fields = Fields.of(read_json(data, source), source)
    platform = _platform(fields)
    rootfs = fields.fields("rootfs")
    kind = rootfs.text("type")
    if kind != "layers":
        raise FormatError(rootfs.source, f"'type' is {kind!r}, expected 'layers'")
    diff_ids = tuple(Digest.parse(text, rootfs.source) for text in _strings(rootfs, "diff_ids"))
    run = _optional(fields, "config")
    return ImageConfig(
        platform=platform,
        diff_ids=diff_ids,
        entrypoint=_strings(run, "Entrypoint"),
        cmd=_strings(run, "Cmd"),
        env=_strings(run, "Env"),
        user=_string(run, "User"),
        working_dir=_string(run, "WorkingDir"),
    )


def read_json(data: bytes, source: str) -> object:
    """The value of a JSON document of bounded size and depth, in which no object has a key twice.

    Raises:
        FormatError: it is none.

    Spec: RFC 8259; what it leaves open (a key twice, NaN, half of a surrogate pair) is refused.
    """
    if len(data) > MAX_DOCUMENT:
        raise FormatError(source, f"{format_size(len(data))}; at most {format_size(MAX_DOCUMENT)} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(source, "no JSON: not UTF-8", offset=error.start) from None
    value = parse_json(text, source)
    _check(value, source)
    return value


def _check(value: object, source: str) -> None:
    """Checks depth and texts, level by level, so that no later step can run into a limit of Python's."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FormatError(source, f"nested more than {MAX_DEPTH} levels deep")
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise FormatError(source, f"{item[:32]!a} holds half of a surrogate pair")
        level = below


def _document(data: bytes, source: str, kind: MediaType) -> Fields:
    """The top object of an index or a manifest, its version and media type checked."""
    fields = Fields.of(read_json(data, source), source)
    found = _media_type(fields, (kind,))
    version = fields.number("schemaVersion")
    if version != SCHEMA_VERSION:
        raise FormatError(
            source, f"'schemaVersion' is {version}, expected {SCHEMA_VERSION} for {found.value}"
        )
    return fields


def _media_type(fields: Fields, allowed: tuple[MediaType, ...]) -> MediaType:
    """The field ``mediaType``, which must be there and be one of ``allowed``."""
    names = " or ".join(kind.value for kind in allowed)
    if fields.values.get("mediaType") is None:
        what = f"'mediaType' is missing, and Islet's registry refuses that; expected {names}"
        raise FormatError(fields.source, what, spec="image-registry ir-server/src/oci/validate.rs")
    text = fields.text("mediaType")
    for kind in allowed:
        if text == kind.value:
            return kind
    if text.startswith("application/vnd.docker."):
        what = (
            f"'mediaType' is {text!r}, a format of Docker's own; convert the image to OCI, expected {names}"
        )
        raise FormatError(fields.source, what)
    raise FormatError(fields.source, f"'mediaType' is {text!r}, expected {names}")


def _descriptor(fields: Fields, allowed: tuple[MediaType, ...]) -> Descriptor:
    media_type = _media_type(fields, allowed)
    digest = Digest.parse(fields.text("digest"), fields.source)
    size = fields.number("size")
    platform = None if _absent(fields, "platform") else _platform(fields.fields("platform"))
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=_annotations(fields),
        platform=platform,
    )


def _platform(fields: Fields) -> Platform:
    variant = "" if _absent(fields, "variant") else fields.text("variant")
    return Platform(fields.text("os"), fields.text("architecture"), variant)


def _annotations(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Names and values in the order of the document."""
    found = []
    for key, value in _optional(fields, "annotations").values.items():
        if not isinstance(value, str):
            raise FormatError(fields.source, f"annotation {key!a} is not a string")
        found.append((key, value))
    return tuple(found)


def _absent(fields: Fields, key: str) -> bool:
    """Whether a field is missing, or null, which is how Go's encoder writes what is not there."""
    return fields.values.get(key) is None


def _optional(fields: Fields, key: str) -> Fields:
    """An object; an empty one where it is absent."""
    return Fields({}, f"{fields.source}: {key}") if _absent(fields, key) else fields.fields(key)


def _string(fields: Fields, key: str) -> str:
    """A text; empty where it is absent."""
    return "" if _absent(fields, key) else fields.text(key)


def _strings(fields: Fields, key: str) -> tuple[str, ...]:
    """Texts that can be handed to a program; none where the list is absent."""
    found = []
    for item in [] if _absent(fields, key) else fields.items(key):
        if not isinstance(item, str) or "\0" in item:
            raise FormatError(fields.source, f"{key!r} holds {item!a:.80}, expected strings without NUL")
        found.append(item)
    return tuple(found)
