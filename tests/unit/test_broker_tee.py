"""Reports that vouch for attestation keys.

Four are real, with AMD's own certificates: they show signatures, chains and the layout of patch levels, and
are over no key of ours. The others come from a chip that the tests make, which proves no hardware.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.broker.audit import AuditLog
from recipes.broker.core import Broker
from recipes.broker.policy import VolumeRule
from recipes.broker.protocol import PROTOCOL
from recipes.broker.refusal import RefusedError
from recipes.broker.tee import report_data, verify_report
from recipes.broker.tee_policy import MinimumTcb, TeePolicy, read_measurements
from recipes.broker.tee_roots import TeeRoots, sort_certificates
from recipes.broker.trust import Proof, ReportedKeys
from recipes.errors import FormatError, ImageError, SpecError, VerifyError
from recipes.formats.pss_certificate import read_pem
from recipes.formats.snp_report import Tcb
from recipes.formats.tpm2 import sized
from recipes.formats.tpm2_public import Attribute
from tests.unit.snp_samples import (
    HARDWARE_ID,
    MEASUREMENT,
    NOW,
    REAL,
    VCEK_GUID,
    VLEK_GUID,
    Chip,
    chip,
    chip_extensions,
    issue,
    real_certificate,
    real_report,
    real_roots,
    sign_report,
    table,
    unsigned_report,
)
from tests.unit.test_broker_guest import EVENTS, KEY, PHASE, Guest, Harness, answer, b64, firmware_log

DAY = dt.timedelta(days=1)
GUEST = Guest()
# What the protocol says, computed from its text.
LABEL = b"goldsmith attestation key 2" + bytes(5)
DATA = LABEL + hashlib.sha256(sized(GUEST.public.pack())).digest()
POLICY = TeePolicy(frozenset({MEASUREMENT}))


def roots(pem: bytes) -> TeeRoots:
    return sort_certificates(read_pem(pem, "roots"), "roots")


def verify(
    report: bytes,
    certificates: bytes,
    pem: bytes,
    policy: TeePolicy = POLICY,
    now: dt.datetime = NOW,
) -> Any:
    return verify_report(report, certificates, GUEST.public, roots(pem), policy, now)


def refused(*arguments: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        verify(*arguments, **more)
    return caught.value.status, str(caught.value)


def test_what_a_report_is_over() -> None:
    assert report_data(GUEST.public) == DATA
    assert report_data(Guest().public) != DATA
    said = '"goldsmith attestation key 2" || five zero bytes || SHA-256(ak_public)'
    for words in (said, "the 27 ASCII bytes of that label"):
        assert words in PROTOCOL


def test_a_digest_over_chosen_text_is_no_report_over_the_key() -> None:
    """An SVSM's reports are over SHA-512 of a nonce of the caller's and its manifest: AMD 58019 section 7."""
    one = chip()
    key = sized(GUEST.public.pack())
    for text in (LABEL + key, b"goldsmith attestation key 1" + key, key):
        status, words = refused(one.report(hashlib.sha512(text).digest()), one.table, one.roots)
        assert status == 403
        assert "REPORT_DATA" in words


def test_a_report_over_the_key() -> None:
    one = chip()
    found = verify(one.report(DATA), one.table, one.roots)
    assert (found.measurement, found.report_data) == (MEASUREMENT, DATA)


def only_the_data(name: str) -> str:
    data = real_report(name)
    what = f"it is {data[0x50:0x90].hex()}, for this attestation key it would be {DATA.hex()}"
    return f"report: REPORT_DATA: {what}"


@pytest.mark.parametrize("name", REAL)
def test_real_reports_are_refused_for_their_data_alone(name: str) -> None:
    """They are compared last: signatures, certificates, dates, chip, patch levels and policy are right."""
    report = real_report(name)
    policy = TeePolicy(frozenset({report[0x90:0xC0]}))
    kept = table((VCEK_GUID, real_certificate(name)))
    assert refused(report, kept, real_roots(name), policy) == (403, only_the_data(name))
    # The same with the operator's copy of the certificate.
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(real_certificate(name))
    pem += b"\n-----END CERTIFICATE-----\n"
    assert refused(report, b"", real_roots(name) + pem, policy) == (403, only_the_data(name))


@pytest.mark.parametrize("name", REAL)
def test_real_reports_are_refused_for_other_reasons(name: str) -> None:
    """A byte of every field, AMD's other products, other dates, another chip's certificate."""
    report, kept = real_report(name), table((VCEK_GUID, real_certificate(name)))
    policy = TeePolicy(frozenset({report[0x90:0xC0]}))
    for offset in (0x04, 0x10, 0x20, 0x41, 0x50, 0x8F, 0x90, 0xBF, 0xC0, 0xE0, 0x110, 0x140, 0x160, 0x1E8):
        changed = bytearray(report)
        changed[offset] ^= 1
        said = refused(bytes(changed), kept, real_roots(name), policy)
        assert said == (403, "report: SIGNATURE: the VCEK has not made it")
    for other in {"milan-v2", "genoa-v5", "turin-v5"} - {name}:
        if other[:5] == name[:5]:
            continue
        said = refused(report, kept, real_roots(other), policy)
        what = "report: VCEK: its certificate is signed by no ASK or ASVK of the operator's"
        assert said == (403, what)
    for now in (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2040, 1, 1, tzinfo=dt.UTC)):
        status, words = refused(report, kept, real_roots(name), policy, now)
        assert (status, words[:45]) == (403, "report: VCEK: its certificate is valid from 2")


def test_a_real_certificate_of_another_chip() -> None:
    """Both chips are of the same product, and so is the ASK."""
    report = real_report("milan-v2")
    policy = TeePolicy(frozenset({report[0x90:0xC0]}))
    status, words = refused(
        report, table((VCEK_GUID, real_certificate("milan-v3"))), real_roots("milan"), policy
    )
    assert (status, words[:23]) == (403, "report: CHIP_ID: it is ")
    assert "its certificate is for a3fdc2c64dc299ab" in words


def masked(name: str) -> str:
    return f"report: {name}: no key has signed it; the host has to let its chip's key do so"


HEX = HARDWARE_ID.hex()
TCB = "bootloader=3,tee=0,snp=8,microcode=115"
NO_CERTIFICATE = f"no certificate of it came along, and the operator has none for chip {HEX} at {TCB}"
OTHER_ID = bytes(reversed(HARDWARE_ID))
CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "debugging": (
        {"policy": 0xB0000},
        "report: POLICY: it allows debugging (bit 19): the host may read the guest's memory",
    ),
    "migration": (
        {"policy": 0x70000},
        "report: POLICY: it allows a migration agent (bit 18), which may copy the guest elsewhere",
    ),
    "another level": ({"vmpl": 2}, "report: VMPL: it is 2, expected 0"),
    "the host's own": (
        {"vmpl": 0xFFFFFFFF},
        "report: VMPL: it is 4294967295 (the host asked for the report), expected 0",
    ),
    "another guest": (
        {"measurement": bytes(48)},
        f"report: MEASUREMENT: {'00' * 48} is not in the operator's list",
    ),
    "no key": ({"key_info": 7 << 2}, masked("SIGNING_KEY")),
    "a masked key": ({"key_info": 2}, masked("SIGNING_KEY")),
    "a provider's key": (
        {"key_info": 1 << 2},
        f"report: VLEK: no certificate of it came along, and the operator has none at {TCB}",
    ),
    "another chip": (
        {"chip_id": OTHER_ID},
        f"report: CHIP_ID: it is {OTHER_ID.hex()}, its certificate is for {HEX}",
    ),
    "a masked chip": (
        {"chip_id": bytes(64)},
        "report: CHIP_ID: the host masks it (MASK_CHIP_ID), so that no certificate can be compared",
    ),
    "other firmware": (
        {"reported_tcb": bytes((2, 0, 0, 0, 0, 0, 8, 115))},
        f"report: REPORTED_TCB: it is bootloader=2,tee=0,snp=8,microcode=115, its certificate is for {TCB}",
    ),
    "another product": (
        {"version": 5, "cpuid": b"\x1a\2\1", **dict.fromkeys(("current_tcb", "reported_tcb"), bytes(8))}
        | dict.fromkeys(("committed_tcb", "launch_tcb"), bytes(8)),
        "report: CPUID_FAM_ID: the report is of a Turin processor, its certificate of Milan",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_a_signed_report_must_not_say(name: str) -> None:
    one = chip()
    assert verify(one.report(DATA), one.table, one.roots)
    changes, error = CHANGED[name]
    assert refused(one.report(DATA, **changes), one.table, one.roots) == (403, error)


# Over the same key, and so for whatever somebody else's protocol means by that.
NO_LABEL = hashlib.sha512(sized(GUEST.public.pack())).digest()
REPORT_DATA = "report: REPORT_DATA: it is "
INPUTS: dict[str, tuple[Callable[[], tuple[Any, ...]], int, str]] = {
    "no report": (
        lambda: (b"", chip().table, chip().roots),
        400,
        "report: 0 bytes, a report has 1184",
    ),
    "a report of a later version": (
        lambda: (unsigned_report(version=6), chip().table, chip().roots),
        400,
        "report: offset 0x0: version 6 is not known here, only 2, 3, 5",
    ),
    "no table": (
        lambda: (chip().report(DATA), bytes(23), chip().roots),
        400,
        "report_certificates: offset 0x0: TableEntry needs 24 bytes, 23 are left; the data is truncated",
    ),
    "a table of other certificates": (
        lambda: (chip().report(DATA), table((VCEK_GUID, chip().ask.der)), chip().roots),
        400,
        "report_certificates: lacks the extension product name",
    ),
    "no certificate at all": (
        lambda: (chip().report(DATA), b"", chip().roots),
        403,
        f"report: VCEK: {NO_CERTIFICATE}",
    ),
    "another chain": (
        lambda: (chip().report(DATA), chip().table, real_roots("milan")),
        403,
        "report: VCEK: its certificate is signed by no ASK or ASVK of the operator's",
    ),
    "an ASK of the same name": (
        lambda: (chip().report(DATA), chip().table, impostor().roots),
        403,
        "report: VCEK: its certificate is signed by no ASK or ASVK of the operator's",
    ),
    "a certificate by itself": (
        lambda: (chip().report(DATA), self_made().table, chip().roots),
        403,
        "report: VCEK: its certificate is signed by no ASK or ASVK of the operator's",
    ),
    "a chip that certifies another": (
        lambda: (chip().report(DATA), by_a_chip().table, chip().roots),
        403,
        "report: VCEK: its certificate is signed by no ASK or ASVK of the operator's",
    ),
    "expired": (
        lambda: (chip().report(DATA), chip().with_vcek(days=(-3, -2)).table, chip().roots),
        403,
        "report: VCEK: its certificate is valid from 2025-12-29 to 2025-12-30",
    ),
    "not yet valid": (
        lambda: (chip().report(DATA), chip().with_vcek(days=(1, 2)).table, chip().roots),
        403,
        "report: VCEK: its certificate is valid from 2026-01-02 to 2026-01-03",
    ),
    "an expired ASK": (
        lambda: old("SEV-Milan"),
        403,
        "report: ASK: its certificate is valid from 2025-12-29 to 2025-12-30",
    ),
    "an expired ARK": (
        lambda: old("ARK-Milan"),
        403,
        "report: ARK: its certificate is valid from 2025-12-29 to 2025-12-30",
    ),
    "another key's signature": (
        lambda: (
            sign_report(unsigned_report(report_data=DATA), ec.generate_private_key(ec.SECP384R1())),
            chip().table,
            chip().roots,
        ),
        403,
        "report: SIGNATURE: the VCEK has not made it",
    ),
    "no signature": (
        lambda: (unsigned_report(report_data=DATA), chip().table, chip().roots),
        403,
        "report: SIGNATURE: the VCEK has not made it",
    ),
    "a key on another curve": (
        lambda: (chip().report(DATA), on_p256().table, chip().roots),
        403,
        "report: VCEK: its key is not on P-384",
    ),
    "data of another key": (
        lambda: (chip().report(bytes(64)), chip().table, chip().roots),
        403,
        f"{REPORT_DATA}{'00' * 64}, for this attestation key it would be {DATA.hex()}",
    ),
    "data without the label": (
        lambda: (chip().report(NO_LABEL), chip().table, chip().roots),
        403,
        f"{REPORT_DATA}{NO_LABEL.hex()}, for this attestation key it would be {DATA.hex()}",
    ),
}


def impostor() -> Chip:
    """AMD's names, and keys of somebody else's."""
    ark = issue("ARK-Milan", key=issue("other").key)
    return replace(chip(), ark=ark, ask=issue("SEV-Milan", ark, key=issue("another").key))


def self_made() -> Chip:
    return replace(chip(), vcek=issue("SEV-VCEK", key=issue("x").key, extensions=chip_extensions()))


def by_a_chip() -> Chip:
    """What AMD has certified as a chip's key certifies a key for the same chip."""
    first = issue("SEV-VCEK", chip().ask, key=issue("x").key, extensions=chip_extensions())
    key = ec.generate_private_key(ec.SECP384R1())
    return replace(chip(), vcek=issue("SEV-VCEK", first, key=key, extensions=chip_extensions()))


def on_p256() -> Chip:
    key = ec.generate_private_key(ec.SECP256R1())
    return replace(chip(), vcek=issue("SEV-VCEK", chip().ask, key=key, extensions=chip_extensions()))


def old(name: str) -> tuple[bytes, bytes, bytes]:
    """A chain of which one authority is over."""
    one = chip()
    ark = issue("ARK-Milan", days=(-3, -2) if name == "ARK-Milan" else (-1, 1))
    ask = issue("SEV-Milan", ark, days=(-3, -2) if name == "SEV-Milan" else (-1, 1))
    return one.report(DATA), one.table, ask.pem + ark.pem


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_not_believed(name: str) -> None:
    one = chip()
    assert verify(one.report(DATA), one.table, one.roots)
    make, status, error = INPUTS[name]
    found, words = refused(*make())
    assert (found, words.removesuffix(" [AMD 56860 section 7.3]")) == (status, error)


def test_the_least_patch_levels() -> None:
    one = chip()

    def minimum(*texts: str) -> TeePolicy:
        return replace(POLICY, minimum=tuple(map(MinimumTcb.parse, texts)))

    arguments = one.report(DATA), one.table, one.roots
    for texts in (("Milan:snp=8,microcode=115",), ("Genoa:snp=200", "Milan:bootloader=3")):
        assert verify(*arguments, minimum(*texts))
    said = f"report: REPORTED_TCB: {TCB} is below the minimum snp=9,microcode=116"
    assert refused(*arguments, minimum("Milan:snp=9,tee=0,microcode=116")) == (403, said)
    said = "report: REPORTED_TCB: the operator has named no minimum for Milan"
    assert refused(*arguments, minimum("Turin:snp=1")) == (403, said)
    # The firmware was brought up to date with the guest in it.
    launched = one.report(DATA, launch_tcb=bytes((3, 0, 0, 0, 0, 0, 7, 115)))
    said = "report: LAUNCH_TCB: bootloader=3,tee=0,snp=7,microcode=115 is below the minimum snp=8"
    assert refused(launched, one.table, one.roots, minimum("Milan:snp=8")) == (403, said)
    assert verify(launched, one.table, one.roots, minimum("Milan:snp=7"))


def test_the_least_level_of_turins_first_stage() -> None:
    minimum = MinimumTcb.parse("Turin:fmc=1,snp=3")
    assert minimum.below(Tcb(fmc=0, bootloader=1, tee=0, snp=3, microcode=1)) == "fmc=1"
    assert minimum.below(Tcb(fmc=1, bootloader=1, tee=0, snp=9, microcode=1)) == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("snp=8", "begin it with a product and a colon; known: Genoa, Milan, Turin"),
        ("milan:snp=8", "begin it with a product and a colon; did you mean 'Milan'?"),
        ("Milan:", "Milan has no part ''; known: bootloader, microcode, snp, tee"),
        ("Milan:fmc=1", "Milan has no part 'fmc'; known: bootloader, microcode, snp, tee"),
        ("Milan:micro=1", "Milan has no part 'micro'; did you mean 'microcode'?"),
        ("Milan:snp", "write snp once, with a number up to 255: snp=1"),
        ("Milan:snp=256", "write snp once, with a number up to 255: snp=1"),
        ("Milan:snp=-1", "write snp once, with a number up to 255: snp=1"),
        ("Milan:snp=1,snp=2", "write snp once, with a number up to 255: snp=1"),
    ],
)
def test_minima_that_are_none(text: str, error: str) -> None:
    with pytest.raises(SpecError) as caught:
        MinimumTcb.parse(text)
    assert str(caught.value) == f"minimum TCB {text!r}: {error}"


def test_policies_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="VMPL 4 is not 0 to 3; 0 is the usual one"):
        TeePolicy(frozenset(), vmpl=4)
    twice = tuple(MinimumTcb.parse(text) for text in ("Milan:snp=1", "Milan:tee=1"))
    with pytest.raises(SpecError, match="minimum TCB: Milan is there twice; write its parts in one"):
        TeePolicy(frozenset(), minimum=twice)


def test_another_privilege_level() -> None:
    one = chip()
    policy = replace(POLICY, vmpl=2)
    assert verify(one.report(DATA, vmpl=2), one.table, one.roots, policy)
    said = "report: VMPL: it is 0, expected 2"
    assert refused(one.report(DATA), one.table, one.roots, policy) == (403, said)


def test_a_providers_key() -> None:
    """A VLEK is of no one chip: its certificate has a provider's name, and reports need no CHIP_ID."""
    one = chip()
    asvk = issue("SEV-VLEK-Milan", one.ark, key=issue("asvk").key)
    key = ec.generate_private_key(ec.SECP384R1())
    vlek = issue("SEV-VLEK", asvk, key=key, extensions=chip_extensions(hardware_id=b"", csp="provider"))
    pem = one.ask.pem + asvk.pem + one.ark.pem
    report = sign_report(unsigned_report(report_data=DATA, key_info=1 << 2, chip_id=bytes(64)), key)
    assert verify(report, table((VLEK_GUID, vlek.der), (VCEK_GUID, one.vcek.der)), pem)
    assert verify(report, b"", pem + vlek.pem)
    # A report says itself which kind of key signed it.
    lying = sign_report(unsigned_report(report_data=DATA), key)
    said = refused(lying, table((VLEK_GUID, vlek.der)), pem)
    assert said == (403, f"report: VCEK: {NO_CERTIFICATE}")


def test_a_host_hands_out_an_old_certificate() -> None:
    """It was made for the firmware of before; the operator has the new one."""
    one = chip()
    before = one.with_vcek(levels=(2, 0, 8, 0, 0, 0, 0, 115))
    assert verify(one.report(DATA), before.table, one.roots + one.vcek.pem)
    status, words = refused(one.report(DATA), before.table, one.roots)
    assert (status, words[:22]) == (403, "report: REPORTED_TCB: ")


@settings(max_examples=150)
@given(offset=st.integers(0, 1183), bit=st.integers(0, 7))
def test_every_bit_of_a_report_counts(offset: int, bit: int) -> None:
    one = chip()
    report = bytearray(_REPORT)
    report[offset] ^= 1 << bit
    with pytest.raises(RefusedError) as caught:
        verify_report(bytes(report), one.table, GUEST.public, _ROOTS, POLICY, NOW)
    assert (caught.value.status, caught.value.field) in ((400, "report"), (403, "report"))


@settings(max_examples=150)
@given(offset=st.integers(0, 4095), bit=st.integers(0, 7))
def test_every_bit_of_a_certificate_counts(offset: int, bit: int) -> None:
    one = chip()
    vcek = bytearray(one.vcek.der)
    vcek[offset % len(vcek)] ^= 1 << bit
    with pytest.raises(RefusedError) as caught:
        verify_report(_REPORT, table((VCEK_GUID, bytes(vcek))), GUEST.public, _ROOTS, POLICY, NOW)
    assert caught.value.status in (400, 403)


_REPORT = chip().report(DATA)
_ROOTS = roots(chip().roots)


# The operator's folder and list.


@dataclass(frozen=True)
class Folder:
    """A folder that the operator alone may write."""

    path: Path

    def put(self, name: str, data: bytes) -> Path:
        path = self.path / name
        path.write_bytes(data)
        path.chmod(0o644)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "roots"
    path.mkdir(mode=0o755)
    return Folder(path)


def test_a_folder(folder: Folder) -> None:
    one = chip()
    folder.put("milan.pem", real_roots("milan"))
    folder.put("turin.pem", real_roots("turin"))
    folder.put("ark.pem", one.ark.pem)
    folder.put("ask.pem", b"# words\n" + one.ask.pem)
    folder.put("host-1.pem", one.vcek.pem)
    folder.put("README", b"nothing")
    found = TeeRoots.read(folder.path)
    assert len(found.authorities) == 3
    assert [each.hardware_id for each in found.endorsements] == [HARDWARE_ID]
    assert verify_report(one.report(DATA), b"", GUEST.public, found, POLICY, NOW)


def test_folders_that_do_not_do(folder: Folder) -> None:
    one = chip()
    hint = "put AMD's cert_chain of the product there, as PEM"

    def said(kind: type[ImageError], *files: bytes) -> str:
        for path in folder.path.iterdir():
            path.unlink()
        for number, data in enumerate(files):
            folder.put(f"{number}.pem", data)
        with pytest.raises(kind) as caught:
            TeeRoots.read(folder.path)
        return str(caught.value)

    assert said(ImageError) == f"{folder.path}: no ASK in a PEM file, so no report is believed; {hint}"
    assert said(ImageError, one.ark.pem).endswith(f"no ASK in a PEM file, so no report is believed; {hint}")
    first = folder.path / "0.pem"
    what = f"an authority that no ARK there has signed; {hint}"
    assert said(VerifyError, one.ask.pem) == f"{first}: {what}"
    assert said(VerifyError, one.ask.pem, impostor().ark.pem) == f"{first}: {what}"
    what = f"the VCEK there is signed by no ASK of the folder; {hint}"
    assert said(VerifyError, one.vcek.pem, real_roots("milan")) == f"{first}: {what}"
    what = "a certificate that is neither AMD's authority nor of a key that signs reports; remove it"
    leaf = issue("leaf", one.ask, extensions=())
    assert said(FormatError, leaf.pem, one.roots).startswith(f"{first}: ")
    constraints = chip_extensions()[:1]
    assert said(FormatError, issue("leaf", one.ask, extensions=constraints).pem) == f"{first}: {what}"
    assert said(FormatError, b"nothing").startswith(f"{first}: no certificate in PEM; DER is converted by")
    what = "more than 65536 bytes; keep only AMD's certificates there"
    assert said(FormatError, bytes(65537)) == f"{first}: {what}"
    ask = issue("SEV-Milan", one.ark, key=ec.generate_private_key(ec.SECP384R1()))
    what = "the key of an authority is not RSA; it is none of AMD's"
    assert said(FormatError, ask.pem, one.ark.pem, one.vcek.pem) == f"{first}: {what}"
    with pytest.raises(ImageError, match=rf"none: no folder; make it, and {hint}"):
        TeeRoots.read(folder.path / "none")


def test_files_that_others_may_write(folder: Folder) -> None:
    path = folder.put("milan.pem", chip().roots)
    measurements = folder.put("measurements", MEASUREMENT.hex().encode())
    readers: dict[Path, Callable[[], object]] = {
        folder.path: lambda: TeeRoots.read(folder.path),
        path: lambda: TeeRoots.read(folder.path),
        measurements: lambda: read_measurements(measurements),
    }
    for place, read in readers.items():
        mode = place.stat().st_mode
        place.chmod(mode | 0o020)
        with pytest.raises(ImageError) as caught:
            read()
        what = f"mode {(mode | 0o020) & 0o7777:04o} lets others write; `chmod go-w` it"
        assert str(caught.value) == f"{place}: {what}, and look whom it makes the broker believe"
        place.chmod(mode)
    assert TeeRoots.read(folder.path)


def test_measurements(folder: Folder) -> None:
    other = "ab" * 48
    path = folder.put("m", f"# release 1\n\n{MEASUREMENT.hex()}  # SVSM\n{other.upper()}\n".encode())
    assert read_measurements(path) == {MEASUREMENT, bytes.fromhex(other)}
    cases: list[tuple[bytes, str]] = [
        (b"", f"{path}: no measurement is in it, so no report is accepted; write one a line"),
        (b"# none\n", f"{path}: no measurement is in it, so no report is accepted; write one a line"),
        (
            b"\n" + b"ab" * 32,
            f"{path}: line 2 is no launch measurement; write its 96 hexadecimal digits",
        ),
        (
            "é".encode(),
            f"{path}: line 1 is no launch measurement; write its 96 hexadecimal digits",
        ),
        (bytes(2**20 + 1), f"{path}: more than 1048576 bytes; write a measurement a line"),
    ]
    for data, error in cases:
        folder.put("m", data)
        with pytest.raises(ImageError) as caught:
            read_measurements(path)
        assert str(caught.value) == error
    with pytest.raises(ImageError, match="none: No such file or directory; name a file of launch measure"):
        read_measurements(folder.path / "none")


# The whole protocol.


def harness(tmp_path: Path) -> Harness:
    found = Harness(tmp_path, trust=ReportedKeys(roots(chip().roots), POLICY))
    found.time.seconds = NOW.timestamp()
    return found


def vouched(found: Harness, challenge: Any, guest: Guest | None = None) -> dict[str, Any]:
    key = sized((guest or found.guest).public.pack())
    data = LABEL + hashlib.sha256(key).digest()
    proof = {"report": b64(chip().report(data)), "report_certificates": b64(chip().table)}
    return found.guest.evidence(challenge) | proof


def test_a_key_is_released(tmp_path: Path) -> None:
    found = harness(tmp_path)
    challenge = found.challenge()
    reply = found.attest(vouched(found, challenge))
    assert found.guest.unwrap(challenge, answer(reply)) == KEY
    assert found.audit[-1]["ak"] == f"snp:{MEASUREMENT.hex()}"


def test_a_report_over_another_key(tmp_path: Path) -> None:
    """The host's software TPM with the right registers, and a report of a good guest."""
    found = harness(tmp_path)
    status, field, reason = found.refused(found.attest(vouched(found, found.challenge(), Guest())))
    assert (status, field, reason[:19]) == (403, "report", "REPORT_DATA: it is ")
    assert "ak" not in found.audit[-1]


def test_right_reports_do_not_make_wrong_registers_right(tmp_path: Path) -> None:
    found = harness(tmp_path)
    events = (*EVENTS, (4, b"another kernel"))
    found.guest = replace(found.guest, events=(*events, (11, PHASE)))
    body = vouched(found, found.challenge()) | {"event_log": b64(firmware_log(events))}
    assert found.refused(found.attest(body))[:2] == (403, "PCR4")


def test_requests_without_a_report(tmp_path: Path) -> None:
    found = harness(tmp_path)
    said = found.refused(found.attest(found.guest.evidence(found.challenge())))
    assert said == (403, "report", "no TEE report vouches for the key; send one with /v1/attest")
    challenge = found.challenge()
    body = {"schema": 1, "session": challenge["session"], "ek_certificates": [b64(b"x")]}
    reply = found.post("/v1/activate", body | {"ak_public": b64(sized(found.guest.public.pack()))})
    said = (403, "ak", "keys are trusted by a TEE report here; go on with /v1/attest")
    assert found.refused(reply) == said


def test_a_key_that_could_sign_anything() -> None:
    public = replace(GUEST.public, attributes=GUEST.public.attributes & ~Attribute.RESTRICTED)
    with pytest.raises(RefusedError) as caught:
        ReportedKeys(_ROOTS, POLICY).admit(public, Proof(report=_REPORT), NOW)
    assert (caught.value.status, caught.value.field) == (403, "ak_public")


def test_rules_may_name_a_measurement(tmp_path: Path) -> None:
    found = harness(tmp_path)
    for allowed, status in ((f"snp:{MEASUREMENT.hex()}", 200), ("snp:" + "00" * 48, 403)):
        rules = (VolumeRule(volume="data", attestation_keys=(allowed,)),)
        found.broker = Broker(
            replace(found.config, rules=rules), AuditLog(found.lines.append), clock=found.time.clock
        )
        assert found.attest(vouched(found, found.challenge())).status == status
    assert found.audit[-1]["field"] == "volume"


def test_dates_are_looked_up_on_the_brokers_clock(tmp_path: Path) -> None:
    found = harness(tmp_path)
    found.time.seconds += (2 * DAY).total_seconds()
    status, field, reason = found.refused(found.attest(vouched(found, found.challenge())))
    assert (status, field) == (403, "report")
    assert reason == "VCEK: its certificate is valid from 2025-12-31 to 2026-01-02"
