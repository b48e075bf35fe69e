"""Archives of container images as ``podman save`` and ``docker save`` write them, and what is in them.

An image is known by the digest of its configuration, which podman calls its ID: it names every layer by the
digest of its content. Layers are not unpacked here: those that are plain archives are checked against that
digest, and of compressed ones in a layout the blob is; the rest is podman's to check when it loads.

Spec: OCI image-spec 1.1.0 image-layout.md, manifest.md, config.md; moby image/spec/v1.2.md, "Combined Image
JSON + Filesystem Changeset Format" (``manifest.json``); containers/storage images (image ID);
containers/image 5.34.2, docker/internal/tarfile/reader.go and src.go (how podman 5.4 reads that archive).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..document import Fields
from ..errors import FormatError
from ..formats.oci import INDEX_FILE, LAYOUT_FILE, REF_NAME, Digest, DigestAlgorithm, read_json
from ..formats.tarstream import FileArchive, entries
from ..formats.tree import FilePayload, Node, NodeType, Payload
from ..units import MIB, format_size
from .compose import DEFAULT_TAG, REFERENCE, image_name

DOCKER_MANIFEST = "manifest.json"
# A bound of ours: documents of images have some kilobytes.
MAX_DOCUMENT = 4 * MIB
MAX_ENTRIES = 100_000
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """One image of an archive.

    Attributes:
        names: with tags, as ``compose.image_name`` gives them.
        config: digest of its configuration.
    """

    names: tuple[str, ...]
    config: Digest


@dataclass(frozen=True, kw_only=True)
class ImageArchive:
    """An archive: its place, its bytes' digest, and its images.

    Attributes:
        stem: of the file's name; an image that an archive names by a tag alone is called so.
    """

    path: Path
    stem: str
    size: int
    sha256: bytes
    images: tuple[SavedImage, ...]


def read_archive(path: Path, architecture: str) -> ImageArchive:
    """The archive in a file.

    Args:
        architecture: in Go's words, ``amd64``, what every image must be for.

    Raises:
        FormatError: it is no archive of images, is compressed, is damaged, or has an image for another
            machine.
    """
    name = path.name
    stem = name.removesuffix(".tar")
    try:
        size, digest = _hash(path)
        files = _Files(name, architecture, _members(path, name))
    except OSError as error:
        raise FormatError(name, f"cannot be read: {str(error.strerror).lower()}") from None
    if LAYOUT_FILE in files.nodes:
        images = _layout_images(files, stem)
    elif DOCKER_MANIFEST in files.nodes:
        images = _docker_images(files)
    else:
        what = f"it has neither {DOCKER_MANIFEST} nor {LAYOUT_FILE}; write it with podman save"
        raise FormatError(name, what)
    return ImageArchive(path=path, stem=stem, size=size, sha256=digest, images=images)


@dataclass(frozen=True)
class _Files:
    """The members of an archive by path.

    Attributes:
        digests: those that were computed already; images share layers.
    """

    name: str
    architecture: str
    nodes: Mapping[str, Node]
    digests: dict[tuple[str, DigestAlgorithm], Digest] = field(default_factory=dict)

    def content(self, path: str) -> Payload:
        """What is in a file, or in the file that a symbolic link leads to.

        As for podman, which follows one link and no more, and for which a hard link is an empty file.
        """
        place = posixpath.normpath(path)
        node = self.nodes.get(place)
        if node is None:
            raise FormatError(self.name, f"there is no file {path!a:.120}; save the image again")
        found: Node | None = node
        what = f"{path!a:.120} is a {node.type.value}, not a file"
        if node.type is NodeType.SYMLINK:
            found = self.nodes.get(posixpath.normpath(posixpath.join(posixpath.dirname(place), node.target)))
            what = f"{path!a:.120} is a symlink to {node.target!a:.120}, which is no file"
        if found is None or found.type is not NodeType.FILE or found.payload is None:
            raise FormatError(self.name, f"{what}; save the image again")
        return found.payload

    def is_link(self, path: str) -> bool:
        """Whether there is a symbolic link of that path."""
        node = self.nodes.get(posixpath.normpath(path))
        return node is not None and node.type is NodeType.SYMLINK

    def document(self, path: str) -> bytes:
        """A whole small file."""
        payload = self.content(path)
        if payload.size > MAX_DOCUMENT:
            what = f"{path!a:.120} has {format_size(payload.size)}, at most {format_size(MAX_DOCUMENT)}"
            raise FormatError(self.name, what)
        return b"".join(payload.chunks())

    def digest(self, path: str, algorithm: DigestAlgorithm) -> Digest:
        """The digest of a file's content."""
        key = posixpath.normpath(path), algorithm
        if key not in self.digests:
            state = algorithm.new()
            for piece in self.content(path).chunks():
                state.update(piece)
            self.digests[key] = Digest(algorithm, state.digest())
        return self.digests[key]

    def blob(self, reference: Fields) -> Digest:
        """The name of a blob of a layout, its size and its content checked."""
        digest = Digest.parse(reference.text("digest"), reference.source)
        size, found = reference.number("size"), self.content(digest.path).size
        if found != size:
            what = f"{digest.path}: {found} bytes, its reference says {size}; save the image again"
            raise FormatError(self.name, what)
        if self.digest(digest.path, digest.algorithm) != digest:
            what = f"{digest.path}: its content has another digest; save the image again"
            raise FormatError(self.name, what)
        return digest


def _hash(path: Path) -> tuple[int, bytes]:
    state = hashlib.sha256()
    size = path.stat().st_size
    for piece in FilePayload(path, 0, size).chunks():
        state.update(piece)
    return size, state.digest()


def _members(path: Path, name: str) -> dict[str, Node]:
    found: dict[str, Node] = {}
    with path.open("rb") as file:
        start = file.read(6)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise FormatError(name, f"compressed with {kind}; unpack it first, to a plain tar archive")
        archive = FileArchive(path, file.fileno(), 0, os.fstat(file.fileno()).st_size, name)
        for number, (member, node) in enumerate(entries(archive)):
            if number >= MAX_ENTRIES:
                raise FormatError(name, f"more than {MAX_ENTRIES} entries; this is no archive of images")
            if member in found and node.type is not NodeType.DIRECTORY:
                raise FormatError(name, f"{member!a:.120} is in it twice; save the image again")
            found[member] = node
    return found


def _layout_images(files: _Files, stem: str) -> tuple[SavedImage, ...]:
    """The only image of an OCI layout; podman loads no more than one of such an archive."""
    where = f"{files.name}: {INDEX_FILE}"
    references = _fields(files.document(INDEX_FILE), where).objects("manifests")
    if len(references) != 1:
        what = f"{len(references)} images; podman loads archives of this kind with one, save each alone"
        raise FormatError(where, what)
    (reference,) = references
    kind = reference.text("mediaType")
    if kind not in _MANIFESTS:
        what = f"refers to {kind!r}, not to one image; save the image of one platform"
        raise FormatError(where, what)
    digest = files.blob(reference)
    manifest = _fields(files.document(digest.path), f"{files.name}: manifest {digest}")
    config = files.blob(manifest.fields("config"))
    layers = manifest.objects("layers")
    diff_ids = _check_config(files, files.document(config.path), f"{files.name}: config {config}")
    _check_count(len(layers), diff_ids, manifest.source)
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        _check_content(files, files.blob(layer).path, diff_id, manifest.source)
    return (SavedImage(names=_layout_names(files, reference, stem, config), config=config),)


def _layout_names(files: _Files, reference: Fields, stem: str, config: Digest) -> tuple[str, ...]:
    """What the image is called; a tag alone belongs to the archive's own name."""
    found: list[str] = []
    if reference.values.get("annotations") is not None:
        annotations = reference.fields("annotations")
        if annotations.values.get(REF_NAME) is not None:
            tag = annotations.text(REF_NAME)
            found.append(tag if "/" in tag or ":" in tag else f"{stem}:{tag}")
    if DOCKER_MANIFEST in files.nodes:
        found += [name for image in _docker_images(files) if image.config == config for name in image.names]
    names = found or [f"{stem}:{DEFAULT_TAG}"]
    return tuple(dict.fromkeys(_known_name(name, files.name) for name in names))


def _known_name(text: str, where: str) -> str:
    """The name of an image with its tag; one that no Compose file could have is nothing to show either."""
    if re.fullmatch(REFERENCE, text) is None:
        what = f"an image is called {text!a:.120}; a name has small letters, digits and ._/:-, then a tag"
        raise FormatError(where, f"{what}, so tag it anew and save it again")
    return image_name(text)


def _docker_images(files: _Files) -> tuple[SavedImage, ...]:
    where = f"{files.name}: {DOCKER_MANIFEST}"
    document = read_json(files.document(DOCKER_MANIFEST), where)
    if not isinstance(document, list) or not document:
        raise FormatError(where, "not a list with an image in it; save the image again")
    found = []
    for number, item in enumerate(document, 1):
        fields = Fields.of(item, f"{where}: image {number}")
        path = fields.text("Config")
        config = files.document(path)
        diff_ids = _check_config(files, config, f"{files.name}: {path}")
        _check_layers(files, fields, diff_ids)
        tags = fields.values.get("RepoTags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise FormatError(fields.source, "'RepoTags' is not a list of names")
        names = tuple(_known_name(tag, fields.source) for tag in tags)
        found.append(SavedImage(names=names, config=Digest.of(config)))
    return tuple(found)


def _check_layers(files: _Files, image: Fields, diff_ids: Sequence[Digest]) -> None:
    """Stops where podman would: at layers that are not there, or not those of the configuration.

    Up to version 24, ``docker save`` wrote symbolic links for layers that the archive has already. Podman 5.4
    passes over one of a layer that the image had before; any other it takes for a layer of no bytes.
    """
    layers = image.items("Layers")
    paths = [path for path in layers if isinstance(path, str)]
    if len(paths) != len(layers):
        raise FormatError(image.source, "'Layers' is not a list of paths; save the image again")
    _check_count(len(paths), diff_ids, image.source)
    seen: dict[str, Digest] = {}
    known: set[Digest] = set()
    for path, diff_id in zip(paths, diff_ids, strict=True):
        if seen.setdefault(posixpath.normpath(path), diff_id) != diff_id:
            raise FormatError(image.source, f"{path!a:.120} stands for two layers; save the image again")
        files.content(path)  # a link to nothing is said first
        if files.is_link(path) and diff_id not in known:
            what = f"{path!a:.120} is a symlink, podman reads layers from files alone"
            raise FormatError(image.source, f"{what}; save every image alone, with podman save")
        known.add(diff_id)
        _check_content(files, path, diff_id, image.source)


def _check_content(files: _Files, path: str, diff_id: Digest, where: str) -> None:
    """Holds a layer that is not compressed against the configuration, whose digest is the image's name."""
    start = next(files.content(path).chunks(), b"")
    if not start.startswith(tuple(_COMPRESSED)) and files.digest(path, diff_id.algorithm) != diff_id:
        what = f"{path!a:.120} has another digest than its layer; save the image again"
        raise FormatError(where, what)


def _check_count(layers: int, diff_ids: Sequence[Digest], where: str) -> None:
    if layers != len(diff_ids):
        what = f"the number of layers is {layers}, the image's configuration names {len(diff_ids)}"
        raise FormatError(where, f"{what}; save the image again, with podman save")


def _check_config(files: _Files, data: bytes, where: str) -> tuple[Digest, ...]:
    """Digests of the layers' content, the lowest first."""
    fields = _fields(data, where)
    found = f"{fields.text('os')}/{fields.text('architecture')}"
    if found != f"linux/{files.architecture}":
        what = f"the image is for {found}, the machine is linux/{files.architecture}"
        raise FormatError(where, f"{what}; save the image of that platform")
    return _diff_ids(fields)


def _diff_ids(config: Fields) -> tuple[Digest, ...]:
    """A configuration without layers' digests would say nothing about what runs."""
    digests = config.fields("rootfs").items("diff_ids")
    if not digests:
        raise FormatError(config.source, "'diff_ids' is empty; an image needs at least one layer")
    return tuple(Digest.parse(item if isinstance(item, str) else "", config.source) for item in digests)


def _fields(data: bytes, where: str) -> Fields:
    return Fields.of(read_json(data, where), where)
