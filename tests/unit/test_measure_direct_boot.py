from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError
from recipes.machine.stage0 import Stage0Chipset
from recipes.measure.direct_boot import (
    HEADER_END,
    LinuxKernel,
    below_4g,
    initrd_address,
    patched_setup,
)
from recipes.units import GIB, MIB
from tests.unit.bzimages import bzimage

Q35, MICROVM = Stage0Chipset.Q35, Stage0Chipset.MICROVM


def parse(data: bytes) -> LinuxKernel:
    return LinuxKernel.parse(data[:HEADER_END], len(data), "vmlinuz")


def test_header() -> None:
    data = bzimage(setup_sects=7, initrd_max=0x1234_5678, xloadflags=0x2)
    assert parse(data) == LinuxKernel(
        name="vmlinuz",
        size=len(data),
        setup_size=8 * 512,
        protocol=0x20F,
        initrd_max=0x1234_5678,
        above_4g=True,
    )
    assert parse(bzimage(setup_sects=0)).setup_size == 5 * 512
    assert not parse(bzimage(xloadflags=0x40)).above_4g
    assert not parse(bzimage(protocol=0x20B)).above_4g


BAD = [
    (b"", "vmlinuz: 0 bytes are no kernel; the file is truncated, copy it again"),
    (bzimage()[:500], "vmlinuz: 500 bytes are no kernel; the file is truncated, copy it again"),
    (bytes(4096), "vmlinuz: no Linux kernel for x86; give a bzImage (vmlinuz)"),
    (
        b"\x7fELF" + bytes(4096),
        "vmlinuz: an ELF file, QEMU would boot it by another path; give a bzImage (vmlinuz)",
    ),
    (
        bzimage(protocol=0x205),
        (
            "vmlinuz: offset 0x206: boot protocol 2.05, a kernel before Linux 2.6.22; "
            "give one with 2.06 or newer"
        ),
    ),
    (
        bzimage(loadflags=0),
        "vmlinuz: offset 0x211: a zImage, which is loaded below 1 MiB; give a bzImage",
    ),
    (
        bzimage()[:2559],
        (
            "vmlinuz: offset 0x1f1: a setup part of 2560 bytes in a file of 2559; the kernel is truncated, "
            "copy it again"
        ),
    ),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_kernels(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("chipset", "memory", "low"),
    [
        (Q35, 1 * GIB, 1 * GIB),
        (Q35, 0xAFFF_E000, 0xAFFF_E000),
        (Q35, 0xB000_0000, 2 * GIB),
        (Q35, 64 * GIB, 2 * GIB),
        (MICROVM, 3 * GIB, 3 * GIB),
        (MICROVM, 64 * GIB, 3 * GIB),
    ],
)
def test_below_4g(chipset: Stage0Chipset, memory: int, low: int) -> None:
    assert below_4g(chipset, memory) == low


# From QEMU 10.0, and again from the installed one in tests/tool/test_direct_boot.py.
@pytest.mark.parametrize(
    ("xloadflags", "initrd_max", "memory", "address"),
    [
        (0x0, 0x37FF_FFFF, 8 * GIB, 0x37FF_EFFF & ~0xFFF),
        (0x2, 0x37FF_FFFF, 8 * GIB, (0x8000_0000 - 0x28000 - 1 - 0x1000) & ~0xFFF),
        (0x2, 0x37FF_FFFF, 1 * GIB, (0x4000_0000 - 0x28000 - 1 - 0x1000) & ~0xFFF),
        (0x40, 0x7FFF_FFFF, 1 * GIB, (0x4000_0000 - 0x28000 - 1 - 0x1000) & ~0xFFF),
    ],
)
def test_initrd_address(xloadflags: int, initrd_max: int, memory: int, address: int) -> None:
    kernel = parse(bzimage(xloadflags=xloadflags, initrd_max=initrd_max))
    assert initrd_address(kernel, 0x1000, Q35, memory) == address


@pytest.mark.parametrize(
    ("size", "chipset", "memory", "message"),
    [
        (
            64 * MIB,
            Q35,
            64 * MIB,
            (
                "initrd: 64 MiB do not fit below 0x3fd7fff in a machine with 64 MiB; "
                "give the machine more memory, or a smaller initrd"
            ),
        ),
        (
            1,
            Q35,
            128 << 10,
            (
                "initrd: 1 B do not fit below 0x0 in a machine with 128 KiB; "
                "give the machine more memory, or a smaller initrd"
            ),
        ),
        (
            8 << 10,
            MICROVM,
            8 << 10,
            (
                "initrd: 8 KiB do not fit below 0x1fff in a machine with 8 KiB; "
                "give the machine more memory, or a smaller initrd"
            ),
        ),
    ],
)
def test_initrds_that_do_not_fit(size: int, chipset: Stage0Chipset, memory: int, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        initrd_address(parse(bzimage()), size, chipset, memory)
    assert str(caught.value) == message


def test_patched_setup_changes_what_a_boot_loader_fills_in() -> None:
    setup = bzimage()[:2560]
    found = patched_setup(setup, initrd=(0x7FFC_4000, 0x12345))
    changed = {at: found[at] for at in range(len(setup)) if found[at] != setup[at]}
    fields = {0x210: 1, 0x211: 1, 0x218: 8, 0x224: 2, 0x228: 4}
    assert changed.keys() <= {at + n for at, size in fields.items() for n in range(size)}
    assert (found[0x210], found[0x211]) == (0xB0, 0x81)
    assert found[0x218:0x220].hex() == "0040fc7f45230100"
    assert found[0x224:0x226].hex() == "00fe"
    assert found[0x228:0x22C].hex() == "00000200"


@pytest.mark.parametrize(
    ("cmdline", "mode"),
    [("vga=normal", 0xFFFF), ("vga=ext", 0xFFFE), ("vga=ask", 0xFFFD), ("a=b vga=0x317 c", 0x317)],
)
def test_video_mode(cmdline: str, mode: int) -> None:
    found = patched_setup(bzimage()[:2560], initrd=None, cmdline=cmdline)
    assert int.from_bytes(found[0x1FA:0x1FC], "little") == mode


def test_a_wrong_video_mode() -> None:
    with pytest.raises(MeasureError) as caught:
        patched_setup(bzimage()[:2560], initrd=None, cmdline="quiet vga=vesa x")
    message = "kernel command line: vga=vesa is no video mode; write normal, ext, ask or a number"
    assert str(caught.value) == message


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0x1F0, 0x240), st.integers(0, 255)), max_size=6), st.integers(0, 3000))
def test_mutated_kernels_parse_or_are_refused(changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(bzimage(body=100))
    for place, value in changes:
        data[place] = value
    data = data[: len(data) - size]
    try:
        found = parse(bytes(data))
    except FormatError:
        return
    assert found.setup_size <= len(data)
