"""Addresses of section "memory layout" of the RIM specification, worked out by hand from its formulas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.formats.arm64_image import Arm64Image
from recipes.machine import KvmtoolMachine
from recipes.measure.kvmtool_layout import Layout, place

MIB = 1 << 20
MACHINE = KvmtoolMachine(name="m", profile="kvmtool-eac5", vcpus=1, memory=256 * MIB)
REL0 = replace(MACHINE, profile="kvmtool-rel0-islet")
IMAGE = Arm64Image(text_offset=0, image_size=1_310_720, flags=10)


@dataclass(frozen=True)
class Sized:
    """A blob of which only the size matters."""

    name: str
    size: int

    def windows(self) -> Iterator[bytes | memoryview]:
        raise AssertionError("a layout needs no content")


KERNEL = Sized("Image", 1_000_000)


def test_demo() -> None:
    """The recorded launch demo-islet: operations and linux,initrd-start and -end of its device tree."""
    layout = place(MACHINE, KERNEL, IMAGE, Sized("initrd", 500_003))
    assert layout == Layout(
        ram=0x8000_0000,
        ram_end=0x9000_0000,
        kernel=0x8000_0000,
        kernel_end=0x800F_4240,
        kernel_memory_end=0x8014_0000,
        dtb=0x8FE0_0000,
        initrd=0x8FD8_5EDC,
        initrd_end=0x8FDF_FFFF,
    )
    assert layout.tail == (0x800F_5000, 0x8014_0000)
    assert not layout.initrd_is_in_bss


@pytest.mark.parametrize(
    ("memory", "dtb"),
    [
        (16 * MIB, 0x80E0_0000),
        (64 * MIB, 0x83E0_0000),
        (128 * MIB, 0x87E0_0000),
        (250 * MIB, 0x8F80_0000),
        # 0x80000000 + 0xff00c00 - 1 - 0x210000 = 0x8fcf0bff, the next 2 MiB are at 0x8fe00000.
        (261_123 << 10, 0x8FE0_0000),
        (256 * MIB, 0x8FE0_0000),
        (257 * MIB, 0x8FE0_0000),
        (1 << 30, 0x8FE0_0000),
        (1 << 40, 0x8FE0_0000),
        # One byte more than a multiple of 2 MiB and 64 KiB: the limit is the last byte, not the one behind.
        (0x0101_0000, 0x80E0_0000),
        (0x0101_0001, 0x8100_0000 - 0x0020_0000),
        (0x0101_0002, 0x8100_0000),
    ],
)
def test_device_tree_address(memory: int, dtb: int) -> None:
    assert place(replace(MACHINE, memory=memory), KERNEL, IMAGE).dtb == dtb


@pytest.mark.parametrize(
    ("size", "gap"), [(4092, 4), (4093, 3), (4094, 2), (4095, 1), (4096, 4), (4097, 3), (500_003, 1), (1, 3)]
)
def test_gap_below_device_tree(size: int, gap: int) -> None:
    """Where the size is a multiple of 4 there are 4 bytes, else the 1 to 3 that the size lacks to one."""
    layout = place(MACHINE, KERNEL, IMAGE, Sized("initrd", size))
    assert layout.initrd_end == layout.dtb - gap
    assert layout.initrd is not None
    assert layout.initrd % 4 == 0


@pytest.mark.parametrize(
    ("header", "kernel", "tail"),
    [
        # kernel-a to kernel-f and kernel-raw of the recorded inputs; text_offset and image_size as there.
        (Arm64Image(text_offset=0x80000, image_size=299_000, flags=10), 300_001, (0x8008_0000, None)),
        (Arm64Image(text_offset=0, image_size=0, flags=10), 200_000, (0x8008_0000, None)),
        (
            Arm64Image(text_offset=524_800, image_size=180_000, flags=10),
            100_001,
            # 0x80080200 + 100001 = 0x800988a1; 0x80080200 + 180000 = 0x800ac120
            (0x8008_0200, (0x8009_9000, 0x800A_D000)),
        ),
        (
            Arm64Image(text_offset=0, image_size=8_388_608, flags=10),
            1_500_000,
            (0x8000_0000, (0x8016_F000, 0x8080_0000)),
        ),
        (None, 150_000, (0x8008_0000, None)),
    ],
)
def test_kernel(header: Arm64Image | None, kernel: int, tail: tuple[int, tuple[int, int] | None]) -> None:
    layout = place(MACHINE, Sized("Image", kernel), header)
    start, bss = tail
    assert layout.kernel == start
    assert layout.kernel_end == start + kernel
    if bss is None:
        assert layout.tail[0] == layout.tail[1]
    else:
        assert layout.tail == bss


def test_other_ram_base() -> None:
    layout = place(replace(MACHINE, ram_base=0x1_0000_0000), KERNEL, IMAGE, Sized("initrd", 4096))
    assert (layout.kernel, layout.dtb) == (0x1_0000_0000, 0x1_0FE0_0000)
    assert (layout.initrd, layout.initrd_end) == (0x1_0FDF_EFFC, 0x1_0FDF_FFFC)


def test_measurement_log() -> None:
    """It takes the last 64 KiB and moves the limit; here that moves the device tree by 2 MiB."""
    machine = replace(REL0, memory=0x0101_1000)
    assert place(machine, KERNEL, IMAGE).dtb == 0x8100_0000
    layout = place(replace(machine, measurement_log=True), KERNEL, IMAGE)
    assert (layout.log, layout.dtb) == (0x8100_1000, 0x80E0_0000)
    large = place(replace(REL0, measurement_log=True, memory=1 << 30), KERNEL, IMAGE)
    assert (large.log, large.dtb) == (0x8FFF_0000, 0x8FE0_0000)


def test_initramfs_over_bss() -> None:
    """The first dialect looks at the kernel's file alone, the newer one at its memory too."""
    kernel = Sized("Image", 1_500_000)
    header = Arm64Image(text_offset=0, image_size=8_388_608, flags=10)
    initrd = Sized("initrd", 7 * MIB)
    small = replace(MACHINE, memory=16 * MIB)
    layout = place(small, kernel, header, initrd)
    assert layout.initrd == 0x806F_FFFC
    assert layout.initrd_is_in_bss
    assert not layout.dtb_is_in_bss
    with pytest.raises(MeasureError) as caught:
        place(replace(small, profile="kvmtool-rel0-islet"), kernel, header, initrd)
    assert str(caught.value) == (
        "initrd: the initramfs of 7 MiB does not fit between the kernel's end at 0x80800000 and the "
        "device tree at 0x80e00000, 6 MiB apart; give more memory with -m (up to 256 it helps), or a "
        "smaller initramfs"
    )


@pytest.mark.parametrize(("image_size", "inside"), [(0xE0_0000, False), (0xE0_0001, True)])
def test_device_tree_over_bss(image_size: int, inside: bool) -> None:
    """With 16 MiB the tree lies at 0x80e00000; the first dialect looks at the kernel's file alone."""
    header = Arm64Image(text_offset=0, image_size=image_size, flags=10)
    layout = place(replace(MACHINE, memory=16 * MIB), Sized("Image", MIB), header)
    assert layout.dtb == 0x80E0_0000
    assert layout.dtb_is_in_bss is inside


@pytest.mark.parametrize(
    ("machine", "kernel", "header", "initrd", "message"),
    [
        (
            replace(MACHINE, memory=0),
            KERNEL,
            IMAGE,
            None,
            "-m 0: a realm needs memory; give for example -m 256",
        ),
        (
            replace(MACHINE, memory=2 * MIB),
            KERNEL,
            IMAGE,
            None,
            (
                "-m: 0x200000 bytes of memory have no room for the device tree, which alone takes "
                "0x210001; give at least -m 16"
            ),
        ),
        (
            replace(MACHINE, ram_base=0x4000_0000),
            KERNEL,
            IMAGE,
            None,
            (
                "-m: RAM at 0x40000000 would lie among the devices, which end at 0x80000000; give a size "
                "alone, or an address from 0x80000000 on"
            ),
        ),
        (
            replace(MACHINE, ram_base=0x8000_0800),
            KERNEL,
            IMAGE,
            None,
            "-m: RAM at 0x80000800 does not begin with a page; give an address that is a multiple of 4096",
        ),
        (
            replace(MACHINE, memory=3 * MIB),
            Sized("Image", 3 * MIB),
            None,
            None,
            (
                "Image: the kernel ends at 0x80380000, behind the device tree at 0x80200000; give more "
                "memory with -m (up to 256 it helps), or a smaller kernel"
            ),
        ),
        (
            MACHINE,
            Sized("Image", 255 * MIB),
            Arm64Image(text_offset=0, image_size=255 * MIB, flags=0),
            None,
            (
                "Image: the kernel ends at 0x8ff00000, behind the device tree at 0x8fe00000; give a "
                "smaller kernel; more memory does not help, all of it goes below 256 MiB"
            ),
        ),
        (
            MACHINE,
            KERNEL,
            replace(IMAGE, text_offset=1 << 63),
            None,
            (
                "Image: the kernel ends at 0x80000000800f4240, behind the device tree at 0x8fe00000; "
                "give a smaller kernel; more memory does not help, all of it goes below 256 MiB"
            ),
        ),
        (
            MACHINE,
            KERNEL,
            replace(IMAGE, image_size=1 << 63),
            None,
            (
                "Image: the kernel with its bss needs memory up to 0x8000000080000000, RAM ends at "
                "0x90000000; give more memory with -m"
            ),
        ),
        (
            replace(MACHINE, memory=16 * MIB),
            KERNEL,
            IMAGE,
            Sized("initrd", 20 * MIB),
            (
                "initrd: the initramfs of 20 MiB does not fit between the kernel's end at 0x800f4240 and "
                "the device tree at 0x80e00000, 13.0 MiB apart; give more memory with -m (up to 256 it "
                "helps), or a smaller initramfs"
            ),
        ),
        (
            replace(MACHINE, memory=16 * MIB),
            KERNEL,
            IMAGE,
            # One byte behind the kernel's last: 0x80e00000 - 0x800f4244 - 4
            Sized("initrd", 0xD0_BDB8),
            (
                "initrd: the initramfs at 0x800f4244 begins in the last page of the kernel, which ends "
                "at 0x800f4240, and a realm's page is filled once; give more memory with -m (up to 256 "
                "it helps), or a smaller file"
            ),
        ),
        (
            MACHINE,
            KERNEL,
            IMAGE,
            Sized("initrd", 0),
            "initrd: the initramfs is empty; give a file with content, or no -i",
        ),
    ],
)
def test_refused(
    machine: KvmtoolMachine, kernel: Sized, header: Arm64Image | None, initrd: Sized | None, message: str
) -> None:
    with pytest.raises(MeasureError) as caught:
        place(machine, kernel, header, initrd)
    assert str(caught.value) == message


@settings(max_examples=150)
@given(
    memory=st.one_of(st.integers(1, 600 * MIB), st.integers(1, 300).map(lambda size: size * MIB)),
    base=st.integers(0x8_0000, 0x20_0000).map(lambda page: page << 12),
    kernel=st.integers(64, 40 * MIB),
    bss=st.integers(0, 20 * MIB),
    offset=st.sampled_from([0, 512, 0x8_0000, 0x20_0000]),
    initrd=st.one_of(st.none(), st.integers(1, 80 * MIB)),
    profile=st.sampled_from(["kvmtool-eac5", "kvmtool-rel0-tf-rmm"]),
    log=st.booleans(),
)
def test_regions_lie_apart(
    memory: int,
    base: int,
    kernel: int,
    bss: int,
    offset: int,
    initrd: int | None,
    profile: str,
    log: bool,
) -> None:
    machine = replace(MACHINE, memory=memory, ram_base=base, profile=profile, measurement_log=log)
    header = Arm64Image(text_offset=offset, image_size=kernel + bss, flags=0)
    blob = None if initrd is None else Sized("i", initrd)
    try:
        layout = place(machine, Sized("k", kernel), header, blob)
    except MeasureError:
        assume(False)
    regions = [(layout.kernel, layout.kernel_end)]
    if layout.initrd is not None:
        assert layout.initrd_end - layout.initrd == initrd
        regions.append((layout.initrd, layout.initrd_end))
    regions.append((layout.dtb, layout.dtb + 0x10000))
    if layout.log is not None:
        regions.append((layout.log, layout.log + 0x10000))
    pages = [(start >> 12, -(-end >> 12)) for start, end in regions]
    assert all(first[1] <= second[0] for first, second in pairwise(pages))
    assert all(base <= start < end <= base + memory for start, end in regions)
    assert layout.dtb % (2 * MIB) == 0
    assert layout.tail[0] <= layout.tail[1] <= base + memory
    # More memory never moves anything down.
    more = place(replace(machine, memory=memory + 2 * MIB), Sized("k", kernel), header, blob)
    assert more.dtb >= layout.dtb
    assert more.kernel == layout.kernel
