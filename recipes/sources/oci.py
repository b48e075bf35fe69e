"""An application image out of an OCI layout: selected, checked whole, and copied into a fresh layout.

The copy has this image alone, tagged, straight below its index, because Islet's client takes what a tag leads
to for a manifest. Manifest, configuration and layers keep their bytes.

Spec: OCI image-spec 1.1.0 image-layout.md; islet-project/image-registry 92e5635, ir-client/src/oci/client.rs
(get_manifest), ir-server/src/oci/application.rs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from ..formats.oci import (
    BLOBS,
    INDEX_FILE,
    LAYOUT_FILE,
    TAG,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    MediaType,
    Platform,
    read_config,
    read_index,
    read_manifest,
)
from ..formats.oci_write import narrow_index
from ..formats.tree import FilePayload
from .oci_layer import Links, check_layer
from .oci_layout import Layout, make_folders, open_layout, write_blob, write_file

PLATFORM = Platform("linux", "arm64")
VARIANTS = ("", "v8")  # Spec: image-index.md, "Platform Variants": v8 is what arm64 means without one
DEFAULT_TAG = "latest"
MAX_REFERENCES = 10_000


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A manifest that a layout refers to.

    Attributes:
        tag: of the reference in ``index.json`` that leads to it.
        place: which reference of ``index`` it is, from 0; ``index`` is ``index.json`` or one below it.
    """

    descriptor: Descriptor
    tag: str | None
    place: int
    index: bytes


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a layout, its documents read and checked.

    Attributes:
        index_data: the layout's ``index.json``.
        indexes: digests of the indexes below it.
    """

    reference: Reference
    index_data: bytes
    indexes: tuple[Digest, ...]
    manifest_data: bytes
    manifest: Manifest
    config_data: bytes
    config: ImageConfig

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob of the image, its manifest first and its layers last, each once."""
        all_blobs = (self.reference.descriptor, self.manifest.config, *self.manifest.layers)
        return tuple({item.digest: item for item in all_blobs}.values())


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """A layout that was written, with one image in it.

    Attributes:
        left_out: paths of blobs in the source that the image does not use: orphans, and other images' blobs.
    """

    manifest: Digest
    config: Digest
    layers: tuple[Digest, ...]
    tag: str
    left_out: tuple[str, ...] = ()


def import_image(source: Path, folder: Path, *, wanted: str | None = None) -> ImageLayout:
    """The image copied from a layout (a folder or an uncompressed tar archive) into an empty folder.

    Every digest is checked, of the blobs and of the archives in the layers, and that no layer has an entry
    outside the image. An image without a tag is tagged ``latest``. Files are 0644 and folders 0755, whatever
    the umask.

    Args:
        wanted: a tag or digest; without one, the only image for linux/arm64, else the one tagged ``latest``.

    Raises:
        FormatError: the layout is damaged, or has something that Islet's registry or client refuses, or there
            is no such image; the message names the file or blob.
    """
    layout = open_layout(source)
    image = read_image(layout, wanted)
    reference = image.reference
    tag = reference.tag or DEFAULT_TAG
    where = f"{layout.name}: {INDEX_FILE}"
    index = narrow_index(image.index_data, where, reference.place, reference.index, tag)
    make_folders(folder, (blob.digest.algorithm for blob in image.blobs))
    for layer in image.manifest.layers:
        if not (folder / layer.digest.path).exists():
            write_file(folder / layer.digest.path, layout.pieces(layer, "layer"))
    # The copies are looked into, whose bytes nobody changes any more.
    copied = {layer.digest.path: folder / layer.digest.path for layer in image.manifest.layers}
    payloads = {path: FilePayload(file, 0, file.stat().st_size) for path, file in copied.items()}
    check_layers(Layout(layout.name, dict(payloads)), image)
    write_blob(folder, image.manifest.config.digest, image.config_data)
    write_blob(folder, reference.descriptor.digest, image.manifest_data)
    write_file(folder / LAYOUT_FILE, [layout.read(LAYOUT_FILE)])
    write_file(folder / INDEX_FILE, [index])
    return ImageLayout(
        manifest=reference.descriptor.digest,
        config=image.manifest.config.digest,
        layers=tuple(layer.digest for layer in image.manifest.layers),
        tag=tag,
        left_out=_left_out(layout, image),
    )


def read_image(layout: Layout, wanted: str | None = None) -> Image:
    """The selected image, everything but its layers read and checked.

    Raises:
        FormatError: as for ``import_image``.
    """
    index_data = layout.read(INDEX_FILE)
    index = read_index(index_data, f"{layout.name}: {INDEX_FILE}")
    _check_tags(index, layout.name)
    references, indexes = _references(layout, index, index_data)
    reference = _select(references, wanted, layout.name)
    descriptor = reference.descriptor
    manifest_data = layout.document(descriptor, "manifest")
    manifest = read_manifest(manifest_data, layout.where("manifest", descriptor.digest))
    config_data = layout.document(manifest.config, "config")
    where = layout.where("config", manifest.config.digest)
    config = read_config(config_data, where)
    _check_platform(config.platform, where)
    if len(config.diff_ids) != len(manifest.layers):
        what = f"{len(config.diff_ids)} diff_ids, the manifest has {len(manifest.layers)} layers"
        raise FormatError(where, what)
    return Image(
        reference=reference,
        index_data=index_data,
        indexes=indexes,
        manifest_data=manifest_data,
        manifest=manifest,
        config_data=config_data,
        config=config,
    )


def check_layers(layout: Layout, image: Image) -> None:
    """Checks what is in the layers, the lowest first; the digests of the blobs were checked before.

    Raises:
        FormatError: as for ``oci_layer.check_layer``.
    """
    links = Links()
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        pieces = layout.unchecked(layer, "layer")
        check_layer(pieces, layer, diff_id, links, layout.where("layer", layer.digest))


def _check_tags(index: Index, name: str) -> None:
    seen: set[str] = set()
    for number, descriptor in enumerate(index.manifests, 1):
        tag = descriptor.tag
        if tag is None:
            continue
        where = f"{name}: {INDEX_FILE}: manifests {number}"
        if TAG.fullmatch(tag) is None:
            what = f"tag {tag[:160]!r} is not 1 to 128 letters, digits, '.', '_' and '-'"
            raise FormatError(where, f"{what}; tag the image again, with its version alone")
        if tag in seen:
            raise FormatError(where, f"tag {tag!r} is there twice; keep it on one image")
        seen.add(tag)


def _references(
    layout: Layout, index: Index, data: bytes
) -> tuple[tuple[Reference, ...], tuple[Digest, ...]]:
    """Every manifest the layout refers to, in order, and the indexes below ``index.json``."""
    found: list[Reference] = []
    nested: dict[Digest, tuple[Index, bytes]] = {}
    waiting: list[Reference] = []

    def wait(index: Index, data: bytes, tag: str | None, *, top: bool = False) -> None:
        if len(found) + len(waiting) + len(index.manifests) > MAX_REFERENCES:
            raise FormatError(layout.name, f"more than {MAX_REFERENCES} references to manifests")
        waiting.extend(
            Reference(descriptor=item, tag=item.tag if top else tag, place=place, index=data)
            for place, item in reversed(list(enumerate(index.manifests)))
        )

    wait(index, data, None, top=True)
    while waiting:
        reference = waiting.pop()
        descriptor = reference.descriptor
        if descriptor.media_type is MediaType.MANIFEST:
            found.append(reference)
            continue
        if descriptor.digest not in nested:
            inner = layout.document(descriptor, "index")
            nested[descriptor.digest] = (
                read_index(inner, layout.where("index", descriptor.digest)),
                inner,
            )
        wait(*nested[descriptor.digest], reference.tag)
    return tuple(found), tuple(nested)


def _select(references: tuple[Reference, ...], wanted: str | None, name: str) -> Reference:
    """The one that is wanted; what is for another platform is only chosen when nothing else is there."""
    where = f"{name}: {INDEX_FILE}"
    if not references:
        raise FormatError(where, "there is no image in it; export one with its manifest")
    chosen = [item for item in references if wanted in (None, item.tag, str(item.descriptor.digest))]
    if not chosen:
        raise FormatError(where, f"there is no image {wanted!r}; there are {_images(references)}")
    fitting = [item for item in chosen if item.descriptor.platform is None or _runs(item.descriptor.platform)]
    if not fitting:
        raise FormatError(where, f"there is no image for {PLATFORM}; there are {_images(tuple(chosen))}")
    if wanted is None and len({item.descriptor.digest for item in fitting}) > 1:
        fitting = [item for item in fitting if item.tag == DEFAULT_TAG] or fitting
    if len({item.descriptor.digest for item in fitting}) > 1:
        what = f"which image? there are {_images(tuple(fitting))}"
        raise FormatError(where, f"{what}; name one by its tag or digest")
    return min(fitting, key=lambda item: (item.tag is None, item.tag not in (wanted, DEFAULT_TAG)))


def _images(references: tuple[Reference, ...]) -> str:
    """The images for a message: tags where there are some, digests where not."""
    words = []
    for item in references:
        platform = f" ({item.descriptor.platform})" if item.descriptor.platform else ""
        words.append(f"{item.tag or item.descriptor.digest}{platform}")
    more = [f"{len(words) - 10} more"] if len(words) > 10 else []
    return ", ".join(words[:10] + more)


def _runs(platform: Platform) -> bool:
    return (platform.os, platform.architecture) == (PLATFORM.os, PLATFORM.architecture) and (
        platform.variant in VARIANTS
    )


def _check_platform(platform: Platform, where: str) -> None:
    if not _runs(platform):
        raise FormatError(where, f"the image is for {platform}, a realm runs {PLATFORM}; build it for arm64")


def _left_out(layout: Layout, image: Image) -> tuple[str, ...]:
    used = {item.digest.path for item in image.blobs} | {digest.path for digest in image.indexes}
    return tuple(sorted(path for path in layout.files if path.startswith(f"{BLOBS}/") and path not in used))
