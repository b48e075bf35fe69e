"""Ends that belong to a range, and options that reach no parameter: by hand from the specification."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.formats.arm64_image import Arm64Image
from recipes.machine import HostFeatures, KvmtoolMachine
from recipes.measure.kvmtool_layout import place
from recipes.measure.rmm import RecParams
from tests.unit.test_measure_kvmtool import MACHINE, Fold, replay
from tests.unit.test_measure_kvmtool_layout import Sized

MIB = 1 << 20
# 256 MiB of RAM from 0x80000000: the device tree is at 0x8fe00000, 254 MiB behind the kernel's first byte.
ROOM = 254 * MIB


def image(image_size: int) -> Arm64Image:
    return Arm64Image(text_offset=0, image_size=image_size, flags=10)


def test_a_kernel_that_ends_where_the_tree_begins() -> None:
    """kvmtool refuses a tree that begins before the end of the kernel's file."""
    layout = place(MACHINE, Sized("Image", ROOM), image(ROOM))
    assert layout.kernel_end == layout.dtb == 0x8FE0_0000
    with pytest.raises(MeasureError, match=r"^Image: the kernel ends at 0x8fe00001, behind the device tree"):
        place(MACHINE, Sized("Image", ROOM + 1), image(ROOM + 1))


def test_a_bss_that_ends_with_ram() -> None:
    layout = place(MACHINE, Sized("Image", MIB), image(256 * MIB))
    assert layout.kernel_memory_end == layout.ram_end == 0x9000_0000
    with pytest.raises(MeasureError, match=r"^Image: the kernel with its bss needs memory up to 0x90001000"):
        place(MACHINE, Sized("Image", MIB), image(256 * MIB + 1))


def test_an_initramfs_that_begins_where_the_kernel_ends() -> None:
    """Four bytes stay free below the tree, where the size is a multiple of 4."""
    size = ROOM - MIB - 4
    layout = place(MACHINE, Sized("Image", MIB), image(MIB), Sized("initrd", size))
    assert layout.initrd == layout.kernel_end == 0x8010_0000
    with pytest.raises(MeasureError, match=r"^initrd: the initramfs of .* does not fit"):
        place(MACHINE, Sized("Image", MIB), image(MIB), Sized("initrd", size + 4))


@pytest.mark.parametrize(("bss", "covered"), [(MIB, False), (MIB + 1, True)])
def test_an_initramfs_that_begins_where_the_bss_ends(bss: int, covered: bool) -> None:
    layout = place(MACHINE, Sized("Image", 4096), image(bss), Sized("initrd", ROOM - MIB - 4))
    assert layout.initrd == 0x8010_0000
    assert layout.initrd_is_in_bss is covered


def test_a_host_of_just_enough_ipa_bits() -> None:
    """The measurer's realms have 33; a host of 33 has them."""
    assert replay(replace(MACHINE, host=HostFeatures(ipa_bits=33))).rim == replay(MACHINE).rim
    with pytest.raises(MeasureError, match=r"needs 33 IPA bits, the host has 32"):
        replay(replace(MACHINE, host=HostFeatures(ipa_bits=32)))


@pytest.mark.parametrize("profile", ["kvmtool-eac5", "kvmtool-eac5-tf-rmm"])
def test_the_hosts_vectors_are_not_the_realms(profile: str) -> None:
    """Without --sve-vl this kvmtool gives a realm no SVE, whatever the host has."""
    machine: KvmtoolMachine = replace(MACHINE, profile=profile, host=HostFeatures(sve_vl=512))
    assert replay(machine).trace.steps[0].after == Fold(num_bps=2, num_wps=2).rim


def test_a_program_counter_of_65_bits() -> None:
    assert RecParams(pc=(1 << 64) - 1).page()[0x200:0x208] == b"\xff" * 8
    with pytest.raises(MeasureError, match=r"^rec: pc 0x10000000000000000 does not fit 64 bits$"):
        RecParams(pc=1 << 64)
