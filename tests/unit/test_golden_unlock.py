from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError, VerifyError
from recipes.formats.pcrsig import PcrSignature
from recipes.golden import manifest_reader
from recipes.golden.explain import explain_unlock
from recipes.golden.manifest import GoldenManifest, dump
from recipes.golden.table import render
from recipes.golden.unlock import Rollback, Sealing, UnlockPolicy, boot_digest, register_at_unlock
from recipes.golden.unlock_predict import PolicySigner, check_approved, unlock_policy
from recipes.measure.trace import HashAlgorithm
from tests.support import ROOT
from tests.unit.unlock_samples import events, extended, literal, machine, signed

SIGNER = PolicySigner(name=b"\0\x0b" + bytes(range(32)), fingerprint=bytes(range(100, 132)))
REASON = "b: there is no capture of its ACPI tables; make one with the update task of the image"
MACHINES = (machine("a"), machine("b", omitted={"PCR1": REASON}))


def policy_pcr(values: dict[int, bytes], before: bytes = bytes(32), bank: int = 0x000B) -> bytes:
    """PolicyPCR by hand. Spec: TPM 2.0 Library part 3 section 23.7, part 2 section 10.9.7."""
    bits = sum(1 << index for index in values)
    selection = struct.pack(">IHB", 1, bank, 3) + bits.to_bytes(3, "little")
    joined = b"".join(values[index] for index in sorted(values))
    return hashlib.sha256(before + b"\0\0\1\x7f" + selection + hashlib.sha256(joined).digest()).digest()


def policy_nv(counter: int, release: int) -> bytes:
    """PolicyNV of a written counter, unsigned less or equal, by hand. Spec: part 3 section 23.9."""
    # ownerwrite, counter, ownerread, authread, no_da, written. Spec: part 2 section 13.4.
    attributes = 1 << 1 | 1 << 4 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 29
    public = struct.pack(">IHIHH", counter, 0x000B, attributes, 0, 8)
    name = b"\0\x0b" + hashlib.sha256(public).digest()
    arguments = hashlib.sha256(struct.pack(">QHH", release, 0, 9)).digest()
    return hashlib.sha256(bytes(32) + b"\0\0\1\x49" + arguments + name).digest()


def at_unlock(index: int, name: str = "a", algorithm: str = "sha256") -> bytes:
    phases = [b"enter-initrd"] if index == 11 else []
    return extended(*events(index, name), *phases, algorithm=algorithm)


def manifest(*policies: UnlockPolicy) -> GoldenManifest:
    return GoldenManifest(
        image="i", version="1", artefacts=(), machines=MACHINES, unmeasured=("all",), unlock=policies
    )


SIGNED = unlock_policy("data", signed(), MACHINES, signer=SIGNER)
LIMITED = unlock_policy("data", signed(7, release=3), MACHINES, signer=SIGNER, insecure=["b"])
LITERAL = unlock_policy("data", literal(11, 4, 1), MACHINES)
ALL = manifest(SIGNED, LIMITED, LITERAL)
TEXT = dump(ALL)


def test_names_of_registers_when_volumes_are_opened() -> None:
    assert [register_at_unlock(index) for index in (0, 4, 11)] == ["PCR0", "PCR4", "PCR11:enter-initrd"]


@pytest.mark.parametrize("registers", [(11,), (4, 11), (0, 4, 7, 9, 11, 12)])
@pytest.mark.parametrize(("bank", "number"), [(HashAlgorithm.SHA256, 0x0B), (HashAlgorithm.SHA384, 0x0C)])
def test_digest_by_hand(registers: tuple[int, ...], bank: HashAlgorithm, number: int) -> None:
    values = {index: at_unlock(index, algorithm=bank.value) for index in registers}
    assert boot_digest(machine("a").value, registers, bank=bank) == policy_pcr(values, bank=number)


def test_a_rollback_limit_comes_first() -> None:
    rollback = Rollback(0x01801C00, 3)
    expected = policy_pcr({11: at_unlock(11)}, policy_nv(0x01801C00, 3))
    assert boot_digest(machine("a").value, (11,), rollback=rollback) == expected


def test_a_register_without_a_value() -> None:
    with pytest.raises(MeasureError, match=r"^PCR1: because$"):
        boot_digest(MACHINES[1].value, (1, 11), omitted={"PCR1": "because"})
    with pytest.raises(MeasureError, match=r"^PCR8: no prediction covers it$"):
        boot_digest(MACHINES[1].value, (8, 11))


def test_a_signed_policy() -> None:
    """The sealed digest follows from the key alone, the approved one from the boot."""
    session = hashlib.sha256(bytes(32) + b"\0\0\1\x6a" + SIGNER.name).digest()
    assert SIGNED.approval is not None
    assert SIGNED.approval.sealed == hashlib.sha256(session).digest()
    assert SIGNED.approval.fingerprint == SIGNER.fingerprint
    assert (SIGNED.sealing, SIGNED.registers, SIGNED.phase) == (Sealing.SIGNED, (11,), "enter-initrd")
    expected = policy_pcr({11: at_unlock(11)})
    assert [(item.machine, item.digest) for item in SIGNED.machines] == [("a", expected), ("b", expected)]


def test_nothing_is_signed_for_a_machine_without_secure_boot() -> None:
    first, second = LIMITED.machines
    assert first.digest == policy_pcr({7: at_unlock(7), 11: at_unlock(11)}, policy_nv(0x01801C00, 3))
    assert second.digest is None
    assert second.reason == "it boots without Secure Boot, and such a PCR 7 is never signed"


def test_a_literal_policy() -> None:
    first, second = LITERAL.machines
    assert (LITERAL.sealing, LITERAL.registers, LITERAL.approval) == (Sealing.LITERAL, (1, 4, 11), None)
    assert first.digest == policy_pcr({index: at_unlock(index) for index in (1, 4, 11)})
    assert (second.digest, second.reason) == (None, f"PCR1: {REASON}")


def entry(policy: bytes | None, **changes: Any) -> PcrSignature:
    assert policy is not None
    good = PcrSignature(
        bank="sha256", registers=(11,), fingerprint=SIGNER.fingerprint, policy=policy, signature=b"s"
    )
    return replace(good, **changes)


APPROVED = SIGNED.machines[0].digest


def test_signatures_for_exactly_the_predicted_boots() -> None:
    check_approved(SIGNED, [entry(APPROVED)], "u")
    check_approved(LIMITED, [entry(LIMITED.machines[0].digest, registers=(7, 11))], "u")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], f"policy {(APPROVED or b'').hex()} of machine a is not approved"),
        (
            [entry(APPROVED), entry(bytes(32))],
            f"policy {'00' * 32} is approved, to which no predicted boot leads",
        ),
        ([entry(APPROVED, bank="sha384")], "an entry for sha384:11 is not what the recipe asks for"),
        ([entry(APPROVED, registers=(4,))], "an entry for sha256:4 is not what the recipe asks for"),
        ([entry(APPROVED, fingerprint=bytes(32))], "an entry for sha256:11 is not what the recipe asks for"),
    ],
)
def test_signatures_for_something_else(entries: list[PcrSignature], message: str) -> None:
    with pytest.raises(VerifyError) as caught:
        check_approved(SIGNED, entries, "u.efi .pcrsig")
    assert str(caught.value).startswith(f"u.efi .pcrsig: {message}")
    assert str(caught.value).endswith("; build the UKI again")


def test_a_literal_policy_is_not_signed() -> None:
    with pytest.raises(VerifyError, match=r"^u: data has a literal policy, which nobody signs$"):
        check_approved(LITERAL, [], "u")


def test_the_manifest_survives_its_file() -> None:
    assert manifest_reader.load(TEXT, "golden.json") == ALL
    assert dump(manifest_reader.load(TEXT, "golden.json")) == TEXT


def test_a_manifest_without_policies_has_no_such_key() -> None:
    plain = manifest()
    assert "unlock" not in json.loads(dump(plain))
    assert manifest_reader.load(dump(plain), "golden.json") == plain


def test_what_is_written() -> None:
    first, limited, third = json.loads(TEXT)["unlock"]
    digest = (APPROVED or b"").hex()
    assert SIGNED.approval is not None
    assert first == {
        "volume": "data",
        "provider": "tpm2",
        "kind": "signed",
        "bank": "sha256",
        "registers": [11],
        "phase": "enter-initrd",
        "key": SIGNER.fingerprint.hex(),
        "sealed": SIGNED.approval.sealed.hex(),
        "machines": [{"machine": "a", "digest": digest}, {"machine": "b", "digest": digest}],
    }
    assert limited["rollback"] == {"counter": 0x01801C00, "release": 3}
    assert third["kind"] == "literal"
    assert third["machines"][1] == {"machine": "b", "reason": f"PCR1: {REASON}"}


def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "recipes" / "golden" / "manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_accepts_what_is_written() -> None:
    validator().validate(json.loads(TEXT))


# A change of one policy: number, key, value (None takes it away), what the reader says of it, and whether
# the schema sees it too; what follows from registers is beyond a schema.
CHANGES = [
    (0, "kind", "other", "unlock 1: 'kind' is 'other'; use one of signed, literal", True),
    (0, "kind", "literal", "unlock 1: 'key' is unknown; remove it or use a newer version", True),
    (2, "kind", "signed", "unlock 3: 'key' is missing", True),
    (0, "bank", "md5", "unlock 1: 'bank' is 'md5'; use one of sha1, sha256, sha384, sha512", True),
    (0, "phase", "ready", "unlock 1: 'phase' is 'ready'; volumes are opened in 'enter-initrd'", True),
    (0, "sealed", "00", "unlock 1: 'sealed' is not 64 lower-case hexadecimal digits", True),
    (0, "key", None, "unlock 1: 'key' is missing", True),
    (0, "extra", 1, "unlock 1: 'extra' is unknown; remove it or use a newer version", True),
    *(
        (
            0,
            "registers",
            value,
            "unlock 1: 'registers' is not a list of numbers from 0 to 23, ascending",
            schema,
        )
        for value, schema in (([], True), ([24], True), ([11, 11], True), ([11, 4], False), (["11"], True))
    ),
    (0, "registers", [True], "unlock 1: 'registers' is not a list of numbers from 0 to 23, ascending", True),
    (0, "registers", [8], "unlock 1: a has a digest, but PCR8: no prediction covers it", False),
    (0, "registers", [4], "unlock 1: digest of a is ", False),
    (0, "machines", [], "unlock 1: its machines are not those of the manifest", False),
    (0, "machines", [{"machine": "a"}], "unlock 1: machines 1: 'reason' is missing", True),
    (1, "rollback", {"counter": 5, "release": 1}, "unlock 2: rollback: 'counter' is 0x5, expected 0x0", True),
    (1, "rollback", {"counter": 0x01801C00, "release": 0}, "unlock 2: rollback: 'release' is 0, which", True),
    (1, "rollback", {"counter": 0x01801C00, "release": 4}, "unlock 2: digest of a is ", False),
    (1, "rollback", None, "unlock 2: digest of a is ", False),
]


@pytest.mark.parametrize(("number", "key", "value", "message", "in_schema"), CHANGES)
def test_a_policy_that_is_wrong(number: int, key: str, value: object, message: str, in_schema: bool) -> None:
    document = json.loads(TEXT)
    document["unlock"][number][key] = value
    if value is None:
        del document["unlock"][number][key]
    with pytest.raises(FormatError) as caught:
        manifest_reader.load(json.dumps(document), "golden.json")
    assert str(caught.value).startswith(f"golden.json: {message}")
    assert validator().is_valid(document) is not in_schema


def test_a_digest_that_does_not_follow_is_refused() -> None:
    wrong = TEXT.replace((LITERAL.machines[0].digest or b"").hex(), "00" * 32)
    with pytest.raises(FormatError, match=rf"unlock 3: digest of a is {'00' * 32}, its registers lead to"):
        manifest_reader.load(wrong, "golden.json")


@settings(max_examples=100)
@given(st.data())
def test_damaged_policies_give_format_errors_only(data: st.DataObject) -> None:
    start, end = TEXT.index('"unlock"'), TEXT.index('"name": "a"')
    place = data.draw(st.integers(start, end))
    damaged = TEXT[:place] + data.draw(st.text(max_size=3)) + TEXT[place + data.draw(st.integers(0, 20)) :]
    try:
        manifest_reader.load(damaged, "golden.json")
    except FormatError as error:
        assert str(error).startswith("golden.json")


def test_the_table_shows_every_digest_once() -> None:
    text = render(ALL, colour=False)
    assert SIGNED.approval is not None
    line = next(line for line in text.splitlines() if (APPROVED or b"").hex() in line)
    assert line.split() == [
        *("data", "tpm2", "signed", (APPROVED or b"").hex()),
        *("PCR", "11", "at", "enter-initrd,", "machines", "1-2"),
    ]
    assert text.count((APPROVED or b"").hex()) == 1
    assert f"whatever key {SIGNER.fingerprint.hex()[:16]} has signed" in text
    assert "PCR 7,11 at enter-initrd, counter 0x01801c00 at most 3, machines 1\n" in text
    assert f"data tpm2 sealed  {(LITERAL.machines[0].digest or b'').hex()}  PCR 1,4,11 at" in text
    assert "unlock policy" not in render(manifest(), colour=False)


def test_the_table_says_where_nothing_is_known() -> None:
    blind = replace(LITERAL, machines=tuple(replace(item, digest=None) for item in LITERAL.machines))
    text = render(manifest(blind), colour=False)
    assert "no machine's boot is known to open it" in text


def test_explain_has_a_line_for_each_command() -> None:
    text = explain_unlock([LIMITED, LITERAL], "b")
    assert SIGNED.approval is not None
    assert text.splitlines() == [
        "data: provider tpm2, signed policy",
        "  PolicyNV         counter 0x01801c00 is at most 3",
        "  PolicyPCR        sha256:7,11 at enter-initrd",
        "  not known: it boots without Secure Boot, and such a PCR 7 is never signed",
        f"  PolicyAuthorize  key {SIGNER.fingerprint.hex()} has signed that",
        f"  = {SIGNED.approval.sealed.hex()}, which the key is sealed with",
        "",
        "data: provider tpm2, literal policy",
        "  PolicyPCR        sha256:1,4,11 at enter-initrd",
        f"  not known: PCR1: {REASON}",
    ]
    assert f"  = {(LITERAL.machines[0].digest or b'').hex()}\n" in explain_unlock([LITERAL], "a")
