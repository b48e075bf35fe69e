"""The launch of IGVM files: order, types of pages, virtual CPUs, and what is refused."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError
from recipes.machine.sev import SevVmm
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.measure.igvm import first_different_page_of_run
from recipes.measure.trace import Established
from recipes.measure.vmsa import vmsa_page
from tests.unit import igvm_files as igvm
from tests.unit.igvm_launch import image, predict

ONE, TWO, THREE = (bytes([value]) * 4096 for value in (1, 2, 3))
NORMAL, VMSA, UNMEASURED, SECRETS, CPUID = 1, 2, 4, 5, 6
SIGNATURE = CPU_MODELS["EPYC-v4"].eax
START = [igvm.platform(), igvm.policy(0x30000)]


def vmsa(features: int = 1, eip: int = 0xFFFF_FFF0) -> bytes:
    return vmsa_page(SevVmm.QEMU, eip=eip, signature=SIGNATURE, features=features)


BSP = igvm.context(vmsa())


def file(*headers: igvm.Header) -> bytes:
    return igvm.build([*START, *headers])


def fold(*rows: tuple[int, int, bytes | None]) -> bytes:
    """The digest of pages: type, address, content. Spec: AMD 56860 table 67."""
    value = bytes(48)
    for kind, address, content in rows:
        digest = hashlib.sha384(content).digest() if content is not None else bytes(48)
        info = value + digest + struct.pack("<HB5xQ", 0x70, kind, address)
        value = hashlib.sha384(info).digest()
    return value


FIRST = (VMSA, igvm.VMSA_GPA, vmsa())


def test_a_parameter_area_comes_before_pages_that_are_still_gathered() -> None:
    data = file(
        igvm.area(),
        igvm.page(0x1000, ONE),
        igvm.page(0x2000, TWO),
        igvm.insert(0x8000),
        igvm.page(0x3000, THREE),
        BSP,
    )
    rows = [(UNMEASURED, 0x8000, None), (NORMAL, 0x1000, ONE), (NORMAL, 0x2000, TWO), (NORMAL, 0x3000, THREE)]
    prediction = predict(data)
    assert prediction.digest == fold(*rows, FIRST)
    assert prediction.established is Established.SPEC_ONLY
    assert "parameter areas come before pages that QEMU still gathers" in prediction.notes[0]
    found = [(step.operation, step.address, step.count, step.source) for step in prediction.trace.steps]
    assert found == [
        ("UNMEASURED", 0x8000, 1, "F.igvm directive 3"),
        ("NORMAL", 0x1000, 2, "F.igvm directives 1 to 2"),
        ("NORMAL", 0x3000, 1, "F.igvm directive 4"),
        ("VMSA", igvm.VMSA_GPA, 1, "F.igvm directive 5"),
    ]


def test_pages_that_are_done_stay_before_a_parameter_area() -> None:
    """The page before the last is not gathered any more when the area comes."""
    data = file(igvm.area(), igvm.page(0, ONE), igvm.page(0x9000, TWO), igvm.insert(0x8000), BSP)
    rows = [(NORMAL, 0, ONE), (UNMEASURED, 0x8000, None), (NORMAL, 0x9000, TWO)]
    assert predict(data).digest == fold(*rows, FIRST)


def test_a_large_parameter_area_is_many_pages() -> None:
    data = file(igvm.area(0, 0x3000), igvm.parameter(0x307), igvm.insert(0x8000), BSP)
    rows = [(UNMEASURED, 0x8000 + at, None) for at in (0, 0x1000, 0x2000)]
    assert predict(data).digest == fold(*rows, FIRST)


def test_types_of_pages() -> None:
    data = file(
        igvm.page(0x0),
        igvm.page(0x1000, ONE, flags=igvm.UNMEASURED),
        igvm.page(0x2000, kind=igvm.SECRETS),
        igvm.page(0x3000, ONE, kind=igvm.CPUID),
        igvm.page(0x4000, kind=igvm.CPUID_XF),
        igvm.page(0x5000, TWO, flags=igvm.SHARED),
        igvm.required(0x10_0000, 0x1000),
        BSP,
    )
    rows = [
        (NORMAL, 0x0, bytes(4096)),
        (UNMEASURED, 0x1000, None),
        (SECRETS, 0x2000, None),
        (CPUID, 0x3000, None),
        (CPUID, 0x4000, None),
        (NORMAL, 0x5000, TWO),
    ]
    prediction = predict(data)
    assert prediction.digest == fold(*rows, FIRST)
    (note,) = prediction.notes
    for rule in ("marked as unmeasured", "without data", "marked as shared"):
        assert rule in note


def test_all_vcpus_have_the_features_of_the_first() -> None:
    other = igvm.context(vmsa(features=1, eip=0x8000_1000), 1)
    data = file(igvm.page(0, ONE), igvm.context(vmsa(features=0x21)), other)
    second = vmsa(features=0x21, eip=0x8000_1000)
    rows = [(NORMAL, 0, ONE), (VMSA, igvm.VMSA_GPA, vmsa(features=0x21)), (VMSA, igvm.VMSA_GPA, second)]
    assert image(data).features == 0x21
    prediction = predict(data, vcpus=2, features=0x21)
    assert prediction.digest == fold(*rows)
    assert "all vCPUs have SEV_FEATURES of the first" in prediction.notes[0]


def test_vcpus_beyond_those_of_the_file() -> None:
    data = file(igvm.page(0, ONE), igvm.context(vmsa(eip=0x8000_1000)))
    started = (VMSA, igvm.VMSA_GPA, vmsa(eip=0x8000_1000))
    prediction = predict(data, vcpus=3)
    assert prediction.digest == fold((NORMAL, 0, ONE), started, FIRST, FIRST)
    assert prediction.trace.steps[-1].description == "vCPUs 1 to 2"


def test_the_last_of_two_contexts_counts() -> None:
    data = file(igvm.page(0, ONE), igvm.context(vmsa(eip=0x1000)), BSP)
    assert predict(data).digest == fold((NORMAL, 0, ONE), FIRST)


def test_id_block_and_policy() -> None:
    digest = fold((NORMAL, 0, ONE), FIRST)
    right = file(igvm.page(0, ONE), BSP, igvm.id_block(digest))
    assert predict(right).notes == ()
    assert image(right).policy == 0x30000
    (note,) = predict(file(igvm.page(0, ONE), BSP, igvm.id_block(b"\x42" * 48))).notes
    assert note == (
        f"F.igvm: its ID block is for the digest {'42' * 48}, so the AMD firmware does not start this machine"
    )


def test_the_page_that_moved() -> None:
    before = image(file(*igvm.pages(0, ONE + TWO + ONE), BSP))
    after = image(file(*igvm.pages(0, ONE + TWO + THREE), BSP))
    assert first_different_page_of_run(before, after, 0) == 2
    assert after.directive_of(0, 2) == 2
    assert first_different_page_of_run(before, before, 0) is None
    assert first_different_page_of_run(before, after, 1) is None


def poked(offset: int, value: bytes) -> bytes:
    page = vmsa()
    return page[:offset] + value + page[offset + len(value) :]


AT = "F.igvm: directive 0 (vCPU 0): "
BAD = {
    igvm.build([igvm.platform(0), igvm.page(0)]): (
        "F.igvm: is for NATIVE, not for SEV_SNP; give a file that is"
    ),
    file(igvm.parameter(0x308)): (
        "F.igvm: directive 0 is SRAT, which QEMU does not load; make the file for QEMU"
    ),
    igvm.build([*START, igvm.Header(0x102, "<48s", (b"",))]): (
        "F.igvm: header RELOCATABLE_REGION is none that QEMU loads; make the file for QEMU"
    ),
    file(igvm.Header(0x8000_0309, "<II", (0, 0))): (
        "F.igvm: directive 0 (MADT) may be left out by a loader, and versions of QEMU differ; "
        "make the file without that bit"
    ),
    file(igvm.page(0, flags=1)): (
        "F.igvm: directive 0 is a page of 2 MiB, which is not modelled; make the file of pages of 4096 bytes"
    ),
    file(igvm.area(), igvm.insert(0), igvm.insert(0x1000)): (
        "F.igvm: directive 2 inserts a parameter area again; make the file with another area"
    ),
    file(igvm.id_block(bytes(48)), igvm.id_block(bytes(48))): (
        "F.igvm: directives 0 and 1 are both an ID block, and QEMU does not start so; make the file with one"
    ),
    file(igvm.context(vmsa(), gpa=0x1000)): (
        f"{AT}its VMSA is at 0x1000, and KVM has it at 0xfffffffff000; QEMU does not start so, "
        "make the file for KVM"
    ),
    file(igvm.context(vmsa(features=0))): (
        f"{AT}SEV_FEATURES 0x0 of its VMSA lacks bit 0 (SNP active), and QEMU does not start so; "
        "make the file for SEV-SNP"
    ),
    file(igvm.context(poked(0xCB, b"\x03"))): (
        f"{AT}the byte at 0xcb of its VMSA is not zero, and QEMU does not load it; make the file without it"
    ),
    file(igvm.context(poked(4095, b"\x03"))): (
        f"{AT}the byte at 0xfff of its VMSA is not zero, and QEMU does not load it; make the file without it"
    ),
    file(igvm.context(poked(0xD0, bytes(8)))): (
        f"{AT}its VMSA has no EFER.SVME, which the host sets, so another page is measured; set it in the file"
    ),
    file(igvm.context(poked(0x148, bytes(8)))): (
        f"{AT}its VMSA has no CR4.MCE, which the host sets, so another page is measured; set it in the file"
    ),
    file(igvm.context(poked(0x158, bytes(8)))): (
        f"{AT}its VMSA has no CR0.ET, which the host sets, so another page is measured; set it in the file"
    ),
    file(igvm.context(poked(0x62, b"\x93"))): (
        f"{AT}GDTR of its VMSA has a selector or attributes, which KVM leaves out, so another page is "
        "measured; clear them in the file"
    ),
    file(igvm.context(poked(0x98, b"\x10"))): (
        f"{AT}TR and LDTR of its VMSA have different bases, and QEMU 10.1 gives TR that of LDTR; "
        "make them equal in the file"
    ),
    file(igvm.context(vmsa(), 1)): (
        "F.igvm: describes vCPU 1, the machine has 1 and does not start so; give it at least 2"
    ),
    file(igvm.context(vmsa(features=0x21))): (
        "F.igvm: SEV_FEATURES are 0x21 in its VMSA, and KVM takes them from there; leave out 0x1"
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.items(), ids=[str(n) for n in range(len(BAD))])
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        predict(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("headers", "numbers", "address"),
    [
        ([igvm.page(0x1000, ONE), igvm.page(0x1000, TWO)], (0, 1), 0x1000),
        (
            [igvm.page(0x1000, ONE), igvm.page(0x2000, TWO), igvm.page(0x9000), igvm.page(0x2000)],
            (1, 3),
            0x2000,
        ),
        ([igvm.page(0x3000, ONE), igvm.area(), igvm.insert(0x3000)], (0, 2), 0x3000),
        ([igvm.area(0, 0x3000), igvm.insert(0x1000), igvm.page(0x3000, ONE)], (1, 2), 0x3000),
        (
            [igvm.area(0, 0x2000), igvm.area(1, 0x2000), igvm.insert(0x1000), igvm.insert(0x2000, 1)],
            (2, 3),
            0x2000,
        ),
    ],
)
def test_a_page_that_is_there_twice(
    headers: list[igvm.Header], numbers: tuple[int, int], address: int
) -> None:
    with pytest.raises(MeasureError) as caught:
        predict(file(*headers, BSP))
    what = f"directives {numbers[0]} and {numbers[1]} both fill the page at {address:#x}"
    assert str(caught.value) == f"F.igvm: {what}, and no guest starts so; make the file with each page once"


def test_one_page_on_two_platforms() -> None:
    twice = [igvm.page(0x1000, ONE), igvm.page(0x1000, TWO, mask=2), igvm.page(0x2000, ONE)]
    assert len(predict(file(*twice, BSP)).digest) == 48


def test_too_many_pages() -> None:
    areas = [item for index in range(260) for item in (igvm.area(index, 1 << 24), igvm.insert(0, index))]
    with pytest.raises(MeasureError, match=r"^F\.igvm: more than 1048576 pages are launched; "):
        image(file(*areas))


@settings(max_examples=80)
@given(st.data())
def test_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    blob = bytearray(file(igvm.area(), igvm.page(0, ONE), igvm.page(0x1000), igvm.insert(0x8000), BSP))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(24, 260))] = data.draw(st.integers(0, 255))
    try:
        predict(igvm.seal(bytes(blob)))
    except (FormatError, MeasureError) as error:
        assert str(error).startswith("F.igvm: ")
