from __future__ import annotations

import gzip
import lzma
import struct
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, SpecError
from recipes.formats.kmod import ModuleDirectory, decompress, module_name, read_module, releases
from recipes.formats.kmod_depmod import depmod_files, underscores
from recipes.formats.kmod_index import Entry, read_index, write_index
from recipes.formats.kmod_object import split_softdep
from recipes.formats.tree import FileTree

from .kmod_samples import RELEASE, ROOT, make_module, sample_modules, sample_tree

FUZZ = settings(max_examples=120)
MODULE = sample_modules()["kernel/drivers/gamma.ko"]

# The index of the keys `as` and `at` (values `1` and `2`), laid out by hand from libkmod-index.h.
INDEX = bytes.fromhex(
    "b007f457 00020001 20000036"
    " 00000001 00000005 3100"  # 12: values of `as`: one, priority 5, "1"
    " 00000001 00000000 3200"  # 22: values of `at`: one, priority 0, "2"
    " 7374 4000000c 40000016"  # 32: children s..t; the node of `a`, empty prefix
    " 00000000 00000000 0000 00"  # 42: filler nobody points at
    " 00"
    " 6161 20000020"  # 54: the root: children a..a
)


def test_read_index_by_hand() -> None:
    assert read_index(INDEX) == (Entry("as", "1", 5), Entry("at", "2", 0))


def test_write_index_layout() -> None:
    packed = write_index([Entry("at", "2", 0), Entry("as", "1", 5)])
    assert packed == bytes.fromhex(
        "b007f457 00020001 2000002a"
        " 00000001 00000005 3100"
        " 00000001 00000000 3200"
        " 7374 4000000c 40000016"
        " 6161 20000020"
    )


KEYS = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=0, max_size=12)


@FUZZ
@given(st.lists(st.tuples(KEYS, KEYS, st.integers(0, 2**32 - 1)), max_size=20))
def test_index_round_trip(rows: list[tuple[str, str, int]]) -> None:
    entries = [Entry(*row) for row in rows]
    found = read_index(write_index(entries))
    assert sorted(found, key=repr) == sorted(entries, key=repr)
    assert [entry.key for entry in found] == sorted(entry.key for entry in entries)


BAD_INDEXES = (
    (b"", "kmod index: offset 0x0: 4 bytes are needed, 0 are left; the index is truncated"),
    (bytes(12), "kmod index: offset 0x0: magic is 0x00000000, expected 0xb007f457; this is not a kmod index"),
    (INDEX[:4] + b"\0\3\0\0" + INDEX[8:], "version is 0x00030000, expected 0x00020001"),
    (INDEX[:8] + b"\x20\0\1\0" + INDEX[12:], "node at 0x100 is outside the 60 bytes of the index"),
    (INDEX[:8] + b"\x20\0\0\x36" + INDEX[12:56] + b"\x20\0\0\x36", "node at 0x36 is reached twice"),
    (INDEX[:54] + b"b" + INDEX[55:], "child characters 0x62 to 0x61 are no range below 0x80"),
    (INDEX[:12] + b"\0\0\1\0" + INDEX[16:], "256 values do not fit the 44 bytes that are left"),
    (INDEX[:20] + b"\xff" + INDEX[21:], "is not 7-bit ASCII"),
)


@pytest.mark.parametrize(("data", "message"), BAD_INDEXES)
def test_bad_index(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_index(data)
    assert message in str(caught.value)


@FUZZ
@given(st.integers(0, len(INDEX) * 8 - 1), st.binary(max_size=8))
def test_index_mutations(bit: int, tail: bytes) -> None:
    data = bytearray(INDEX)
    data[bit // 8] ^= 1 << bit % 8
    try:
        read_index(bytes(data) + tail)
        read_index(bytes(data)[: bit // 8])
    except FormatError:
        pass


def test_index_refuses_other_characters() -> None:
    with pytest.raises(FormatError, match="is not 7-bit ASCII"):
        write_index([Entry("straße", "x")])


def test_read_module() -> None:
    info = read_module(sample_modules()["kernel/fs/delta.ko"], "x/delta.ko")
    assert (info.name, info.depends, info.aliases) == ("delta", ("gamma", "alpha_lib"), ("fs-delta",))
    assert (info.soft_before, info.soft_after) == (("beta", "crypto-sum"), ("omega",))
    assert (info.exports, info.needs) == ((), ("gamma_run", "alpha_one"))
    assert read_module(sample_modules()["kernel/crypto/sum-generic.ko"], "sum-generic.ko").exports == (
        "sum_all",
        "beta_extra",
    )


def test_module_names() -> None:
    assert module_name("kernel/fs/dm-mod.ko.xz") == "dm_mod"
    assert [module_name(name) for name in ("modules.dep", ".ko", "a.ko.bz2")] == [None, None, None]
    assert split_softdep("lost pre: a b post: c pre: d") == (("a", "b", "d"), ("c",))
    assert underscores("a-b[c-d]-e") == "a_b[c-d]_e"
    assert underscores("a[b") is underscores("a]b") is None


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        ("", MODULE),
        (".gz", gzip.compress(MODULE, mtime=0)),
        (".xz", lzma.compress(MODULE)),
        (".zst", zstandard.compress(MODULE)),
    ],
)
def test_decompress(suffix: str, packed: bytes) -> None:
    name = f"gamma.ko{suffix}"
    assert decompress(packed, name) == MODULE
    assert read_module(packed, name).exports == ("gamma_run",)
    if suffix:
        with pytest.raises(FormatError):
            decompress(packed[: len(packed) // 2], name)
        with pytest.raises(FormatError, match=r"^gamma.ko\S+: the \w+ stream is damaged"):
            decompress(b"rubbish" + packed, name)


def _with(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


SECTIONS = struct.unpack_from("<Q", MODULE, 40)[0]
BAD_MODULES = (
    (b"", "m.ko: offset 0x0: _ElfHeader needs 64 bytes, 0 are left; the data is truncated"),
    (
        bytes(64),
        "m.ko: ELF identification is 00000000000000, type 0, expected a little-endian ELF64 relocatable file",
    ),
    (
        _with(MODULE, 58, b"\x28\0"),
        "m.ko: offset 0x3a: 6 sections of 40 bytes, names in 5: no usable section table",
    ),
    (
        _with(MODULE, 62, b"\6\0"),
        "m.ko: offset 0x3a: 6 sections of 64 bytes, names in 6: no usable section table",
    ),
    (_with(MODULE, 40, b"\xff" * 8), "_Section needs 64 bytes, 0 are left; the data is truncated"),
    (_with(MODULE, SECTIONS + 64 + 32, b"\xff" * 4), "a section of 4294967295 bytes ends after the"),
    (_with(MODULE, SECTIONS + 64, b"\xff\xff"), "string at 0xffff is outside its table of"),
    (_with(MODULE, SECTIONS + 3 * 64 + 32, b"\1"), ".symtab has 1 bytes, expected a multiple of 24"),
)


@pytest.mark.parametrize(("data", "message"), BAD_MODULES)
def test_bad_module(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_module(data, "m.ko")
    assert message in str(caught.value)


@FUZZ
@given(st.integers(0, len(MODULE) - 1), st.binary(min_size=1, max_size=8))
def test_module_mutations(at: int, new: bytes) -> None:
    for data in (_with(MODULE, at, new), MODULE[:at], new):
        for name in ("m.ko", "m.ko.gz", "m.ko.xz", "m.ko.zst"):
            with suppress(FormatError):
                read_module(data, name)


def test_closure() -> None:
    directory = ModuleDirectory(sample_tree(), RELEASE)
    names = [path.rpartition("/")[2] for path in directory.closure(["delta", "virtio_pci", "alpha_lib"])]
    assert names == ["beta.ko", "alpha-lib.ko", "sum-generic.ko", "gamma.ko", "delta.ko"]
    assert directory.closure(["alpha-lib"]) == (f"{ROOT}/kernel/lib/alpha-lib.ko",)
    assert directory.closure(["ext4"]) == ()
    assert directory.closure([]) == ()


def test_soft_dependency_of_the_kernel_itself_is_left_out() -> None:
    modules = {"kernel/a.ko": make_module(["softdep=pre: ext-3 ext4 nothing"])}
    assert ModuleDirectory(sample_tree(modules), RELEASE).closure(["a"]) == (f"{ROOT}/kernel/a.ko",)


def test_soft_circles_are_no_problem_but_hard_ones_are() -> None:
    soft = {"a.ko": make_module(["softdep=pre: b"]), "b.ko": make_module(["softdep=pre: a"])}
    assert len(ModuleDirectory(sample_tree(soft), RELEASE).closure(["a"])) == 2
    hard = {"a.ko": make_module(["depends=b"]), "b.ko": make_module(["depends=a"])}
    with pytest.raises(FormatError, match="modules need each other: a -> b -> a"):
        ModuleDirectory(sample_tree(hard), RELEASE).closure(["a"])


def test_long_chain() -> None:
    chain = {f"m{i}.ko": make_module([f"depends=m{i + 1}"] if i < 1500 else []) for i in range(1501)}
    assert len(ModuleDirectory(sample_tree(chain), RELEASE).closure(["m0"])) == 1501


def test_unknown_names() -> None:
    directory = ModuleDirectory(sample_tree(), RELEASE)
    with pytest.raises(SpecError) as caught:
        directory.closure(["gama", "qqq", "beta"])
    assert str(caught.value) == (
        "modules: 6.1.0-test has no module 'gama'; did you mean gamma?\n"
        "modules: 6.1.0-test has no module 'qqq'; `modinfo` names the modules of a kernel"
    )
    with pytest.raises(SpecError, match="no kernel modules here; the tree has these releases: 6"):
        ModuleDirectory(sample_tree(), "6.1.0")
    with pytest.raises(SpecError, match="these releases: none"):
        ModuleDirectory(FileTree(), "6.1.0")
    assert releases(sample_tree()) == (RELEASE,)


def test_missing_dependency() -> None:
    directory = ModuleDirectory(sample_tree({"a.ko": make_module(["depends=gone"])}), RELEASE)
    with pytest.raises(FormatError, match=rf"{ROOT}/a.ko: needs gone, which {ROOT}/ does not have"):
        directory.closure(["a"])


def test_updates_win() -> None:
    modules = {"kernel/a.ko": make_module(), "updates/a.ko": make_module(["alias=new"])}
    assert ModuleDirectory(sample_tree(modules), RELEASE).closure(["a"]) == (f"{ROOT}/updates/a.ko",)


def test_select() -> None:
    tree = sample_tree()
    chosen = ModuleDirectory(tree, RELEASE).select(["gamma"])
    assert (
        chosen[f"{ROOT}/modules.order"].read()
        == b"kernel/lib/beta.ko\nkernel/drivers/gamma.ko\nkernel/lib/alpha-lib.ko\n"
    )
    assert chosen[f"{ROOT}/modules.dep"].read() == (
        b"kernel/lib/beta.ko:\n"
        b"kernel/drivers/gamma.ko: kernel/lib/beta.ko kernel/lib/alpha-lib.ko\n"
        b"kernel/lib/alpha-lib.ko:\n"
    )
    assert chosen[f"{ROOT}/modules.devname"].read().endswith(b"\ngamma gamma c10:235\n")
    assert f"{ROOT}/kernel/fs/delta.ko" not in chosen
    again = ModuleDirectory(tree, RELEASE).select(["alpha-lib", "gamma"])
    assert [(path, node.read()) for path, node in again.sorted()] == [
        (path, node.read()) for path, node in chosen.sorted()
    ]


def test_circles_are_left_out_of_the_index() -> None:
    a = read_module(make_module((), ["in_a"], ["in_b"]), "a.ko")
    b = read_module(make_module((), ["in_b"], ["in_a"]), "b.ko")
    c = read_module(make_module((), (), ["in_a"]), "c.ko")
    files = dict(depmod_files([a, b, c], ["a.ko", "b.ko", "c.ko"], b"", b""))
    assert files["modules.dep"] == b"c.ko:\n"
