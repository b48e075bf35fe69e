from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, SpecError
from recipes.formats.elf import PROGRAM_LIMIT, Linkage, library_closure, needed, walk
from recipes.formats.tree import BytesPayload, FileTree, Node, NodeType

X86_64, AARCH64 = 62, 183
TRIPLET = "usr/lib/x86_64-linux-gnu"


def elf(
    *libraries: str,
    interpreter: str = "",
    runpath: str = "",
    machine: int = X86_64,
    kind: int = 3,
    base: int = 0x400000,
) -> bytes:
    """A program of nothing but headers, laid out by hand from the System V ABI, mapped at ``base``."""
    strings = b"\0"
    tags = b""
    for tag, name in [(1, library) for library in libraries] + ([(29, runpath)] if runpath else []):
        tags += struct.pack("<QQ", tag, len(strings))
        strings += name.encode() + b"\0"
    interp = interpreter.encode() + b"\0" if interpreter else b""
    count = 2 + bool(interp)
    at = 64 + 56 * count
    tags += struct.pack("<QQQQQQ", 5, base + at + len(interp), 10, len(strings), 0, 0)
    body = interp + strings + tags
    end = at + len(body)
    segments = [(1, 0, base, end), (2, end - len(tags), base + end - len(tags), len(tags))]
    segments += [(3, at, base + at, len(interp))] if interp else []
    headers = b"".join(struct.pack("<IIQQQQQQ", t, 4, o, a, a, s, s, 8) for t, o, a, s in segments)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0x7777, 0, 64, 56, count, 64, 9, 8)
    return head + headers + body


def static(machine: int = X86_64) -> bytes:
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0)


def tree_of(**files: bytes) -> FileTree:
    tree = FileTree()
    for path, data in files.items():
        tree.add_file(path, data, 0o755, source="test")
    return tree


def test_what_a_program_asks_for() -> None:
    data = elf("libb.so.1", "liba.so.2", interpreter="/lib64/ld.so", runpath="/opt/x:$ORIGIN/../y")
    expected = Linkage("/lib64/ld.so", ("libb.so.1", "liba.so.2"), X86_64, ("/opt/x", "$ORIGIN/../y"))
    assert needed(data, "p") == expected


def test_a_static_program_asks_for_nothing() -> None:
    assert needed(static(AARCH64), "p") == Linkage("", (), AARCH64, ())


GOOD = elf("libb.so.1", interpreter="/lib64/ld.so")
DYNAMIC = 64 + 56  # the second program header of GOOD
TAGS = 256  # its dynamic table: DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_NULL


def patched(offset: int, data: bytes) -> bytes:
    return GOOD[:offset] + data + GOOD[offset + len(data) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            (
                "p: offset 0x0: begins with nothing, not with the ident of a little-endian ELF64 file "
                "[System V ABI ELF64]"
            ),
        ),
        (
            b"#!/bin/sh\n" + bytes(64),
            (
                "p: offset 0x0: begins with 23212f62696e2f, not with the ident of a little-endian ELF64 file "
                "[System V ABI ELF64]"
            ),
        ),
        (
            patched(4, b"\x01"),
            (
                "p: offset 0x0: begins with 7f454c46010101, not with the ident of a little-endian ELF64 file "
                "[System V ABI ELF64]"
            ),
        ),
        (
            patched(16, b"\x01\x00"),
            "p: offset 0x10: is of type ET_REL, not a program or a library [System V ABI ELF64]",
        ),
        (
            patched(54, b"\x20\x00"),
            (
                "p: offset 0x20: 3 program headers of 32 bytes at 0x40 do not fit the 320 bytes "
                "[System V ABI ELF64]"
            ),
        ),
        (
            patched(56, b"\xff\x00"),
            (
                "p: offset 0x20: 255 program headers of 56 bytes at 0x40 do not fit the 320 bytes "
                "[System V ABI ELF64]"
            ),
        ),
        (
            patched(DYNAMIC + 32, struct.pack("<Q", 1 << 60)),
            (
                "p: offset 0x100: PT_DYNAMIC of 1152921504606846976 bytes ends behind the file's 320; "
                "it is truncated [System V ABI ELF64]"
            ),
        ),
        (
            patched(DYNAMIC + 32, struct.pack("<Q", 48)),
            "p: the dynamic table of 48 bytes has no end (DT_NULL) [System V ABI ELF64]",
        ),
        (
            patched(TAGS + 16, struct.pack("<Q", 6)),
            "p: the dynamic table names no string table (DT_STRTAB, DT_STRSZ) [System V ABI ELF64]",
        ),
        (
            patched(TAGS + 24, struct.pack("<Q", 5)),
            "p: the string table at address 0x5 is in no loaded segment [System V ABI ELF64]",
        ),
        (
            patched(TAGS + 8, struct.pack("<Q", 0xFFFF)),
            (
                "p: offset 0xffff: a name in the dynamic table is b''; want ASCII text that ends in NUL "
                "[System V ABI ELF64]"
            ),
        ),
        (
            GOOD.replace(b"libb", b"lib\xff"),
            (
                "p: offset 0x1: a name in the dynamic table is b'lib\\xff.so.1'; "
                "want ASCII text that ends in NUL [System V ABI ELF64]"
            ),
        ),
    ],
)
def test_bad_bytes(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        needed(data, "p")
    assert str(caught.value) == message


def test_a_file_too_large_for_a_program() -> None:
    with pytest.raises(FormatError) as caught:
        needed(GOOD + bytes(PROGRAM_LIMIT), "p")
    assert (
        str(caught.value) == f"p: is {PROGRAM_LIMIT + 320} bytes, a program of this kind has at most 67108864"
    )


@settings(max_examples=150)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_give_only_format_errors(data: bytes, ident: bool) -> None:
    with contextlib.suppress(FormatError):
        needed((GOOD[:64] if ident else b"") + data, "p")


def test_mutations_give_only_format_errors() -> None:
    randomness = random.Random(5)
    refused = 0
    for _ in range(800):
        data = bytearray(GOOD)
        for _ in range(randomness.randint(1, 4)):
            data[randomness.randrange(len(data))] = randomness.choice(
                (0, 1, 0x7F, 0x80, 0xFF, randomness.randrange(256))
            )
        try:
            needed(
                bytes(data[: randomness.randint(60, len(data))] if randomness.random() < 0.2 else data), "p"
            )
        except FormatError:
            refused += 1
    assert refused > 100


def test_closure_follows_libraries_links_and_the_loader() -> None:
    tree = tree_of(
        **{
            "usr/sbin/tool": elf("liba.so.1", "libc.so.6", interpreter="/lib64/ld.so.2"),
            f"{TRIPLET}/liba.so.1.2": elf("libb.so.1"),
            f"{TRIPLET}/libb.so.1": elf("libc.so.6"),
            f"{TRIPLET}/libc.so.6": elf(),
            f"{TRIPLET}/libunused.so.1": elf(),
            f"{TRIPLET}/ld.so.2": elf(),
        }
    )
    tree.add_symlink(f"{TRIPLET}/liba.so.1", "liba.so.1.2")
    tree.add_symlink("usr/lib64/ld.so.2", "../lib/x86_64-linux-gnu/ld.so.2")
    tree.add_symlink("usr/sbin/alias", "tool")
    assert library_closure(tree, ["sbin/alias"], "x86_64") == (
        f"{TRIPLET}/ld.so.2",
        f"{TRIPLET}/liba.so.1",
        f"{TRIPLET}/liba.so.1.2",
        f"{TRIPLET}/libb.so.1",
        f"{TRIPLET}/libc.so.6",
        "usr/lib64/ld.so.2",
        "usr/sbin/alias",
        "usr/sbin/tool",
    )


def test_closure_of_a_merged_usr_with_its_links() -> None:
    tree = tree_of(**{"usr/bin/tool": elf("liba.so.1"), "usr/lib/liba.so.1": elf()})
    tree.add_symlink("lib", "usr/lib")
    tree.add_symlink("bin", "usr/bin")
    assert library_closure(tree, ["bin/tool"], "x86_64") == ("usr/bin/tool", "usr/lib/liba.so.1")


def test_runpath_comes_before_the_standard_directories() -> None:
    tree = tree_of(
        **{
            "usr/lib/tool/bin": elf("liba.so.1", "libb.so.1", runpath="$ORIGIN/own:/opt/lib"),
            "usr/lib/tool/own/liba.so.1": elf(),
            "opt/lib/libb.so.1": elf(),
            f"{TRIPLET}/liba.so.1": elf(),
        }
    )
    expected = ("opt/lib/libb.so.1", "usr/lib/tool/bin", "usr/lib/tool/own/liba.so.1")
    assert library_closure(tree, ["usr/lib/tool/bin"], "x86_64") == expected


@pytest.mark.parametrize(
    ("files", "architecture", "message"),
    [
        (
            {},
            "x86_64",
            "usr/bin/tool: is in no package of the initramfs; add the package of tool to initramfs.packages",
        ),
        (
            {"usr/bin/tool": elf("liba.so.1")},
            "x86_64",
            (
                "usr/bin/tool: needs liba.so.1, which is in no package of the initramfs; "
                "add the package that has liba.so.1 to initramfs.packages"
            ),
        ),
        (
            {"usr/bin/tool": elf(interpreter="/lib64/ld.so.2")},
            "x86_64",
            (
                "usr/bin/tool: needs lib64/ld.so.2, which is in no package of the initramfs; "
                "add the package libc6 to initramfs.packages"
            ),
        ),
        (
            {"usr/bin/tool": elf("liba.so.1"), f"{TRIPLET}/liba.so.1": elf(machine=AARCH64)},
            "x86_64",
            (
                f"{TRIPLET}/liba.so.1: is for aarch64, the image is for x86_64; "
                "take the package of the image's architecture"
            ),
        ),
        (
            {"usr/bin/tool": static(machine=8)},
            "aarch64",
            (
                "usr/bin/tool: is for machine 8, the image is for aarch64; "
                "take the package of the image's architecture"
            ),
        ),
        ({}, "mips", "architecture 'mips': unknown; write one of x86_64, aarch64"),
    ],
)
def test_closures_that_cannot_be(files: dict[str, bytes], architecture: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        library_closure(tree_of(**files), ["usr/bin/tool"], architecture)
    assert str(caught.value) == message


def test_a_script_is_no_program() -> None:
    with pytest.raises(FormatError, match=r"^usr/bin/tool: offset 0x0: begins with 23212f"):
        library_closure(tree_of(**{"usr/bin/tool": b"#!/bin/sh\n" + bytes(80)}), ["usr/bin/tool"], "x86_64")


def test_walks_that_lead_nowhere() -> None:
    tree = tree_of(**{"usr/bin/tool": b""})
    tree.add_symlink("usr/bin/loop", "loop")
    tree.add_symlink("round", "round/x")
    tree.add_symlink("usr/bin/dangling", "/none")
    tree.add_symlink("usr/bin/folder", "../bin")
    assert [walk(tree, f"usr/bin/{name}") for name in ("loop", "dangling", "folder", "none")] == [()] * 4
    assert walk(tree, "round/x") == ()
    tree["usr/bin/second"] = Node(type=NodeType.HARDLINK, mode=0o755, target="usr/bin/tool")
    assert walk(tree, "usr/bin/second") == ("usr/bin/second", "usr/bin/tool")
    assert isinstance(tree["usr/bin/tool"].payload, BytesPayload)
