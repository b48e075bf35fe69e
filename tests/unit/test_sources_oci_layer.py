from __future__ import annotations

import hashlib
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.oci import Descriptor, Digest, DigestAlgorithm, MediaType
from recipes.sources import oci_layer
from recipes.sources.oci_layer import Links, check_layer
from tests.oci_samples import LAYER, packed
from tests.packages import Entry, directory, entry, hardlink, symlink, tar

SIZES = st.integers(1, 5000)


def check(
    data: bytes, links: Links | None = None, *, kind: MediaType = MediaType.LAYER, step: int = 700
) -> None:
    """One layer, in pieces of ``step`` bytes."""
    blob = packed(data, kind.value.removeprefix(LAYER))
    digest = Digest(DigestAlgorithm.SHA256, hashlib.sha256(blob).digest())
    layer = Descriptor(media_type=kind, digest=digest, size=len(blob))
    diff_id = Digest(DigestAlgorithm.SHA256, hashlib.sha256(data).digest())
    pieces = (blob[start : start + step] for start in range(0, len(blob), step))
    check_layer(pieces, layer, diff_id, Links() if links is None else links, "l")


def complaint(*layers: list[Entry]) -> str:
    links = Links()
    for layer in layers[:-1]:
        check(tar(*layer), links)
    with pytest.raises(FormatError) as caught:
        check(tar(*layers[-1]), links)
    return str(caught.value)


GOOD: list[Entry] = [
    directory("./"),
    directory("usr/"),
    directory("usr/lib/"),
    symlink("lib", "usr/lib"),
    symlink("abs", "/etc/passwd"),
    symlink("usr/lib/up", "../../lib/./"),
    symlink("far", "../../../../etc"),
    entry("lib/up/x", b"through links that stay inside"),
    hardlink("usr/h", "lib/up/x"),
    entry("usr/.wh..wh..opq"),
    entry("usr/.wh.gone"),
    entry("abs", b"a link replaced by a file"),
    entry("big", b"b" * 100_000),
    entry("pipe", type_=tarfile.FIFOTYPE),
    directory("n" * 200 + "/" + "m" * 200),
]


@pytest.mark.parametrize("kind", [MediaType.LAYER, MediaType.LAYER_GZIP, MediaType.LAYER_ZSTD])
@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_good_layers(kind: MediaType, format_: int) -> None:
    links = Links()
    check(tar(*GOOD, format_=format_), links, kind=kind)
    check(tar(directory("abs"), entry("abs/x"), format_=format_), links, kind=kind)


@settings(max_examples=40)
@given(SIZES)
def test_pieces_of_any_size(step: int) -> None:
    check(tar(*GOOD), step=step)
    for size in (1023, 1024, 1025):
        data = tar(entry("a", b"x" * 512))[: 512 + size]
        try:
            check(data, step=step)
        except FormatError:
            assert size != 1024 or data[-1024:] != bytes(1024)


LINK = "leads through the link"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([[entry("../x")]], "offset 0x0: path '../x' is empty or leaves the archive's own tree"),
        ([[entry("/x")]], "offset 0x0: path '/x' is empty or leaves the archive's own tree"),
        ([[entry("a/../../x")]], "offset 0x0: path 'a/../../x' is empty or leaves the archive's own tree"),
        ([[hardlink("x", "../y")]], "offset 0x0: path '../y' is empty or leaves the archive's own tree"),
        ([[symlink("a", "/etc"), entry("a/x")]], f"'a/x' {LINK} 'a' -> '/etc' out of the image"),
        ([[symlink("a", "/etc")], [entry("a/x")]], f"'a/x' {LINK} 'a' -> '/etc' out of the image"),
        ([[symlink("a", "..")], [entry("a/x")]], "'a/x' leads through a link out of the image"),
        ([[symlink("a", "b/../../.."), entry("a/x")]], "'a/x' leads through a link out of the image"),
        (
            [[symlink("d/a", "../b"), symlink("b", "/"), entry("d/a/x")]],
            f"'d/a/x' {LINK} 'b' -> '/' out of the image",
        ),
        ([[symlink("a", "b"), symlink("b", "a"), entry("a/x")]], f"'a/x' {LINK} 'a' -> 'b' in a circle"),
        ([[symlink("a", "/etc"), hardlink("x", "a/passwd")]], f"'x' {LINK} 'a' -> '/etc' out of the image"),
        (
            [[symlink("a", "/etc"), hardlink("b", "a"), entry("b/x")]],
            f"'b/x' {LINK} 'b' -> '/etc' out of the image",
        ),
        (
            [[entry("null", type_=tarfile.CHRTYPE)]],
            "'null' is a character device; an application image must have none",
        ),
        (
            [[entry("sda", type_=tarfile.BLKTYPE)]],
            "'sda' is a block device; an application image must have none",
        ),
        ([[entry("a/.wh...")]], "'a/.wh...' would remove a directory above it, not a file"),
        ([[entry("a/.wh..")]], "'a/.wh..' would remove a directory above it, not a file"),
        ([[entry(".wh.")]], "'.wh.' would remove a directory above it, not a file"),
        ([[entry("a\udcff")]], "'a\\udcff' is not UTF-8, which Islet's client needs; rename it"),
        ([[entry("d/" * 2100 + "x")]], f"'{'d/' * 40}'... is longer than 4095 bytes"),
    ],
)
def test_entries_that_lead_outside(layers: list[list[Entry]], message: str) -> None:
    assert complaint(*layers) == f"l: {message}"


def test_a_link_that_was_hidden_is_gone() -> None:
    links = Links()
    check(tar(symlink("d/a", "/etc")), links)
    check(tar(entry("d/.wh.a"), entry("d/a/x")), links)
    assert (links.targets, links.size) == ({}, 0)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_layer, "MAX_LINK_BYTES", 20)
    monkeypatch.setattr(oci_layer, "MAX_ENTRIES", 3)
    check(tar(*(symlink("a" * 10, "b" * 10) for _ in range(3))))
    assert complaint([symlink("a" * 10, "b" * 11)]) == (
        "l: the names of symbolic links take more than 20 bytes"
    )
    assert complaint([entry(str(number)) for number in range(4)]) == "l: more than 3 entries"


def test_archives_made_to_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_layer, "FREE_SIZE", 50_000)
    monkeypatch.setattr(oci_layer, "MAX_RATIO", 200)
    check(tar(entry("a", b"x" * 20_000)), kind=MediaType.LAYER_GZIP)
    for kind in (MediaType.LAYER_GZIP, MediaType.LAYER_ZSTD):
        with pytest.raises(FormatError) as caught:
            check(tar(entry("a", bytes(3_000_000))), kind=kind)
        assert "; damaged, or made to fill the disk" in str(caught.value)


SHORT = "ends without an end-of-archive block (0 bytes are left); truncated"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", f"0x0: {SHORT}"),
        (tar(entry("a"))[:512], f"0x200: {SHORT}"),
        (tar(entry("a"))[:1024], "0x200: a lone zero block; truncated or damaged"),
        (tar(entry("a")) + b"x", "0x2800: bytes follow the end of the archive"),
        (
            b"y" * 512,
            (
                "0x0: checksum field is b'yyyyyyyy', "
                "expected octal digits or a base-256 number that is not negative"
            ),
        ),
    ],
)
def test_archives_that_are_damaged(data: bytes, message: str) -> None:
    for step in (1, 511, 512, 100_000):
        with pytest.raises(FormatError) as caught:
            check(data, step=step)
        assert str(caught.value) == f"l: offset {message}"


@pytest.mark.parametrize("step", [100, 512, 5000])
def test_a_truncated_file(step: int) -> None:
    with pytest.raises(FormatError) as caught:
        check(tar(entry("a", b"x" * 600))[:1100], step=step)
    assert str(caught.value).endswith("; truncated")
