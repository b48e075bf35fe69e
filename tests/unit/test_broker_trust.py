from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings

from recipes.broker.audit import AuditLog
from recipes.broker.core import Broker
from recipes.broker.endorsement import read_authorities, verify_endorsement
from recipes.broker.policy import VolumeRule
from recipes.broker.refusal import RefusedError
from recipes.broker.trust import Activation, EndorsedKeys, EnrolledKeys, Proof
from recipes.errors import FormatError, ImageError, VerifyError
from recipes.formats.tpm2 import Alg, sized
from recipes.formats.tpm2_credential import read_credential
from recipes.formats.tpm2_public import Attribute, Scheme
from tests.unit.test_broker_guest import KEY, Guest, Harness, answer, b64
from tests.unit.tpm2_vectors import mutations

issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
# TPM manufacturer. Spec: TCG EK Credential Profile 2.5 section 3.1.2.
MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = bytes(range(100, 132))
# The attestation keys of these tests are unlike; the endorsement key is the slow one to make.
EK = rsa.generate_private_key(65537, 2048)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A certificate, and the key that it is for."""

    name: str
    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def issue(
    name: str,
    issuer: Certified | None = None,
    *,
    key: Any = None,
    authority: bool = True,
    usage: x509.ObjectIdentifier | None = EK_USAGE,
    start: dt.datetime = NOW - dt.timedelta(days=1),
    end: dt.datetime = NOW + dt.timedelta(days=1),
) -> Certified:
    """A certificate as a TPM's maker would sign it: no subject, the model as alternative name."""
    key = key or new_key()
    signer = issuer.key if issuer else key
    named = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(named))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer.name if issuer else name)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    bits = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "data_encipherment", "key_agreement", "crl_sign"),
            *("encipher_only", "decipher_only"),
        ),
        False,
    )
    builder = builder.add_extension(
        x509.KeyUsage(**bits, key_encipherment=not authority, key_cert_sign=authority), critical=True
    )
    if authority:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    else:
        model = x509.Name([x509.NameAttribute(MANUFACTURER, "id:00001014")])
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DirectoryName(model)]), critical=True
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Certified(name=name, key=key, certificate=builder.sign(signer, hashes.SHA256()))


ROOT = issue("root")
MIDDLE = issue("middle", ROOT)
# Certified by the root, but as an endorsement key and not as an authority.
IMPOSTOR = issue("impostor", ROOT, authority=False)
LEAF = issue("", MIDDLE, key=EK, authority=False)


def verify(*chain: bytes, pinned: x509.Certificate = ROOT.certificate, now: dt.datetime = NOW) -> object:
    return verify_endorsement(chain, [pinned], now).key


def test_a_chain_to_a_pinned_authority() -> None:
    assert verify(LEAF.der, MIDDLE.der) == EK.public_key()
    assert verify(LEAF.der, pinned=MIDDLE.certificate) == EK.public_key()
    assert verify(LEAF.der, ROOT.der, MIDDLE.der) == EK.public_key()


def other_leaf(**changes: Any) -> tuple[bytes, ...]:
    return (issue("", MIDDLE, **{"key": EK, "authority": False, **changes}).der, MIDDLE.der)


NOT_PINNED = "ek: its certificate does not lead to a pinned CA ("
DAY = dt.timedelta(days=1)
BAD_CHAINS: dict[str, tuple[Callable[[], tuple[bytes, ...]], str]] = {
    "no path": (lambda: (LEAF.der,), NOT_PINNED),
    "another root": (lambda: (LEAF.der, issue("middle", issue("root")).der), NOT_PINNED),
    "an authority": (lambda: (MIDDLE.der,), "it is a CA's certificate"),
    "no usage": (lambda: other_leaf(usage=None), NOT_PINNED),
    "a server's certificate": (
        lambda: other_leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "it is no certificate of an endorsement key",
    ),
    "not yet valid": (lambda: other_leaf(start=NOW + DAY / 2), NOT_PINNED),
    "expired": (lambda: other_leaf(end=NOW - DAY / 2), NOT_PINNED),
    "issued by a leaf": (
        lambda: (issue("", IMPOSTOR, key=EK, authority=False).der, IMPOSTOR.der),
        NOT_PINNED,
    ),
    "a key of no TPM": (
        lambda: other_leaf(key=ed25519.Ed25519PrivateKey.generate()),
        "ek: its certificate is for a key that no TPM has",
    ),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_chains_that_are_refused(name: str) -> None:
    assert verify(LEAF.der, MIDDLE.der)
    make, error = BAD_CHAINS[name]
    with pytest.raises(RefusedError) as caught:
        verify(*make())
    assert caught.value.status == 403
    assert str(caught.value).startswith("ek: its certificate ")
    assert error in str(caught.value)


def test_validity_is_looked_up_on_the_brokers_clock() -> None:
    for now in (NOW - 2 * DAY, NOW + 2 * DAY):
        with pytest.raises(RefusedError):
            verify(LEAF.der, MIDDLE.der, now=now)


@settings(max_examples=150)
@given(data=mutations(LEAF.der, MIDDLE.der))
def test_changed_certificates_are_refused(data: bytes) -> None:
    for chain in ((data, MIDDLE.der), (LEAF.der, data)):
        if chain == (LEAF.der, MIDDLE.der):
            continue
        try:
            verify(*chain)
        except RefusedError as error:
            assert error.status in (400, 403)
            continue
        # A random chain holds only where the change is in what does not count: there is no such place.
        pytest.fail("a changed certificate was accepted")


def endorsed(tmp_path: Path) -> Harness:
    harness = Harness(tmp_path, trust=EndorsedKeys([ROOT.certificate], lambda size: SECRET[:size]))
    harness.time.seconds = NOW.timestamp()
    return harness


def activate(harness: Harness, session: str, *chain: bytes, guest: Guest | None = None) -> Any:
    body = {
        "schema": 1,
        "session": session,
        "ak_public": b64(sized((guest or harness.guest).public.pack())),
        "ek_certificates": [b64(each) for each in chain or (LEAF.der, MIDDLE.der)],
    }
    return harness.post("/v1/activate", body)


def test_an_activated_key_is_trusted(tmp_path: Path) -> None:
    """What the TPM would give back is known here; that a TPM does is tests/tool's to show."""
    harness = endorsed(tmp_path)
    challenge = harness.challenge()
    reply = activate(harness, challenge["session"])
    assert reply.status == 200
    credential = read_credential(base64.b64decode(answer(reply)["credential"]), "credential")
    assert len(credential.encrypted_seed) == 256
    assert SECRET.hex().encode() not in reply.body
    body = harness.guest.evidence(challenge) | {"activation": b64(SECRET)}
    reply = harness.attest(body)
    assert harness.guest.unwrap(challenge, answer(reply)) == KEY
    name = "ek:" + hashlib.sha256(LEAF.der).hexdigest()
    assert [line.get("ak") for line in harness.audit] == [None, name, name]
    assert [line["result"] for line in harness.audit] == ["challenged", "activated", "released"]


def test_activation_in_other_ways(tmp_path: Path) -> None:
    harness = endorsed(tmp_path)
    found = harness.refused(harness.attest(harness.guest.evidence(harness.challenge())))
    assert found == (403, "ak", "nobody vouches for it; call /v1/activate with its endorsement certificate")
    for given_answer in ("", b64(SECRET[::-1]), b64(SECRET[:31])):
        challenge = harness.challenge()
        assert activate(harness, challenge["session"]).status == 200
        body = harness.guest.evidence(challenge) | {"activation": given_answer}
        found = harness.refused(harness.attest(body))
        assert found == (403, "activation", "not what TPM2_ActivateCredential gives for it")


def test_one_key_is_activated_and_another_quotes(tmp_path: Path) -> None:
    harness = endorsed(tmp_path)
    challenge = harness.challenge()
    assert activate(harness, challenge["session"], guest=Guest()).status == 200
    body = harness.guest.evidence(challenge) | {"activation": b64(SECRET)}
    status, field, reason = harness.refused(harness.attest(body))
    assert (status, field) == (403, "ak")
    assert " is not the key that was activated, 000b" in reason


def test_activation_is_once_in_a_session(tmp_path: Path) -> None:
    harness = endorsed(tmp_path)
    challenge = harness.challenge()
    # Refused ones do not count.
    assert harness.refused(activate(harness, challenge["session"], LEAF.der))[:2] == (403, "ek")
    assert activate(harness, challenge["session"]).status == 200
    found = harness.refused(activate(harness, challenge["session"]))
    assert found == (403, "session", "has its credential already; begin with a new challenge")
    assert harness.refused(activate(harness, "00" * 16))[:2] == (401, "session")
    other = harness.challenge()
    harness.time.seconds += 60
    assert harness.refused(activate(harness, other["session"]))[:2] == (401, "session")


def test_an_activation_is_for_one_session(tmp_path: Path) -> None:
    harness = endorsed(tmp_path)
    first, second = harness.challenge(), harness.challenge()
    assert activate(harness, first["session"]).status == 200
    body = harness.guest.evidence(second) | {"activation": b64(SECRET)}
    assert harness.refused(harness.attest(body))[:2] == (403, "ak")


def test_only_the_usual_endorsement_keys(tmp_path: Path) -> None:
    """The template is part of the key's name: of another key it would have to be guessed."""
    harness = endorsed(tmp_path)
    leaf = issue("", MIDDLE, key=ec.generate_private_key(ec.SECP384R1()), authority=False)
    found = harness.refused(activate(harness, harness.challenge()["session"], leaf.der, MIDDLE.der))
    what = "neither RSA-2048 nor on P-256, so it was not made by template L-1 or L-2"
    assert found == (403, "ek", what)


def test_an_unrestricted_key_gets_no_credential() -> None:
    public = replace(Guest().public, attributes=Guest().public.attributes & ~Attribute.RESTRICTED)
    with pytest.raises(RefusedError) as caught:
        EndorsedKeys([ROOT.certificate]).activate(public, [LEAF.der, MIDDLE.der], NOW)
    assert (caught.value.status, caught.value.field) == (403, "ak_public")
    assert caught.value.reason.startswith("objectAttributes is ")


def test_rules_may_name_an_endorsement_certificate(tmp_path: Path) -> None:
    harness = endorsed(tmp_path)
    name = "ek:" + hashlib.sha256(LEAF.der).hexdigest()
    for allowed, status in ((name, 200), ("ek:" + "00" * 32, 403)):
        rules = (VolumeRule(volume="data", attestation_keys=(allowed,)),)
        harness.broker = Broker(
            replace(harness.config, rules=rules), AuditLog(harness.lines.append), clock=harness.time.clock
        )
        challenge = harness.challenge()
        assert activate(harness, challenge["session"]).status == 200
        body = harness.guest.evidence(challenge) | {"activation": b64(SECRET)}
        assert harness.attest(body).status == status
    assert harness.audit[-1]["field"] == "volume"


def test_enrolled_and_reported_keys_are_not_activated(harness: Harness) -> None:
    found = harness.refused(activate(harness, harness.challenge()["session"]))
    assert found == (403, "ak", "keys are enrolled here; go on with /v1/attest")


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def test_a_secret_is_in_no_text() -> None:
    activation = Activation("ek:00", b"name", SECRET, b"blob")
    assert repr(SECRET) not in repr(activation) + repr(Proof(activation, SECRET))


def enrol(folder: Path, name: str, guest: Guest) -> Path:
    """A key's file as its operator alone may write it, whatever the umask."""
    path = folder / f"{name}.pub"
    path.write_bytes(sized(guest.public.pack()))
    path.chmod(0o644)
    return path


def test_keys_are_enrolled_as_files(tmp_path: Path) -> None:
    guests = {"host-1": Guest(), "host-2": Guest()}
    for name, guest in guests.items():
        enrol(tmp_path, name, guest)
    (tmp_path / "README").write_text("not a key")
    trust = EnrolledKeys.read(tmp_path)
    assert [trust.admit(guest.public, Proof(), NOW) for guest in guests.values()] == list(guests)
    with pytest.raises(RefusedError) as caught:
        trust.admit(Guest().public, Proof(), NOW)
    assert (caught.value.status, caught.value.field) == (403, "ak")


def test_the_same_numbers_under_other_attributes_are_another_key() -> None:
    guest = Guest()
    trust = EnrolledKeys({"host-1": guest.public})
    changed = replace(guest.public, attributes=guest.public.attributes | Attribute.NO_DA)
    with pytest.raises(RefusedError):
        trust.admit(changed, Proof(), NOW)


def test_a_key_is_enrolled_while_the_broker_runs(tmp_path: Path) -> None:
    guest, trust = Guest(), EnrolledKeys.read(tmp_path)
    assert len(trust) == 0
    with pytest.raises(RefusedError, match="not enrolled"):
        trust.admit(guest.public, Proof(), NOW)
    path = enrol(tmp_path, "host-1", guest)
    assert trust.admit(guest.public, Proof(), NOW) == "host-1"
    # Rules and the log have the name that it has now.
    renamed = path.rename(tmp_path / "host-2.pub")
    assert trust.admit(guest.public, Proof(), NOW) == "host-2"
    renamed.unlink()
    with pytest.raises(RefusedError, match="not enrolled"):
        trust.admit(guest.public, Proof(), NOW)
    assert len(trust) == 0
    enrol(tmp_path, "host-1", guest)
    assert trust.admit(guest.public, Proof(), NOW) == "host-1"


def test_a_replaced_key_counts_no_more(tmp_path: Path) -> None:
    """In place and in no time: the file's number, size and times are what they were."""
    old, new = Guest(), Guest()
    path = enrol(tmp_path, "host-1", old)
    trust, before = EnrolledKeys.read(tmp_path), path.stat()
    assert trust.admit(old.public, Proof(), NOW) == "host-1"
    path.write_bytes(sized(new.public.pack()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        *(before.st_ino, before.st_size, before.st_mtime_ns),
    )
    with pytest.raises(RefusedError, match="not enrolled"):
        trust.admit(old.public, Proof(), NOW)
    assert trust.admit(new.public, Proof(), NOW) == "host-1"


def no_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"{folder}: no folder; make it, for NAME.pub of `tpm2_createak -u`"


def no_more_a_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.touch()
    return f"{folder}: no folder; make it, for NAME.pub of `tpm2_createak -u`"


def unreadable_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    return f"{folder}: Too many levels of symbolic links; enrol keys as files"


def open_folder(folder: Path) -> str:
    folder.chmod(0o777)
    what = "mode 0777 lets others write; `chmod go-w` it, and look whom it makes the broker believe"
    return f"{folder}: {what}"


@pytest.mark.parametrize("spoil", [no_folder, no_more_a_folder, unreadable_folder, open_folder])
def test_without_its_folder_nobody_is_admitted(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    harness, folder = enrolling(tmp_path)
    assert harness.release() == KEY
    challenge = harness.challenge()
    reason = spoil(folder)
    reply = harness.attest(harness.guest.evidence(challenge))
    assert (reply.status, answer(reply)["field"]) == (500, "broker")
    assert str(folder) not in reply.body.decode()
    assert (harness.audit[-1]["result"], harness.audit[-1]["reason"]) == ("failed", reason)
    remake(folder)
    enrol(folder, "host-1", harness.guest)
    assert harness.release() == KEY


def remake(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)


def enrolling(tmp_path: Path, **changes: Any) -> tuple[Harness, Path]:
    """A broker with a folder of enrolled keys, its guest's among them."""
    folder = tmp_path / "enrolled"
    folder.mkdir(mode=0o755)
    harness = Harness(tmp_path, trust=EnrolledKeys.read(folder), **changes)
    enrol(folder, "host-1", harness.guest)
    return harness, folder


def test_a_session_outlives_no_revocation(tmp_path: Path) -> None:
    harness, folder = enrolling(tmp_path)
    assert harness.release() == KEY
    challenge = harness.challenge()
    (folder / "host-1.pub").unlink()
    status, field, reason = harness.refused(harness.attest(harness.guest.evidence(challenge)))
    assert (status, field, reason.partition(" (")[0]) == (403, "ak", "not enrolled")
    # Nor does it come back with the key: it is used up.
    enrol(folder, "host-1", harness.guest)
    found = harness.refused(harness.attest(harness.guest.evidence(challenge)))
    assert found == (401, "session", "unknown or used already; begin with a new challenge")
    assert harness.release() == KEY


def test_rules_go_by_the_name_that_a_key_has_now(tmp_path: Path) -> None:
    rules = (VolumeRule(volume="data", attestation_keys=("host-1",)),)
    harness, folder = enrolling(tmp_path, rules=rules)
    assert harness.release() == KEY
    challenge = harness.challenge()
    (folder / "host-1.pub").rename(folder / "host-2.pub")
    found = harness.refused(harness.attest(harness.guest.evidence(challenge)))
    assert found == (403, "volume", "data is not for the attestation key host-2")
    (folder / "host-2.pub").rename(folder / "host-1.pub")
    assert harness.release() == KEY


def damaged(path: Path, guest: Guest) -> str:
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----")
    path.chmod(0o644)
    return f"{path}: offset 0x0: TPM2B_PUBLIC of 11565 bytes"


def for_everybody(path: Path, guest: Guest) -> str:
    enrol(path.parent, path.stem, guest).chmod(0o666)
    return f"{path}: mode 0666 lets others write; `chmod go-w` it"


def a_pipe(path: Path, guest: Guest) -> str:
    os.mkfifo(path, 0o600)
    return f"{path}: not a regular file; "


def a_loop(path: Path, guest: Guest) -> str:
    path.symlink_to(path)
    return f"{path}: Too many levels of symbolic links; enrol keys as files"


def signs_anything(path: Path, guest: Guest) -> str:
    public = replace(guest.public, attributes=guest.public.attributes & ~Attribute.RESTRICTED)
    path.write_bytes(sized(public.pack()))
    path.chmod(0o644)
    return "attestation key host-2: objectAttributes is "


def there_twice(path: Path, guest: Guest) -> str:
    enrol(path.parent, path.stem, guest)
    enrol(path.parent, "host-3", guest)
    return "attestation key host-2: the same key as host-3; enrol each machine's own key"


@pytest.mark.parametrize("put", [damaged, for_everybody, a_pipe, a_loop, signs_anything, there_twice])
def test_a_file_that_enrols_nobody_keeps_nobody_else_out(
    tmp_path: Path, put: Callable[[Path, Guest], str]
) -> None:
    harness, folder = enrolling(tmp_path)
    path, other = folder / "host-2.pub", Guest()
    assert harness.release() == KEY
    reason = put(path, other)
    assert harness.release() == KEY
    for _ in range(2):
        reply = harness.attest(other.evidence(harness.challenge()))
        assert reply.status == 500
        assert harness.audit[-1]["result"] == "failed"
        assert harness.audit[-1]["reason"].startswith(reason)
    # But a broker does not start with it.
    with pytest.raises(ImageError) as caught:
        EnrolledKeys.read(folder)
    assert str(caught.value).startswith(reason)
    for each in (path, folder / "host-3.pub"):
        each.unlink(missing_ok=True)
    enrol(folder, "host-2", other)
    assert harness.attest(other.evidence(harness.challenge())).status == 200
    assert harness.audit[-1]["ak"] == "host-2"


def test_enrolled_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none: no folder; make it, for NAME\.pub of `tpm2_createak -u`"):
        EnrolledKeys.read(tmp_path / "none")
    path = tmp_path / "host-1.pub"
    path.touch(mode=0o600)
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----")
    with pytest.raises(FormatError, match=r"host-1\.pub: offset 0x0: TPM2B_PUBLIC of 11565 bytes"):
        EnrolledKeys.read(tmp_path)
    guest = Guest()
    path.write_bytes(sized(replace(guest.public, scheme=Scheme(Alg.ECDSA, Alg.SHA1)).pack()))
    with pytest.raises(VerifyError, match="attestation key host-1: scheme is ECDSA with SHA1, expected"):
        EnrolledKeys.read(tmp_path)
    path.write_bytes(sized(guest.public.pack()))
    enrol(tmp_path, "host-2", guest)
    with pytest.raises(VerifyError, match="the same key as host-2; enrol each machine's own key"):
        EnrolledKeys.read(tmp_path)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_enrolled_keys_that_others_may_write(tmp_path: Path, mode: int) -> None:
    folder, trust = tmp_path / "enrolled", None
    folder.mkdir(mode=0o755)
    path = enrol(folder, "host-1", Guest())
    trust = EnrolledKeys.read(folder)
    for place in (folder, path):
        place.chmod(mode)
        what = rf"{place}: mode {mode:04o} lets others write; `chmod go-w` it, and look whom it makes the "
        with pytest.raises(ImageError, match=what):
            EnrolledKeys.read(folder)
        # A change for the worse is noticed later as well.
        with pytest.raises(ImageError, match=what):
            trust.admit(Guest().public, Proof(), NOW)
        place.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_enrolled_keys_are_the_operators(tmp_path: Path) -> None:
    folder = tmp_path / "enrolled"
    folder.mkdir(mode=0o755)
    path = enrol(folder, "host-1", Guest())
    assert len(EnrolledKeys.read(folder)) == 1
    for place in (path, folder):
        os.chown(place, 4711, 4711)
        with pytest.raises(ImageError, match=f"^{place}: belongs to user 4711, this is user 0; whom to"):
            EnrolledKeys.read(folder)
        os.chown(place, 0, 0)


def test_authorities_that_do_not_do(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ImageError, match=r"ca\.pem: No such file or directory; give the PEM file of a CA"):
        read_authorities([path])
    path.touch(mode=0o600)
    path.write_text("nothing")
    with pytest.raises(FormatError, match=r"ca\.pem: no certificates in PEM: "):
        EndorsedKeys.read([path])
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(FormatError, match=r"ca\.pem: more than 1048576 bytes; keep only certificates of CAs"):
        EndorsedKeys.read([path])
    path.write_bytes(b"".join(each.certificate.public_bytes(Encoding.PEM) for each in (ROOT, MIDDLE)))
    assert read_authorities([path]) == (ROOT.certificate, MIDDLE.certificate)
    with pytest.raises(ImageError, match="there are none, so nobody is trusted; pin at least one"):
        EndorsedKeys([])
