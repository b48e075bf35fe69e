from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from recipes.errors import FormatError
from recipes.formats.pss_certificate import read_certificate
from recipes.formats.snp_certificates import (
    MAX_TABLE,
    is_endorsement,
    read_endorsement,
    read_endorsement_table,
)
from recipes.formats.snp_report import SigningKey, Tcb, read_report
from tests.unit.snp_samples import (
    ASK_GUID,
    HARDWARE_ID,
    REAL,
    VCEK_GUID,
    VLEK_GUID,
    chip,
    issue_vcek,
    real_certificate,
    real_report,
    table,
)
from tests.unit.tpm2_vectors import mutations


@pytest.mark.parametrize("name", REAL)
def test_certificates_of_real_chips_are_for_their_reports(name: str) -> None:
    certificate = read_certificate(real_certificate(name), name)
    assert is_endorsement(certificate)
    found, report = read_endorsement(certificate), read_report(real_report(name), name)
    assert found.product == name.partition("-")[0].capitalize()
    assert found.kind is report.signing_key is SigningKey.VCEK
    assert (found.tcb, found.hardware_id) == (report.tcb("reported_tcb"), report.chip_id)


def endorsement(**changes: Any) -> Any:
    return read_endorsement(read_certificate(issue_vcek(chip().ask, **changes).der, "x"))


def test_other_certificates() -> None:
    assert not is_endorsement(read_certificate(chip().ask.der, "x"))
    found = endorsement(levels=(1, 2, 3, 0, 0, 0, 0, 255))
    assert (found.product, found.hardware_id) == ("Milan", HARDWARE_ID)
    assert found.tcb == Tcb(bootloader=1, tee=2, snp=3, microcode=255)
    found = endorsement(product="Turin", levels=(1, 2, 3, 77, 0, 0, 0, 4), fmc=5, hardware_id=b"\1" * 8)
    assert found.tcb == Tcb(fmc=5, bootloader=1, tee=2, snp=3, microcode=4)
    assert found.hardware_id == b"\1" * 8 + bytes(56)
    found = endorsement(product="Genoa", hardware_id=b"", csp="provider")
    assert (found.kind, found.hardware_id) == (SigningKey.VLEK, b"")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"levels": (3, 0, 8)}, "x: lacks the extension of a reserved level [AMD 57230]"),
    ({"levels": ()}, "x: lacks the extension of a reserved level [AMD 57230]"),
    ({"levels": (3, 0, 8, 1, 0, 0, 0, 1)}, "x: a reserved security patch level is not zero [AMD 57230]"),
    (
        {"product": "Turin", "levels": (3, 0, 8, 0, 1, 0, 0, 1), "fmc": 1},
        "x: a reserved security patch level is not zero [AMD 57230]",
    ),
    ({"product": "Turin"}, "x: lacks the extension fmc [AMD 57230]"),
    ({"levels": (256, 0, 8, 0, 0, 0, 0, 1)}, "x: security patch level bootloader is 256, no byte"),
    ({"hardware_id": b""}, "x: has to name either a chip (VCEK) or a provider (VLEK) [AMD 57230]"),
    ({"csp": "provider"}, "x: has to name either a chip (VCEK) or a provider (VLEK) [AMD 57230]"),
    ({"hardware_id": bytes(63)}, "x: a chip's identity of 63 bytes, expected 64 or 8 [AMD 57230]"),
    ({"product": "Mil\nan"}, "x: product name b'Mil\\nan' is no plain text"),
]


@pytest.mark.parametrize(("changes", "error"), BAD)
def test_certificates_of_no_chip(changes: dict[str, Any], error: str) -> None:
    assert endorsement().product == "Milan"
    with pytest.raises(FormatError) as caught:
        endorsement(**changes)
    assert str(caught.value) == error


def test_a_table() -> None:
    vcek, ask = chip().vcek.der, chip().ask.der
    assert read_endorsement_table(b"", "t") == ()
    assert read_endorsement_table(bytes(24), "t") == ()
    # The kernel rounds up to pages, and what is behind the certificates counts for nothing.
    data = table((ASK_GUID, ask), (VCEK_GUID, vcek), ("00000000-0000-0000-0000-000000000001", b"?"))
    assert [each.encoded for each in read_endorsement_table(data + bytes(4000), "t")] == [vcek]
    data = table((VLEK_GUID, vcek), (VCEK_GUID, vcek))
    assert len(read_endorsement_table(data, "t")) == 2


def put(offset: int, length: int) -> bytes:
    head = bytes.fromhex(ASK_GUID.replace("-", ""))
    return head + offset.to_bytes(4, "little") + length.to_bytes(4, "little") + bytes(24) + bytes(8)


OUT = "t: an entry from {:#x} to {:#x} is in the table or ends behind 0x38 [AMD 56421 section 4.1.8.1]"
BAD_TABLES: list[tuple[Callable[[], bytes], str]] = [
    (lambda: bytes(MAX_TABLE + 1), "t: 16385 bytes; at most 16384 are read"),
    (
        lambda: bytes(23),
        "t: offset 0x0: TableEntry needs 24 bytes, 23 are left; the data is truncated",
    ),
    (
        lambda: put(48, 8)[:24],
        "t: offset 0x18: TableEntry needs 24 bytes, 0 are left; the data is truncated",
    ),
    (lambda: put(0, 0), OUT.format(0, 0)),
    (lambda: put(47, 1), OUT.format(47, 48)),
    (lambda: put(48, 9), OUT.format(48, 57)),
    (lambda: put(0xFFFFFFFF, 0xFFFFFFFF), OUT.format(0xFFFFFFFF, 0x1FFFFFFFE)),
    (lambda: put(48, 8)[:24] * 33, "t: more than 32 entries [AMD 56421 section 4.1.8.1]"),
    (
        lambda: table((VCEK_GUID, b"")),
        "t: offset 0x0: an element needs an identifier and a length; the data is truncated [X.690]",
    ),
]


@pytest.mark.parametrize(("make", "error"), BAD_TABLES)
def test_tables_that_are_none(make: Callable[[], bytes], error: str) -> None:
    assert read_endorsement_table(put(48, 8), "t") == ()
    with pytest.raises(FormatError) as caught:
        read_endorsement_table(make(), "t")
    assert str(caught.value) == error


TABLE = table((ASK_GUID, b"?"), (VCEK_GUID, real_certificate("milan-v3")))


@settings(max_examples=150)
@given(data=mutations(TABLE, TABLE[:100]))
def test_whatever_the_bytes_are(data: bytes) -> None:
    try:
        for each in read_endorsement_table(data, "t"):
            read_endorsement(each)
    except FormatError:
        return


@settings(max_examples=150)
@given(data=mutations(real_certificate("turin-v5")))
def test_whatever_a_certificate_says(data: bytes) -> None:
    try:
        read_endorsement(read_certificate(data, "x"))
    except FormatError:
        return
