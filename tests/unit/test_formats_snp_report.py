from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.snp_report import (
    Policy,
    SigningKey,
    SnpReport,
    Tcb,
    TcbLayout,
    read_report,
    read_tcb,
)
from tests.unit.snp_samples import REAL, real_report, unsigned_report
from tests.unit.tpm2_vectors import mutations

# What the certificates of the same chips say (`openssl x509 -text`), which AMD derives the chips' keys from.
LEVELS = {
    "milan-v2": Tcb(bootloader=3, tee=0, snp=8, microcode=115),
    "milan-v3": Tcb(bootloader=4, tee=0, snp=24, microcode=219),
    "genoa-v5": Tcb(bootloader=10, tee=0, snp=27, microcode=88),
    "turin-v5": Tcb(fmc=0, bootloader=1, tee=0, snp=2, microcode=71),
}


def test_the_structure_has_the_size_of_the_specification() -> None:
    assert SnpReport.SIZE == 0x4A0


@pytest.mark.parametrize("name", REAL)
def test_reports_of_real_processors(name: str) -> None:
    data = real_report(name)
    report = read_report(data, name)
    assert report.pack() == data
    assert report.signed == data[:0x2A0]
    assert report.version == int(name[-1])
    for tcb in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        assert report.tcb(tcb) == LEVELS[name]
    assert report.layout is (TcbLayout.TURIN if name == "turin-v5" else TcbLayout.MILAN_GENOA)
    assert report.flags == Policy.RESERVED_ONE | Policy.SMT
    assert (report.signing_key, report.is_key_masked, report.vmpl) == (SigningKey.VCEK, False, 0)
    assert (report.measurement, report.report_data) == (data[0x90:0xC0], data[0x50:0x90])
    r, s = report.signature
    assert 0 < r < 1 << 384
    assert 0 < s < 1 << 384


def test_what_a_genoa_report_says_besides() -> None:
    """The versions as its maker's own test has them."""
    report = read_report(real_report("genoa-v5"), "report")
    assert (report.committed_major, report.committed_minor, report.committed_build) == (1, 55, 49)
    assert (report.cpuid_family, report.cpuid_model, report.cpuid_stepping) == (0x19, 0x11, 1)
    assert (report.launch_mitigations, report.current_mitigations, report.platform_info) == (11, 11, 0x25)


def test_levels_in_words() -> None:
    assert str(LEVELS["milan-v2"]) == "bootloader=3,tee=0,snp=8,microcode=115"
    assert str(LEVELS["turin-v5"]) == "fmc=0,bootloader=1,tee=0,snp=2,microcode=71"


def test_signing_keys() -> None:
    for number, kind in ((0, SigningKey.VCEK), (1, SigningKey.VLEK), (7, SigningKey.NONE)):
        report = read_report(unsigned_report(key_info=number << 2 | 1), "report")
        assert (report.signing_key, report.is_key_masked) == (kind, False)
    assert read_report(unsigned_report(key_info=2), "report").is_key_masked


def at(offset: int, value: int, name: str = "milan-v2") -> Callable[[], bytes]:
    """A real report with one byte changed."""

    def change() -> bytes:
        data = bytearray(real_report(name))
        data[offset] = value
        return bytes(data)

    return change


TAIL = " [AMD 56860 section 7.3]"
RESERVED = "report: offset {:#x}: reserved bytes are not zero, in version {} of the report" + TAIL
BAD: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "report: 0 bytes, a report has 1184" + TAIL),
    (lambda: real_report("milan-v2")[:-1], "report: 1183 bytes, a report has 1184" + TAIL),
    (lambda: real_report("milan-v2") + b"\0", "report: 1185 bytes, a report has 1184" + TAIL),
    *(
        (at(0, version), f"report: offset 0x0: version {version} is not known here, only 2, 3, 5" + TAIL)
        for version in (0, 1, 4, 6)
    ),
    (
        at(0x34, 2),
        "report: offset 0x34: SIGNATURE_ALGO is 2, expected 1 (ECDSA P-384)" + TAIL,
    ),
    (at(0x4C, 1), RESERVED.format(0x4C, 2)),
    (at(0x188, 0x19), RESERVED.format(0x188, 2)),
    (at(0x18A, 1), RESERVED.format(0x18A, 2)),
    (at(0x18B, 1), RESERVED.format(0x18B, 2)),
    (at(0x19F, 1, "genoa-v5"), RESERVED.format(0x18B, 5)),
    (at(0x1EB, 1), RESERVED.format(0x1EB, 2)),
    (at(0x1EF, 1), RESERVED.format(0x1EF, 2)),
    (at(0x1F8, 1, "milan-v3"), RESERVED.format(0x1F8, 3)),
    (at(0x207, 1, "milan-v3"), RESERVED.format(0x200, 3)),
    (at(0x29F, 1, "genoa-v5"), RESERVED.format(0x208, 5)),
    (at(0x330, 1), RESERVED.format(0x330, 2)),
    (at(0x49F, 1), RESERVED.format(0x330, 2)),
    (at(0x0A, 1), "report: offset 0x8: POLICY 0x10000 lacks bit 17, which is always one" + TAIL),
    (at(0x0B, 4), "report: offset 0x8: POLICY 0x4030000 has reserved bits 0x4000000" + TAIL),
    (
        at(0x0F, 0x80),
        "report: offset 0x8: POLICY 0x8000000000030000 has reserved bits 0x8000000000000000" + TAIL,
    ),
    (at(0x48, 0x20), "report: offset 0x48: key bits 0x20 have reserved ones" + TAIL),
    (at(0x48, 2 << 2), "report: offset 0x48: SIGNING_KEY 2 is reserved" + TAIL),
    (
        at(0x188, 0x17, "genoa-v5"),
        "report: offset 0x188: family 0x17 of the processor is not known here, only 0x19 and 0x1a" + TAIL,
    ),
    (
        at(0x3A, 1),
        "report: offset 0x38: CURRENT_TCB 0300010000000873 has reserved bytes that are not zero, "
        "as Milan or Genoa has it" + TAIL,
    ),
    (
        at(0x1F6, 1, "turin-v5"),
        "report: offset 0x1f0: LAUNCH_TCB 0001000200000147 has reserved bytes that are not zero, "
        "as Turin has it" + TAIL,
    ),
]


@pytest.mark.parametrize(("make", "error"), BAD)
def test_reports_that_are_not_understood(make: Callable[[], bytes], error: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_report(make(), "report")
    assert str(caught.value) == error


def test_a_tcb_of_another_size() -> None:
    with pytest.raises(FormatError, match=r"tcb: 7 bytes, a TCB_VERSION has 8 \[AMD 56860 section 2\.2\]"):
        read_tcb(bytes(7), TcbLayout.TURIN, "tcb")


@settings(max_examples=150)
@given(data=mutations(*map(real_report, REAL)))
def test_whatever_the_bytes_are(data: bytes) -> None:
    try:
        report = read_report(data, "report")
    except FormatError:
        return
    assert report.pack() == data
