from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine.qemu import Accelerator
from recipes.machine.stage0 import Stage0Generation
from recipes.measure.e820 import E820Range, E820Type, memory_map, pack_map, stage0_map
from recipes.units import GIB, KIB, MIB
from tests.unit import stage0_samples as samples

RAM, RESERVED, ACPI = E820Type.RAM, E820Type.RESERVED, E820Type.ACPI
NEWER, OLDER = Stage0Generation.OAK_D6F890B7, Stage0Generation.OAK_55607DD8


def test_what_is_in_the_map_and_why() -> None:
    found = memory_map(samples.machine(memory=4 * GIB))
    assert [(item.address, item.size, item.type, item.source) for item in found] == [
        (0, 2 * GIB, RAM, "-m, below 4 GiB"),
        (0xFEFFC000, 0x4000, RESERVED, "KVM: identity map and TSS"),
        (4 * GIB, 2 * GIB, RAM, "-m, above 4 GiB"),
        (0xFD00000000, 0x300000000, RESERVED, "HyperTransport range of AMD CPUs"),
    ]


@pytest.mark.parametrize(
    ("changes", "kvm", "hypertransport"),
    [
        ({}, True, True),
        ({"accelerator": Accelerator.TCG}, False, True),
        ({"amd": False}, True, False),
        ({"phys_bits": 39}, True, False),
        ({"phys_bits": 40}, True, True),
        ({"type": "microvm"}, True, False),
        ({"type": "pc-q35-7.0"}, True, False),
        ({"type": "pc-q35-4.0.1"}, True, False),
        ({"type": "pc-q35-7.1"}, True, True),
        ({"type": "pc-q35-10.0"}, True, True),
    ],
)
def test_reserved_ranges(changes: dict[str, Any], kvm: bool, hypertransport: bool) -> None:
    found = {item.address for item in memory_map(samples.machine(**changes)) if item.type is RESERVED}
    assert (0xFEFFC000 in found, 0xFD00000000 in found) == (kvm, hypertransport)


BAD = [
    ({"memory": 0}, "memory: 0 bytes are not whole units of 8 KiB, which is what QEMU makes of it; "),
    ({"memory": -8192}, "memory: -8192 bytes are not whole units of 8 KiB, which is what QEMU makes of it; "),
    (
        {"memory": 8_000_001 * KIB},
        "memory: 8192001024 bytes are not whole units of 8 KiB, which is what QEMU makes of it; ",
    ),
    (
        {"memory": 978 * GIB + 8 * KIB},
        (
            "memory: with 978.0 GiB QEMU moves RAM above 1 TiB on AMD CPUs, which is not modelled; "
            "give at most 978 GiB"
        ),
    ),
    (
        {"memory": 600 * GIB, "phys_bits": 39},
        (
            "memory: 600 GiB and what lies behind need more than 39 address bits; "
            "give less, or a CPU with more bits"
        ),
    ),
    (
        {"type": "microvm", "memory": 1 << 60},
        (
            "memory: 1073741824 GiB and what lies behind need more than 52 address bits; "
            "give less, or a CPU with more bits"
        ),
    ),
    ({"phys_bits": 64}, "phys-bits: 64 is not from 36 to 52; give what the CPU has"),
    ({"type": "pc"}, "machine pc: not modelled; use q35, pc-q35-N.M or microvm"),
    (
        {"settings": (("max-ram-below-4g", "1G"),)},
        "machine setting max-ram-below-4g: moves RAM and is not modelled; leave it out",
    ),
    (
        {"settings": (("sgx-epc.0.memdev", "m"),)},
        "machine setting sgx-epc.0.memdev: moves RAM and is not modelled; leave it out",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_machines_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    if message.endswith("; "):
        message += "give a multiple of 8 KiB"
    with pytest.raises(MeasureError) as caught:
        memory_map(samples.machine(**changes))
    assert str(caught.value) == message


def test_much_memory_stays_with_an_old_machine_type_or_another_cpu() -> None:
    for changes in ({"amd": False}, {"type": "pc-q35-7.0"}, {"type": "microvm"}):
        found = memory_map(samples.machine(memory=990 * GIB, **changes))
        assert max(item.end for item in found if item.type is RAM) > 0xF7_0000_0000


def test_no_room_for_tables() -> None:
    machine = samples.insecure(memory=MIB)
    with pytest.raises(MeasureError) as caught:
        stage0_map(memory_map(machine), NEWER)
    message = "memory: stage0 finds no 1 MiB for ACPI tables; give the machine 2 MiB or more"
    assert str(caught.value) == message
    assert [item.type for item in stage0_map(memory_map(machine), OLDER)][:3] == [RAM, ACPI, RESERVED]


@pytest.mark.parametrize(
    ("memory", "high"),
    [
        (2 * MIB, 0x10_0000),
        (16 * MIB, 0xF0_0000),
        (1023 * MIB, 0x3FE0_0000),
        (GIB, 0x3FF0_0000),
        (GIB + 8 * KIB, 0x3FF0_0000),
        (64 * GIB, 0x3FF0_0000),
    ],
)
def test_where_the_tables_go(memory: int, high: int) -> None:
    found = stage0_map(memory_map(samples.insecure(memory=memory)), NEWER)
    assert [(item.address, item.size) for item in found if item.type is ACPI] == [
        (0x8_0000, 0x2_0000),
        (high, MIB),
    ]


def test_the_bytes_of_a_map() -> None:
    assert pack_map(
        [E820Range(0x100000, 0x3FE00000, RAM), E820Range(0xFEFFC000, 0x4000, RESERVED)]
    ).hex() == ("00001000000000000000e03f0000000001000000" + "00c0fffe00000000004000000000000002000000")


# Page by page, for ranges made of whole pages of 64 KiB below 2 MiB.
UNIT, PAGES = 0x1_0000, 32


def painted(ranges: list[tuple[int, int, E820Type]]) -> list[E820Type | None]:
    pages: list[E820Type | None] = [None] * PAGES
    for start, size, kind in ranges:
        for page in range(start, min(start + size, PAGES)):
            pages[page] = kind
    return pages


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, PAGES - 1), st.integers(1, 8), st.sampled_from([RAM, RESERVED, ACPI])),
        max_size=6,
    )
)
def test_edits_are_what_painting_pages_gives(wanted: list[tuple[int, int, E820Type]]) -> None:
    pages = painted(wanted)
    given_ranges = [E820Range(page * UNIT, UNIT, kind) for page, kind in enumerate(pages) if kind is not None]
    found = stage0_map(given_ranges, OLDER)
    expected = list(pages)
    expected[0xA:0xF] = [None] * 5
    expected[0xF] = RESERVED
    expected[0x8:0xA] = [ACPI] * 2
    got: list[E820Type | None] = [None] * PAGES
    for item in found:
        assert item.size > 0
        for page in range(item.address // UNIT, item.end // UNIT):
            assert got[page] is None
            got[page] = item.type
    assert got == expected
    for before, after in pairwise(found):
        assert before.end <= after.address
    # What stage0 puts in is one with what it touches of its own kind.
    for item in found:
        if item.address <= 0xF_0000 < item.end:
            assert not any(other.address == item.end and other.type is item.type for other in found)
