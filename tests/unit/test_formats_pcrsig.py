from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, VerifyError
from recipes.formats import pcrsig
from recipes.formats.pcrsig import PcrSignature
from tests.unit.tpm2_vectors import FOLDER, mutations

SYSTEMD = (FOLDER / "systemd-measure.json").read_bytes()
KEY = rsa.generate_private_key(65537, 2048)
POLICY = bytes(range(32))


def systemd_key() -> rsa.RSAPublicKey:
    key = load_pem_public_key((FOLDER / "systemd-measure.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def test_what_systemd_measure_signed() -> None:
    entries = pcrsig.parse(SYSTEMD, "pcrsig")
    assert [(entry.bank, entry.registers) for entry in entries] == [("sha256", (11,))] * 4
    assert {entry.fingerprint for entry in entries} == {pcrsig.fingerprint(systemd_key())}
    for entry in entries:
        pcrsig.verify(entry, systemd_key())
    assert pcrsig.render(entries) == SYSTEMD


def test_changes_are_refused() -> None:
    entry = pcrsig.parse(SYSTEMD, "pcrsig")[0]
    other = pcrsig.parse(SYSTEMD, "pcrsig")[1]
    for changed in (replace(entry, policy=other.policy), replace(entry, signature=other.signature)):
        with pytest.raises(VerifyError) as caught:
            pcrsig.verify(changed, systemd_key(), ".pcrsig")
        policy = changed.policy.hex()
        assert str(caught.value) == f".pcrsig: the signature is not the key's over policy {policy}"
    with pytest.raises(VerifyError) as caught:
        pcrsig.verify(entry, KEY.public_key(), ".pcrsig")
    found, own = entry.fingerprint.hex(), pcrsig.fingerprint(KEY.public_key()).hex()
    assert str(caught.value) == f".pcrsig: pkfp is {found}, the key's is {own}; take the key that signed"


def test_signing_is_deterministic() -> None:
    first = pcrsig.sign(KEY, "sha256", [11], POLICY)
    assert pcrsig.sign(KEY, "sha256", [11], POLICY) == first
    pcrsig.verify(first, KEY.public_key())
    assert pcrsig.parse(pcrsig.render([first]), "pcrsig") == (first,)


def test_banks_are_in_one_order() -> None:
    entries = [pcrsig.sign(KEY, bank, [4, 11], POLICY) for bank in ("sha384", "sha256")]
    rendered = pcrsig.render(entries)
    assert rendered == pcrsig.render(entries[::-1])
    assert rendered.startswith(b'{"sha256":[{"pcrs":[4,11],"pkfp":"')
    assert list(json.loads(rendered)) == ["sha256", "sha384"]
    assert pcrsig.render([]) == b"{}\n"


@pytest.mark.parametrize(
    ("bank", "registers", "policy", "message"),
    [
        ("md5", [11], POLICY, "PCR signature: bank 'md5' is not one of sha1, sha256, sha384, sha512"),
        ("sha256", [11], POLICY[:20], "PCR signature: policy of 20 bytes, expected 32"),
        (
            "sha256",
            [],
            POLICY,
            "PCR signature: PCRs (), expected some of 0 to 23, ascending, each once",
        ),
        (
            "sha256",
            [11, 7],
            POLICY,
            "PCR signature: PCRs (11, 7), expected some of 0 to 23, ascending, each once",
        ),
        ("sha256", [24], POLICY, "PCR signature: PCRs (24,), expected some of 0 to 23, ascending, each once"),
    ],
)
def test_what_is_not_signed(bank: str, registers: list[int], policy: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        pcrsig.sign(KEY, bank, registers, policy)
    assert str(caught.value) == message


def test_short_keys_do_not_sign() -> None:
    with pytest.raises(FormatError) as caught:
        pcrsig.sign(rsa.generate_private_key(65537, 1024), "sha256", [11], POLICY)
    assert str(caught.value) == "PCR signature: key of 1024 bits, at least 2048 are needed"


def test_entries_are_there_once() -> None:
    entry = pcrsig.sign(KEY, "sha256", [11], POLICY)
    with pytest.raises(FormatError, match="a policy is there twice"):
        pcrsig.render([entry, entry])
    row = json.loads(SYSTEMD)["sha256"][0]
    with pytest.raises(FormatError, match="a policy is there twice"):
        pcrsig.parse(json.dumps({"sha256": [row, row]}).encode(), "pcrsig")


def document(**changes: Any) -> bytes:
    row = {**json.loads(SYSTEMD)["sha256"][0], **changes}
    return json.dumps({"sha256": [{key: value for key, value in row.items() if value is not None}]}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "pcrsig: no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "pcrsig: it is not ASCII"),
        (b"[]", "pcrsig: not a JSON object"),
        (bytes(300 << 10), "pcrsig: 307200 bytes, at most 262144 are read"),
        (b'{"sha256":[],"sha256":[]}', "pcrsig: no JSON: a key is written twice in one object"),
        (b'{"md5":[]}', "pcrsig: bank 'md5' is not one of sha1, sha256, sha384, sha512"),
        (b'{"\\u001b[2J":[]}', "pcrsig: bank '\\x1b[2J' is not one of sha1, sha256, sha384, sha512"),
        (b'{"sha256":{}}', "pcrsig: 'sha256' is not a list"),
        (b'{"sha256":[7]}', "pcrsig: sha256 1: not a JSON object"),
        (document(pcrs=None), "pcrsig: sha256 1: 'pcrs' is missing"),
        (document(pcrs=11), "pcrsig: sha256 1: 'pcrs' is not a list"),
        (document(pcrs=["11"]), "pcrsig: sha256 1: 'pcrs' holds something that is no number"),
        (document(pcrs=[True]), "pcrsig: sha256 1: 'pcrs' holds something that is no number"),
        (document(pcrs=[11.0]), "pcrsig: sha256 1: 'pcrs' holds something that is no number"),
        (
            document(pcrs=[11, 11]),
            "pcrsig: sha256 1: PCRs (11, 11), expected some of 0 to 23, ascending, each once",
        ),
        (document(pol="00"), "pcrsig: sha256 1: 'pol' is not 64 lower-case hexadecimal digits"),
        (document(pol="AB" * 32), "pcrsig: sha256 1: 'pol' is not 64 lower-case hexadecimal digits"),
        (document(pkfp=7), "pcrsig: sha256 1: 'pkfp' is not a string"),
        (document(sig="AAAA"), "pcrsig: sha256 1: signature of 3 bytes, expected 256 to 512"),
        (document(sig=""), "pcrsig: sha256 1: 'sig' is not base64 in its usual alphabet, padded"),
        (document(sig="AB=="), "pcrsig: sha256 1: 'sig' is not base64 in its usual alphabet, padded"),
        (document(sig="A-_A"), "pcrsig: sha256 1: 'sig' is not base64 in its usual alphabet, padded"),
        (document(sig="\u00e9"), "pcrsig: sha256 1: 'sig' is not base64 in its usual alphabet, padded"),
        (document(nv=1), "pcrsig: sha256 1: 'nv' is unknown; remove it or use a newer version"),
    ],
)
def test_bad_documents(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        pcrsig.parse(data, "pcrsig")
    assert str(caught.value) == message


def test_deep_and_long_documents() -> None:
    for data in (b"[" * 200000, b'{"sha256":' * 20000, b'{"sha256":[{"pcrs":[' + b"9" * 5000 + b"]}]}"):
        with pytest.raises(FormatError):
            pcrsig.parse(data, "pcrsig")


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            PcrSignature,
            bank=st.sampled_from(pcrsig.BANKS),
            registers=st.sets(st.integers(0, 23), min_size=1).map(lambda each: tuple(sorted(each))),
            fingerprint=st.binary(min_size=32, max_size=32),
            policy=st.binary(min_size=32, max_size=32),
            signature=st.binary(min_size=256, max_size=258),
        ),
        max_size=3,
        unique_by=lambda each: each.policy,
    )
)
def test_entries_come_back(entries: list[PcrSignature]) -> None:
    found = pcrsig.parse(pcrsig.render(entries), "pcrsig")
    assert sorted(found, key=repr) == sorted(entries, key=repr)
    assert pcrsig.render(found) == pcrsig.render(entries)


@settings(max_examples=150)
@given(mutations(SYSTEMD[:1000] + b'"}]}', document()))
def test_only_format_errors_come_out(data: bytes) -> None:
    try:
        found = pcrsig.parse(data, "pcrsig")
    except FormatError:
        return
    assert pcrsig.parse(pcrsig.render(found), "pcrsig") == found
