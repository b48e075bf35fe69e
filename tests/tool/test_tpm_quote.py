"""Quotes and credentials judged by a TPM: swtpm with tpm2-tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from recipes.errors import VerifyError
from recipes.formats.eventlog import Event, EventLog, EventType, algorithm
from recipes.formats.tpm2 import Alg
from recipes.formats.tpm2_attest import TPM_GENERATED, Attest, AttestType, QuoteInfo, read_attest
from recipes.formats.tpm2_credential import make_credential
from recipes.formats.tpm2_public import (
    Attribute,
    Public,
    Scheme,
    endorsement_public,
    read_public,
    read_sized_public,
    stored_key,
)
from recipes.formats.tpm2_signature import RsaSignature, read_signature, verify_signature
from recipes.measure.quote import (
    Evidence,
    Expectation,
    QuoteError,
    Reason,
    check_attestation_key,
    verify_quote,
)
from recipes.measure.tpm_policy import PcrValue, pcr_digest, pcr_selections
from recipes.measure.trace import HashAlgorithm, digests_of
from recipes.measure.userspace import LogDigest, MeasureLogRecord
from tests.tool.software_tpm import SoftwareTpm

pytestmark = pytest.mark.tool

SHA256 = HashAlgorithm.SHA256
NONCE = bytes(range(32))
# Attestation keys: tpm2_createak's -G, -g and -s, and the endorsement key above each.
KEYS = {
    "rsassa": ("rsa", "sha256", "rsassa"),
    "rsapss": ("rsa", "sha256", "rsapss"),
    "rsassa-sha384": ("rsa", "sha384", "rsassa"),
    "ecdsa": ("ecc", "sha256", "ecdsa"),
    "ecdsa-sha384": ("ecc", "sha384", "ecdsa"),
}
SELECTION = "sha256:4,7,11+sha384:11"
# What firmware measures in this boot, and then userspace: PCR and content.
EVENTS = ((4, b"kernel"), (7, b"Secure Boot"), (11, b".linux"), (11, b"content"), (0, b"firmware"))
PHASE = b"enter-initrd"


@dataclass(frozen=True)
class Boot:
    """A booted TPM with its attestation keys, its logs and what should be expected of it."""

    software: SoftwareTpm
    keys: dict[str, Public]
    log: EventLog
    records: tuple[MeasureLogRecord, ...]
    expectation: Expectation

    def quote(self, key: str, nonce: bytes = NONCE, selection: str = SELECTION) -> Evidence:
        """A quote that the TPM makes now."""
        self.software.run(
            *("tpm2_quote", "-c", f"{key}.ctx", "-l", selection, "-q", nonce.hex()),
            *("-m", "message", "-s", "signature", "-g", KEYS[key][1], "--scheme", KEYS[key][2]),
        )
        return Evidence(self.software.read("message"), self.software.read("signature"))

    def verify(self, evidence: Evidence, key: str = "rsassa", nonce: bytes = NONCE) -> str:
        """The machine that is accepted."""
        return verify_quote(evidence, self.keys[key], nonce, [self.expectation]).machine

    def refused(self, evidence: Evidence, key: str = "rsassa", nonce: bytes = NONCE) -> tuple[Reason, ...]:
        """Why it is not."""
        with pytest.raises(QuoteError) as caught:
            self.verify(evidence, key, nonce)
        return tuple(each.reason for each in caught.value.refusals)


@pytest.fixture(scope="module")
def booted() -> Iterator[Boot]:
    with SoftwareTpm() as software:
        for index, content in (*EVENTS, (11, PHASE)):
            digests = ",".join(f"{kind.value}={digest.hex()}" for kind, digest in digests_of(content).items())
            software.run("tpm2_pcrextend", f"{index}:{digests}")
        for family in ("rsa", "ecc"):
            software.run("tpm2_createek", "-G", family, "-c", f"ek-{family}.ctx", "-u", f"ek-{family}.pub")
        keys = {}
        for name, (family, digest, scheme) in KEYS.items():
            software.run(
                *("tpm2_createak", "-C", f"ek-{family}.ctx", "-c", f"{name}.ctx", "-u", f"{name}.pub"),
                *("-G", family, "-g", digest, "-s", scheme, "-n", f"{name}.name"),
            )
            keys[name] = read_sized_public(software.read(f"{name}.pub"), name)
        yield Boot(software, keys, log(), records(), Expectation("q35", pcr_values(software, SELECTION)))


def log(events: tuple[tuple[int, bytes], ...] = EVENTS) -> EventLog:
    entries = (
        Event(index, EventType.EV_IPL, {k.value: v for k, v in digests_of(content).items()}, content)
        for index, content in events
    )
    return EventLog(tuple(algorithm(kind.value) for kind in HashAlgorithm), tuple(entries))


def records(phase: bytes = PHASE) -> tuple[MeasureLogRecord, ...]:
    digests = tuple(LogDigest(kind.value, digest) for kind, digest in digests_of(phase).items())
    return (MeasureLogRecord(11, digests, phase.decode(), "phase"),)


def pcr_values(software: SoftwareTpm, selection: str) -> tuple[PcrValue, ...]:
    """What the TPM says that PCRs hold."""
    found = []
    for bank in selection.split("+"):
        name, _, indexes = bank.partition(":")
        for index in indexes.split(","):
            software.run("tpm2_pcrread", f"{name}:{index}", "-o", "one")
            found.append(PcrValue(HashAlgorithm(name), int(index), software.read("one")))
    return tuple(found)


@pytest.mark.parametrize("key", KEYS)
def test_names_of_attestation_keys(booted: Boot, key: str) -> None:
    public = booted.keys[key]
    assert public.name == booted.software.read(f"{key}.name")
    assert read_public(public.pack(), key) == public
    check_attestation_key(public)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("with_log", [False, True])
def test_a_good_quote_is_accepted(booted: Boot, key: str, with_log: bool) -> None:
    evidence = booted.quote(key)
    if with_log:
        evidence = replace(evidence, log=booted.log, records=booted.records)
    verified = verify_quote(evidence, booted.keys[key], NONCE, [booted.expectation])
    assert verified.machine == "q35"
    assert verified.attest.extra_data == NONCE
    assert verified.attest.clock.reset_count == 1


@pytest.mark.parametrize("key", KEYS)
def test_tampering_is_refused(booted: Boot, key: str) -> None:
    evidence = booted.quote(key)
    assert booted.verify(evidence, key) == "q35"
    for position in range(len(evidence.attest)):
        changed = bytearray(evidence.attest)
        changed[position] ^= 0x01
        assert booted.refused(replace(evidence, attest=bytes(changed)), key) == (Reason.SIGNATURE,)
    signature = bytearray(evidence.signature)
    signature[-1] ^= 0x01
    assert booted.refused(replace(evidence, signature=bytes(signature)), key) == (Reason.SIGNATURE,)


def test_another_nonce_and_a_replayed_quote_are_refused(booted: Boot) -> None:
    old = booted.quote("rsassa", bytes(32))
    assert booted.verify(old, nonce=bytes(32)) == "q35"
    assert booted.refused(old) == (Reason.NONCE,)
    fresh = booted.quote("rsassa")
    assert booted.verify(fresh) == "q35"
    assert booted.refused(fresh, nonce=NONCE[::-1]) == (Reason.NONCE,)
    assert booted.refused(fresh, nonce=NONCE + b"\0") == (Reason.NONCE,)


@pytest.mark.parametrize(
    "selection",
    ["sha256:4,7,11", "sha384:11+sha256:4,7,11", "sha256:4,7+sha384:11", "sha256:4,7,11+sha384:4,11"],
)
def test_another_selection_is_refused(booted: Boot, selection: str) -> None:
    assert booted.verify(booted.quote("ecdsa"), "ecdsa") == "q35"
    evidence = booted.quote("ecdsa", selection=selection)
    with pytest.raises(QuoteError) as caught:
        booted.verify(evidence, "ecdsa")
    (refusal,) = caught.value.refusals
    assert refusal.reason is Reason.SELECTION
    assert str(refusal) == f"pcrSelect is {selection}, expected {SELECTION}"


def test_nonce_and_selection_are_both_named(booted: Boot) -> None:
    evidence = booted.quote("ecdsa", bytes(20), "sha256:11")
    assert booted.refused(evidence, "ecdsa") == (Reason.NONCE, Reason.SELECTION)


def test_another_attestation_key_is_refused(booted: Boot) -> None:
    """The right PCRs under a key that nobody trusts: a host's own software TPM."""
    booted.software.run("tpm2_createak", "-C", "ek-rsa.ctx", "-c", "other.ctx", "-u", "other.pub")
    other = read_sized_public(booted.software.read("other.pub"), "other")
    evidence = booted.quote("rsassa")
    assert verify_quote(evidence, booted.keys["rsassa"], NONCE, [booted.expectation]).machine == "q35"
    with pytest.raises(QuoteError) as caught:
        verify_quote(evidence, other, NONCE, [booted.expectation])
    assert [each.reason for each in caught.value.refusals] == [Reason.SIGNATURE]
    assert booted.refused(evidence, "ecdsa") == (Reason.SCHEME,)
    assert booted.refused(evidence, "rsapss") == (Reason.SCHEME,)
    assert booted.refused(evidence, "rsassa-sha384") == (Reason.SCHEME,)


def changed_expectation(boot: Boot, index: int) -> Boot:
    values = tuple(
        replace(each, value=bytes(each.algorithm.size)) if each.index == index else each
        for each in boot.expectation.values
    )
    return replace(boot, expectation=Expectation("pc", values))


def test_other_values_are_refused_and_a_log_says_which(booted: Boot) -> None:
    evidence = booted.quote("rsassa")
    logged = replace(evidence, log=booted.log, records=booted.records)
    assert booted.verify(logged) == "q35"
    other = changed_expectation(booted, 11)
    assert other.refused(evidence) == (Reason.PCR_DIGEST,)
    with pytest.raises(QuoteError) as caught:
        other.verify(logged)
    assert [(each.reason, each.field) for each in caught.value.refusals] == [
        (Reason.REGISTER, "PCR11 sha256"),
        (Reason.REGISTER, "PCR11 sha384"),
    ]
    found = booted.expectation.values[2].value.hex()
    assert caught.value.refusals[0].found == found
    assert caught.value.refusals[0].expected == "00" * 32


def test_the_nearest_machine_is_named(booted: Boot) -> None:
    logged = replace(booted.quote("rsassa"), log=booted.log, records=booted.records)
    far, near = changed_expectation(booted, 11).expectation, changed_expectation(booted, 7).expectation
    machines = [far, near, booted.expectation]
    assert verify_quote(logged, booted.keys["rsassa"], NONCE, machines).machine == "q35"
    with pytest.raises(QuoteError) as caught:
        verify_quote(logged, booted.keys["rsassa"], NONCE, machines[:2])
    assert [each.field for each in caught.value.refusals] == ["PCR7 sha256"]


@pytest.mark.parametrize("lie", ["events", "missing", "phase", "no phase", "bank"])
def test_a_log_that_is_not_what_was_quoted_is_refused(booted: Boot, lie: str) -> None:
    evidence = replace(booted.quote("ecdsa"), log=booted.log, records=booted.records)
    assert booted.verify(evidence, "ecdsa") == "q35"
    short = tuple(replace(each, digests={"sha1": each.digests["sha1"]}) for each in booted.log.events)
    lies = {
        "events": replace(evidence, log=log(((4, b"other kernel"), *EVENTS[1:]))),
        "missing": replace(evidence, log=log(EVENTS[1:])),
        "phase": replace(evidence, records=records(b"leave-initrd")),
        "no phase": replace(evidence, records=()),
        "bank": replace(evidence, log=replace(booted.log, events=short)),
    }
    assert booted.refused(lies[lie], "ecdsa") == (Reason.EVENT_LOG,)


def test_a_quote_after_a_further_extend_is_refused() -> None:
    with SoftwareTpm() as software:
        software.run("tpm2_createek", "-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub")
        software.run(
            "tpm2_createak", "-C", "ek.ctx", "-c", "ecdsa.ctx", "-u", "ak.pub", "-G", "ecc", "-s", "ecdsa"
        )
        key = read_sized_public(software.read("ak.pub"), "key")
        expectation = Expectation("q35", pcr_values(software, "sha256:11"))
        boot = Boot(software, {"ecdsa": key}, log(()), (), expectation)
        assert boot.verify(boot.quote("ecdsa", selection="sha256:11"), "ecdsa") == "q35"
        software.run("tpm2_pcrextend", f"11:sha256={'07' * 32}")
        assert boot.refused(boot.quote("ecdsa", selection="sha256:11"), "ecdsa") == (Reason.PCR_DIGEST,)


def test_a_certification_is_no_quote(booted: Boot) -> None:
    """Signed by the right key with the right nonce, but TPM2_Certify."""
    booted.software.run(
        *("tpm2_certify", "-c", "ecdsa.ctx", "-C", "rsassa.ctx", "-g", "sha256"),
        *("-o", "message", "-s", "signature"),
    )
    evidence = Evidence(booted.software.read("message"), booted.software.read("signature"))
    attest = read_attest(evidence.attest, "certification")
    assert (attest.magic, attest.type) == (TPM_GENERATED, AttestType.CERTIFY)
    with pytest.raises(QuoteError) as caught:
        booted.verify(evidence)
    assert str(caught.value) == "quote: type is 0x8017 (CERTIFY), expected 0x8018 (QUOTE)"


def test_a_restricted_key_does_not_sign_made_up_quotes(booted: Boot) -> None:
    """The TPM itself refuses, and so the magic number means something."""
    evidence = booted.quote("rsassa")
    booted.software.write("made-up", evidence.attest)
    sign = ("-c", "rsassa.ctx", "-g", "sha256", "-s", "rsassa", "-o", "signature", "made-up")
    assert booted.software.attempt("tpm2_sign", *sign).returncode != 0


def test_quotes_of_unrestricted_keys_are_refused(booted: Boot) -> None:
    """The TPM signs a made-up quote with such a key; only the key's attributes tell."""
    software = booted.software
    software.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
    create = ("-C", "primary.ctx", "-G", "rsa2048:rsassa-sha256:null", "-u", "free.pub", "-r", "free.priv")
    software.run("tpm2_create", *create, "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
    software.run("tpm2_load", "-C", "primary.ctx", "-u", "free.pub", "-r", "free.priv", "-c", "free.ctx")
    key = read_sized_public(software.read("free.pub"), "key")
    values = booted.expectation.values
    quote = QuoteInfo(pcr_selections(values), pcr_digest(values, SHA256))
    made_up = Attest(type=AttestType.QUOTE, extra_data=NONCE, body=quote.pack()).pack()
    software.write("made-up", made_up)
    software.run("tpm2_sign", "-c", "free.ctx", "-g", "sha256", "-s", "rsassa", "-o", "signature", "made-up")
    signature = software.read("signature")
    verify_signature(read_signature(signature, "free"), key.public_key(), made_up, "free")
    with pytest.raises(QuoteError) as caught:
        verify_quote(Evidence(made_up, signature), key, NONCE, [booted.expectation])
    assert [each.reason for each in caught.value.refusals] == [Reason.KEY_ATTRIBUTES]
    believed = replace(key, attributes=key.attributes | Attribute.RESTRICTED)
    accepted = verify_quote(Evidence(made_up, signature), believed, NONCE, [booted.expectation])
    assert accepted.machine == "q35"


def test_the_magic_number_must_be_there(booted: Boot) -> None:
    """A key of our own can sign anything; what lacks the magic number no TPM has made."""
    private = rsa.generate_private_key(65537, 2048)
    key = Public(
        name_algorithm=Alg.SHA256,
        attributes=booted.keys["rsassa"].attributes,
        key=stored_key(private.public_key()),
        scheme=Scheme(Alg.RSASSA, Alg.SHA256),
    )
    values = booted.expectation.values
    body = QuoteInfo(pcr_selections(values), pcr_digest(values, SHA256)).pack()

    def signed(magic: int) -> Evidence:
        message = Attest(magic=magic, type=AttestType.QUOTE, extra_data=NONCE, body=body).pack()
        value = private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return Evidence(message, RsaSignature(Alg.RSASSA, Alg.SHA256, value).pack())

    assert verify_quote(signed(TPM_GENERATED), key, NONCE, [booted.expectation]).machine == "q35"
    with pytest.raises(QuoteError) as caught:
        verify_quote(signed(0x00544347), key, NONCE, [booted.expectation])
    assert str(caught.value) == "quote: magic is 0x00544347, expected 0xff544347"


def test_tpm2_tools_agree_about_the_quote(booted: Boot) -> None:
    booted.quote("ecdsa")
    check = ("-u", "ecdsa.pub", "-m", "message", "-s", "signature", "-g", "sha256", "-q", NONCE.hex())
    booted.software.run("tpm2_checkquote", *check)
    message = booted.software.read("message")
    booted.software.write("message", message[:-1] + bytes([message[-1] ^ 1]))
    assert booted.software.attempt("tpm2_checkquote", *check).returncode != 0
    key = booted.keys["ecdsa"].public_key()
    signature = read_signature(booted.software.read("signature"), "signature")
    verify_signature(signature, key, message, "quote")
    with pytest.raises(VerifyError):
        verify_signature(signature, key, booted.software.read("message"), "quote")


def activate(boot: Boot, family: str, key: str, blob: bytes) -> bytes:
    """What the TPM gives back, or nothing. The file is tpm2-tools' own: magic, version, both structures."""
    software = boot.software
    software.write("credential", bytes.fromhex("badcc0de00000001") + blob)
    software.run("tpm2_startauthsession", "--policy-session", "-S", "ek.session")
    software.run("tpm2_policysecret", "-S", "ek.session", "-c", "e")
    arguments = ("-c", f"{key}.ctx", "-C", f"ek-{family}.ctx", "-i", "credential", "-o", "opened")
    done = software.attempt("tpm2_activatecredential", *arguments, "-P", "session:ek.session")
    software.run("tpm2_flushcontext", "ek.session")
    return software.read("opened") if done.returncode == 0 else b""


@pytest.mark.parametrize("size", [1, 16, 32])
@pytest.mark.parametrize(("family", "key"), [("rsa", "rsassa"), ("ecc", "ecdsa"), ("ecc", "ecdsa-sha384")])
def test_the_tpm_activates_our_credential(booted: Boot, family: str, key: str, size: int) -> None:
    """Made from the endorsement key alone, as a certificate has it, and the name of the attestation key."""
    certified = read_sized_public(booted.software.read(f"ek-{family}.pub"), "key").public_key()
    secret = os.urandom(size)
    credential = make_credential(endorsement_public(certified), booted.keys[key].name, secret)
    assert activate(booted, family, key, credential.pack()) == secret


@pytest.mark.parametrize(
    ("family", "key", "other"), [("rsa", "rsassa", "rsapss"), ("ecc", "ecdsa", "ecdsa-sha384")]
)
def test_a_credential_is_for_one_name(booted: Boot, family: str, key: str, other: str) -> None:
    endorsement = read_sized_public(booted.software.read(f"ek-{family}.pub"), "key")
    credential = make_credential(endorsement, booted.keys[key].name, b"secret").pack()
    assert activate(booted, family, key, credential) == b"secret"
    assert activate(booted, family, other, credential) == b""
    assert (
        activate(booted, family, key, credential[:40] + bytes([credential[40] ^ 1]) + credential[41:]) == b""
    )


def test_a_credential_is_for_one_tpm(booted: Boot) -> None:
    with SoftwareTpm() as software:
        software.run("tpm2_createek", "-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub")
        endorsement = read_sized_public(software.read("ek.pub"), "key")
    credential = make_credential(endorsement, booted.keys["ecdsa"].name, b"secret").pack()
    assert activate(booted, "ecc", "ecdsa", credential) == b""
