"""The helper ``tpm2`` on a software TPM, against tpm2-tools and against TPMs that answer nonsense.

It proves nothing about hardware: swtpm is the TCG reference implementation.
"""

from __future__ import annotations

import base64
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.formats.tpm2 import Alg
from recipes.formats.tpm2_credential import make_credential
from recipes.formats.tpm2_nv import rollback_counter
from recipes.formats.tpm2_public import Public, endorsement_public, read_sized_public
from recipes.formats.tpm2_signature import read_signature
from recipes.formats.tpm2_token import DEFAULT_BLOB_SIZE
from recipes.golden.unlock import Rollback
from recipes.measure.quote import Evidence, Expectation, check_attestation_key, verify_quote
from recipes.measure.tpm_policy import Operation, PolicySession
from recipes.measure.trace import HashAlgorithm, measured
from recipes.measure.userspace import phase_step
from tests.tool.boot_policies import unlock_digest
from tests.tool.built_helpers import SANITIZER_STATUS
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_tpm_policy import boot, boot_trace, extend, nv_public, pcr_values, trial
from tests.tool.tpm2_machine import Device, Outcome, Signer, TpmMachine
from tests.tool.tpm_bridge import Respond

ANY_POLICY = "11" * 32
pytestmark = pytest.mark.tool

COUNTER = 0x01801C00
NONCE = bytes(range(32))
CODES = {0, 1, 10, 20, 30, 40}
assert SANITIZER_STATUS not in CODES


@pytest.fixture(scope="module")
def busy() -> Iterator[TpmMachine]:
    """A machine whose registers hold something; tests leave them as they are."""
    with TpmMachine() as machine:
        for index in (0, 4, 7, 11):
            extend(machine.tools, index, [measured(bytes([index])).digests])
        yield machine


@pytest.fixture
def machine() -> Iterator[TpmMachine]:
    """A machine of its own, in ``enter-initrd`` of the synthetic boot."""
    with TpmMachine() as new:
        boot(new.tools, boot_trace(), "enter-initrd")
        yield new


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"))


def sealed(machine: TpmMachine, policy: bytes) -> tuple[Path, bytes]:
    """A file with a sealed blob, and the secret in it."""
    done = machine.run("seal", policy.hex()).good()
    return machine.tools.write("blob", done.out), done.key


def denied(outcome: Outcome, words: str, code: int = 20) -> None:
    assert (outcome.code, outcome.key, outcome.out) == (code, b"", b""), outcome
    assert words in outcome.words
    assert outcome.words.startswith("tpm2: ")
    assert outcome.words.count("\n") == 1


def signed_open(
    machine: TpmMachine, blob: Path, signer: Signer, *, counter: int | None = None, release: int = 0
) -> Outcome:
    """``unseal`` with what the signer says of the synthetic boot."""
    entry = signer.entry(counter=counter, release=release)
    signer.signature.write_bytes(base64.b64encode(entry.signature) + b"\n")
    limit = () if counter is None else ("counter", f"{counter:#x}", release)
    approval = ("signed", entry.policy.hex(), signer.signature, signer.public)
    return machine.run("unseal", blob, "sha256", "11", *approval, *limit)


@pytest.mark.parametrize("selection", ["sha256:11", "sha256:4,7,11", "sha1:0", "sha384:11", "sha512:0,23"])
def test_digest_is_the_policy_that_is_predicted(busy: TpmMachine, selection: str) -> None:
    bank, _, registers = selection.partition(":")
    found = busy.run("digest", bank, *registers.split(",")).good()
    assert found.out == PolicySession().policy_pcr(pcr_values(busy.tools, selection)).hex().encode() + b"\n"
    policy = trial(busy.tools, HashAlgorithm.SHA256, ("tpm2_policypcr", "-l", selection))
    assert found.out == policy.hex().encode() + b"\n"
    assert busy.is_clean()


def test_a_bank_that_the_tpm_lacks_is_refused(busy: TpmMachine) -> None:
    """A TPM leaves such registers out without a word: what is sealed to them would be sealed to nothing."""
    good = busy.bridge.respond
    every, none = b"\x00\x0c\x03\xff\xff\xff", b"\x00\x0c\x03\x00\x00\x00"
    busy.bridge.respond = lambda command: good(command).replace(every, none)
    try:
        denied(busy.run("digest", "sha384", "11"), "this TPM does not have sha384:11")
        busy.run("digest", "sha256", "11").good()
    finally:
        busy.bridge.respond = good


def test_what_is_sealed_is_unsealed(busy: TpmMachine) -> None:
    policy = bytes.fromhex(busy.run("digest", "sha256", "4", "11").out.decode())
    done = busy.run("seal", policy.hex()).good()
    assert len(base64.b64decode(done.key, validate=True)) == 32
    blob = base64.b64decode(done.out.removesuffix(b"\n"), validate=True)
    assert len(blob) == DEFAULT_BLOB_SIZE
    path = busy.tools.write("blob", done.out)
    opened = busy.run("unseal", path, "sha256", "4,11").good()
    assert (opened.key, opened.out) == (done.key, b"")
    assert done.key not in done.out
    assert base64.b64decode(done.key) not in blob
    assert busy.run("seal", policy.hex()).good().key != done.key
    assert busy.is_clean()
    denied(busy.run("unseal", path, "sha256", "4"), "sha256:4 does not hold what the key was sealed to")
    assert busy.is_clean()


def test_tpm2_tools_unseal_what_is_sealed_and_see_its_attributes(busy: TpmMachine) -> None:
    tools = busy.tools
    policy = bytes.fromhex(busy.run("digest", "sha256", "7").out.decode())
    path, secret = sealed(busy, policy)
    blob = base64.b64decode(path.read_bytes())
    cut = 2 + int.from_bytes(blob[:2], "big")
    tools.write("private", blob[:cut])
    tools.write("public", blob[cut:])
    attributes = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    tools.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-a", attributes, "-c", "primary")
    tools.run("tpm2_load", "-C", "primary", "-u", "public", "-r", "private", "-c", "object")
    shown = tools.run("tpm2_readpublic", "-c", "object").decode()
    assert "value: fixedtpm|fixedparent\n" in shown
    assert f"authorization policy: {policy.hex()}\n" in shown
    opened = tools.run("tpm2_unseal", "-c", "object", "-p", "pcr:sha256:7")
    assert base64.b64encode(opened) == secret


def test_a_signed_policy_opens_one_phase_of_one_boot(machine: TpmMachine, signer: Signer) -> None:
    blob, secret = sealed(machine, signer.authorized)
    assert signed_open(machine, blob, signer).good().key == secret
    assert machine.is_clean()
    extend(machine.tools, 11, [dict(phase_step("leave-initrd").digests)])
    denied(
        signed_open(machine, blob, signer),
        "the signature is for another boot: sha256:11 does not hold what was signed",
    )
    assert machine.is_clean()


def test_another_tpm_does_not_open(machine: TpmMachine, signer: Signer) -> None:
    blob, secret = sealed(machine, signer.authorized)
    assert signed_open(machine, blob, signer).good().key == secret
    with TpmMachine() as other:
        boot(other.tools, boot_trace(), "enter-initrd")
        denied(signed_open(other, blob, signer), "the blob was sealed by another TPM")
        assert other.is_clean()


def test_tampered_blobs_do_not_open(machine: TpmMachine, signer: Signer) -> None:
    path, secret = sealed(machine, signer.authorized)
    assert signed_open(machine, path, signer).good().key == secret
    good = base64.b64decode(path.read_bytes())
    # each byte of a size, and some of everything else
    for position in (*range(4), 17, 60, 100, 159, 160, 161, 163, 165, 170, 180, 205, 239):
        bad = bytearray(good)
        bad[position] ^= 0x21
        path.write_bytes(base64.b64encode(bad))
        outcome = signed_open(machine, path, signer)
        assert (outcome.code, outcome.key) == (20, b""), (position, outcome)
        assert machine.is_clean()
    for name, text, words in (
        ("empty", b"", "not 1 to"),
        ("cut short", base64.b64encode(good[:-1]), "the sealed blob is damaged"),
        ("longer", base64.b64encode(good + b"\0"), "the sealed blob is damaged"),
        ("private alone", base64.b64encode(good[:160]), "the sealed blob is damaged"),
        ("no padding", base64.b64encode(good[:-1]).rstrip(b"="), "not base64"),
        ("padding bits", b"AB==", "not base64"),
        ("a blank", b" " + base64.b64encode(good)[1:], "not base64"),
        ("padding inside", b"AAA=" + base64.b64encode(good), "not base64"),
        ("a NUL", b"AAA\0", "not base64"),
        ("two lines", base64.b64encode(good) + b"\n\n", "not base64"),
        ("huge", b"A" * 70000, "not 1 to"),
    ):
        path.write_bytes(text)
        outcome = signed_open(machine, path, signer)
        assert (outcome.code, outcome.key) == (20, b""), (name, outcome)
        assert words in outcome.words, (name, outcome)
    path.unlink()
    denied(signed_open(machine, path, signer), "No such file")


def test_tampered_signatures_do_not_open(machine: TpmMachine, signer: Signer, tmp_path: Path) -> None:
    blob, secret = sealed(machine, signer.authorized)
    assert signed_open(machine, blob, signer).good().key == secret
    entry = signer.entry()

    def attempt(policy: str, signature: bytes, public: Path = signer.public) -> Outcome:
        signer.signature.write_bytes(base64.b64encode(signature))
        return machine.run("unseal", blob, "sha256", "11", "signed", policy, signer.signature, public)

    assert attempt(entry.policy.hex(), entry.signature).good().key == secret
    wrong = "the policy's signature was not made with the image's key"
    for position in (0, 100, 255):
        bad = bytearray(entry.signature)
        bad[position] ^= 1
        denied(attempt(entry.policy.hex(), bytes(bad)), wrong)
    for bad_size in (entry.signature[:-1], entry.signature + b"\0", b"\1"):
        denied(attempt(entry.policy.hex(), bad_size), wrong)
    denied(attempt(bytes(32).hex(), entry.signature), "the signature is for another boot")
    denied(attempt(entry.policy.hex()[:-2], entry.signature), "not 32 bytes in lower-case hex", 40)
    # whoever signs with another key gets no further than that key's own secrets
    stranger = Signer(tmp_path)
    denied(attempt(entry.policy.hex(), entry.signature, stranger.public), wrong)
    denied(
        attempt(entry.policy.hex(), stranger.entry().signature, stranger.public),
        "sha256:11 does not hold what the key was sealed to",
    )
    broken = tmp_path / "broken"
    broken.write_bytes(signer.public.read_bytes()[:-1])
    denied(attempt(entry.policy.hex(), entry.signature, broken), "not one TPM2B_PUBLIC", 40)
    assert machine.is_clean()


def test_a_counter_forbids_rollback(machine: TpmMachine, signer: Signer) -> None:
    """Releases 1 to 3 of one signer; the counter is raised after the first good boot of the second."""
    handle = f"{COUNTER:#x}"
    denied(machine.run("counter", handle), f"counter {handle} is not defined", 30)
    machine.run("raise", handle, 1).good()
    assert machine.run("counter", handle).good().out == b"1\n"
    public, name = nv_public(machine.tools, COUNTER)
    assert public == rollback_counter(COUNTER).written()
    assert public.name == name

    blob, secret = sealed(machine, signer.authorized)

    def opens(release: int) -> Outcome:
        return signed_open(machine, blob, signer, counter=COUNTER, release=release)

    for release in (1, 2, 3):
        assert opens(release).good().key == secret
    machine.run("raise", handle, 2).good()
    machine.run("raise", handle, 2).good()
    assert machine.run("counter", handle).good().out == b"2\n"
    denied(opens(1), f"counter {handle} is above 1: this release is older than one that has run here")
    assert machine.is_clean()
    for release in (2, 3):
        assert opens(release).good().key == secret
    denied(machine.run("raise", handle, 1), f"counter {handle} is 2 and cannot go back to 1")
    denied(machine.run("raise", handle, 1003), "over 1000 steps away", 40)


def test_a_claimed_release_is_not_the_signed_one(machine: TpmMachine, signer: Signer) -> None:
    handle = f"{COUNTER:#x}"
    machine.run("raise", handle, 2).good()
    blob, secret = sealed(machine, signer.authorized)
    entry = signer.entry(counter=COUNTER, release=1)
    signer.signature.write_bytes(base64.b64encode(entry.signature))
    approval = ("signed", entry.policy.hex(), signer.signature, signer.public)
    for limit in (("counter", handle, 2), ()):
        done = machine.run("unseal", blob, "sha256", "11", *approval, *limit)
        denied(done, "the signature is for another boot")
    assert signed_open(machine, blob, signer, counter=COUNTER, release=2).good().key == secret


def test_the_digest_under_a_counter_is_what_is_signed(machine: TpmMachine) -> None:
    """Also when the counter is above the release already: it says what ought to be signed."""
    handle = f"{COUNTER:#x}"
    machine.run("raise", handle, 5).good()
    digest = unlock_digest(boot_trace(), rollback=Rollback(COUNTER, 3))
    found = machine.run("digest", "sha256", "11", "counter", handle, 3).good().out
    assert found == digest.hex().encode() + b"\n"
    operand = machine.tools.write("operand", (3).to_bytes(8, "big"))
    session = PolicySession()
    session.policy_nv(rollback_counter(COUNTER).written().name, operand.read_bytes(), Operation.UNSIGNED_LE)
    assert found.decode().strip() == session.policy_pcr(pcr_values(machine.tools, "sha256:11")).hex()


def test_a_counter_under_another_tpm_or_of_another_kind(machine: TpmMachine, signer: Signer) -> None:
    handle = f"{COUNTER:#x}"
    blob, _ = sealed(machine, signer.authorized)
    denied(
        signed_open(machine, blob, signer, counter=COUNTER, release=1), f"counter {handle} is not in this TPM"
    )
    machine.tools.run("tpm2_nvdefine", handle, "-C", "o", "-s", "8", "-a", "ownerwrite|ownerread|authread")
    for command in (("counter", handle), ("raise", handle, 1)):
        denied(machine.run(*command), f"NV index {handle} is not a counter of ours")


def test_a_counter_that_was_defined_and_not_raised(machine: TpmMachine) -> None:
    """As a power cut between the two leaves it."""
    handle = f"{COUNTER:#x}"
    machine.tools.run(
        "tpm2_nvdefine", handle, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread|authread|no_da"
    )
    denied(machine.run("counter", handle), "was never raised", 30)
    machine.run("raise", handle, 1).good()
    assert machine.run("counter", handle).good().out == b"1\n"


def test_a_new_counter_starts_above_all_others(machine: TpmMachine) -> None:
    handle, old = f"{COUNTER:#x}", "0x1500016"
    machine.run("raise", old, 7).good()
    machine.tools.run("tpm2_nvundefine", old, "-C", "o")
    denied(machine.run("raise", handle, 1), "is 8 and cannot go back to 1; build with a release of 8 or more")
    assert machine.run("counter", handle).good().out == b"8\n"


SELECTION = "sha256:4,7,11+sha384:11"


def test_a_quote_is_good(busy: TpmMachine) -> None:
    tools = busy.tools
    busy.run("quote", SELECTION, NONCE.hex(), tools.folder).good()
    public = read_sized_public(tools.read("ak_public"), "ak_public")
    check_attestation_key(public)
    expectation = Expectation("machine", tuple(pcr_values(tools, SELECTION)))
    evidence = Evidence(tools.read("quote"), tools.read("signature"))
    assert verify_quote(evidence, public, NONCE, [expectation]).machine == "machine"
    assert read_signature(tools.read("signature"), "signature").hash is Alg.SHA256
    tools.write("ak.pub", tools.read("ak_public"))
    check = ("-u", "ak.pub", "-m", "quote", "-s", "signature", "-q", NONCE.hex(), "-g", "sha256")
    tools.run("tpm2_checkquote", *check)
    assert tools.attempt("tpm2_checkquote", *check[:-3], NONCE[::-1].hex(), *check[-2:]).returncode
    assert busy.is_clean()
    assert (tools.folder / "quote").stat().st_mode & 0o777 == 0o600


def test_the_attestation_key_is_that_of_tpm2_createprimary(busy: TpmMachine) -> None:
    tools = busy.tools
    for _ in range(2):
        busy.run("quote", "sha256:0", "00", tools.folder).good()
        ours = tools.read("ak_public")
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
        tools.run(
            "tpm2_createprimary", "-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-c", "ak"
        )
        tools.run("tpm2_readpublic", "-c", "ak", "-o", "theirs")
        assert tools.read("theirs") == ours


def endorsement(machine: TpmMachine, family: str) -> Public:
    """The endorsement key as tpm2_createek makes it."""
    machine.tools.run("tpm2_createek", "-G", family, "-c", "ek", "-u", "ek.pub")
    return read_sized_public(machine.tools.read("ek.pub"), "ek")


@pytest.mark.parametrize("family", ["rsa", "ecc"])
def test_a_credential_is_activated(busy: TpmMachine, family: str) -> None:
    tools, secret = busy.tools, bytes(range(100, 132))
    busy.run("quote", "sha256:0", "00", tools.folder).good()
    name = read_sized_public(tools.read("ak_public"), "ak_public").name
    public = endorsement_public(endorsement(busy, family).public_key())
    tools.write("credential", make_credential(public, name, secret).pack())
    (tools.folder / "activation").unlink(missing_ok=True)
    outcome = busy.run("activate", tools.folder).good()
    assert outcome.out == b""
    assert tools.read("activation") == secret
    assert (tools.folder / "activation").stat().st_mode & 0o777 == 0o600
    assert busy.is_clean()
    # for another attestation key, and for another TPM
    tools.write("credential", make_credential(public, name[:-1] + b"\0", secret).pack())
    denied(busy.run("activate", tools.folder), "the credential is not for this TPM")
    with TpmMachine() as other:
        wrong = make_credential(endorsement(other, family), name, secret).pack()
    tools.write("credential", wrong)
    denied(busy.run("activate", tools.folder), "the credential is not for this TPM")
    for bad in (wrong[:-1], wrong + b"\0", b"\0", b"\xff\xff", wrong[: 2 + wrong[1]], bytes(2000)):
        tools.write("credential", bad)
        assert busy.run("activate", tools.folder).code == 20
    assert busy.is_clean()


@pytest.mark.parametrize(("handle", "other"), [(0x01C00002, 0), (0x01C0000A, 0x01C00002)])
def test_an_endorsement_certificate(machine: TpmMachine, handle: int, other: int) -> None:
    tools = machine.tools
    denied(machine.run("ek", tools.folder), "this TPM has no certificate", 30)
    certificate = b"\x30\x82\x03\xfc" + random.Random(5).randbytes(1020)
    for each, data in ((handle, certificate + b"\xff" * 100), (other, b"not this one")):
        if each:
            attributes = "ppread|ownerread|authread|no_da|ownerwrite"
            tools.run("tpm2_nvdefine", f"{each:#x}", "-C", "o", "-s", len(data), "-a", attributes)
            tools.write("data", data)
            tools.run("tpm2_nvwrite", f"{each:#x}", "-C", "o", "-i", "data")
    machine.run("ek", tools.folder).good()
    assert tools.read("ek_certificate") == certificate


@pytest.mark.parametrize("data", [b"\0" * 8, b"\x30\x82\xff\xff", b"\x30\x82\x00"])
def test_a_certificate_that_is_none(machine: TpmMachine, data: bytes) -> None:
    tools = machine.tools
    tools.run("tpm2_nvdefine", "0x1c00002", "-C", "o", "-s", len(data), "-a", "ownerread|ownerwrite|no_da")
    tools.write("data", data)
    tools.run("tpm2_nvwrite", "0x1c00002", "-C", "o", "-i", "data")
    denied(machine.run("ek", tools.folder), "NV index 0x1c00002 holds no certificate", 1)


def test_an_owner_with_a_password(machine: TpmMachine, signer: Signer) -> None:
    machine.tools.run("tpm2_changeauth", "-c", "o", "secret")
    denied(
        machine.run("seal", signer.authorized.hex()), "a hierarchy of this TPM has a password; clear the TPM"
    )
    assert machine.is_clean()


Z = "00" * 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage: tpm2"),
        (("unknown",), "usage: tpm2"),
        (("seal",), "usage: tpm2"),
        (("seal", Z, Z), "usage: tpm2"),
        (("seal", "AB" * 32), "the digest is not 32 bytes in lower-case hex"),
        (("seal", "ab" * 31), "the digest is not 32 bytes in lower-case hex"),
        (("seal", Z), "the digest is zero, which binds nothing"),
        (("digest", "sha256"), "usage: tpm2"),
        (("digest", "md5", "1"), "the bank is not one of sha1, sha256, sha384, sha512"),
        (("digest", "sha2567", "1"), "the bank is not one of"),
        (("digest", "sha256", "24"), "a register is not a number from 0 to 23"),
        (("digest", "sha256", "-1"), "a register is not a number from 0 to 23"),
        (("digest", "sha256", "0001"), "the registers are not numbers with commas"),
        (("digest", "sha256", "1", "1"), "PCR 1 is named twice"),
        (("digest", "sha256", "1,"), "a register is not a number"),
        (("digest", "sha256", "1", "counter", "0x1500016"), "counter takes a handle and a release"),
        (
            ("digest", "sha256", "1", "counter", "0x1500016", "1", "2"),
            "nothing may follow the counter's release",
        ),
        (("digest", "sha256", "1", "counter", "0x2500016", "1"), "the handle is not one of an NV index"),
        (("digest", "sha256", "1", "counter", "1500016", "1"), "the handle is not one of an NV index"),
        (("digest", "sha256", "1", "counter", "0x001500016", "1"), "the handle is not one of an NV index"),
        (("digest", "sha256", "1", "counter", "0x1500016", "1x"), "the release is not a whole number"),
        (
            ("digest", "sha256", "1", "counter", "0x1500016", f"{1 << 64}"),
            "the release is not a whole number",
        ),
        (("unseal", "x", "sha256"), "usage: tpm2"),
        (("unseal", "x", "sha256", "11", "signd", Z, "x", "x"), "neither 'signed' nor 'counter'"),
        (("unseal", "x", "sha256", "11", "signed", Z, "x"), "signed takes a policy and the files"),
        (("unseal", "x", "sha256", "11", "signed", "0", "x", "x"), "the signed policy is not 32 bytes"),
        (("mark", "0x1500017", "x", Z, "sha256"), "usage: tpm2"),
        (("mark", "0x2500017", "x", Z, "sha256", "11"), "the handle is not one of an NV index"),
        (("mark", "0x1500017", "x", Z[1:], "sha256", "11"), "the digest is not 32 bytes in lower-case hex"),
        (("marked", "0x1500017", "x"), "usage: tpm2"),
        (("marked", "1500017", "x", Z), "the handle is not one of an NV index"),
        (("marked", "0x1500017", "x", Z[1:]), "the digest is not 32 bytes in lower-case hex"),
        (("unmarked", "0x0"), "the handle is not one of an NV index"),
        (("raise", "0x1500016", ""), "the value is not a whole number"),
        (("raise", "0x1500016", "-1"), "the value is not a whole number"),
        (("quote", "sha256", "00", "."), "the selection is not like"),
        (("quote", "sha256:1+", "00", "."), "the selection is not like"),
        (("quote", "sha256:1+sha1:1+sha1:2+sha1:3+sha1:4", "00", "."), "the selection is not like"),
        (("quote", "sha256:1", "", "."), "the nonce is not 1 to 64 bytes"),
        (("quote", "sha256:1", "0", "."), "the nonce is not 1 to 64 bytes"),
        (("quote", "sha256:1", "00" * 65, "."), "the nonce is not 1 to 64 bytes"),
        (("activate", "x" * 5000), "the folder's name is too long"),
    ],
)
def test_malformed_arguments(busy: TpmMachine, arguments: tuple[str, ...], words: str) -> None:
    denied(busy.run(*arguments), words, 40)
    assert busy.bridge.commands == []


def test_nobody_takes_the_key(busy: TpmMachine, signer: Signer) -> None:
    busy.bridge.forget()
    argv = [str(busy.program), "seal", signer.authorized.hex()]
    environment = {"GOLDSMITH_TPM": busy.bridge.path}
    done = subprocess.run(argv, capture_output=True, env=environment, close_fds=True)
    words = b"tpm2: descriptor 3 is closed; the key goes there\n"
    assert (done.returncode, done.stdout, done.stderr) == (40, b"", words)
    assert busy.bridge.commands == []
    full = ["sh", "-c", 'exec "$@" 3>/dev/full', "sh", *argv]
    done = subprocess.run(full, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (1, b"tpm2: descriptor 3: No space left on device\n")
    assert busy.is_clean()


def test_without_a_tpm(tmp_path: Path) -> None:
    def silence(command: bytes) -> bytes:
        raise AssertionError(command)

    with Device(silence, tmp_path) as device:
        device.bridge.path = str(tmp_path / "none")
        denied(
            device.run("counter", "0x1500016"),
            "none: No such file or directory; give the machine a TPM 2.0",
            30,
        )


def error(code: int) -> bytes:
    return b"\x80\x01\0\0\0\x0a" + code.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (0x921, 10, "the TPM is in lockout"),
        (0x908, 10, "the TPM says not now (0x908)"),
        (0x923, 10, "the TPM says not now (0x923)"),
        (0x100, 1, "TPM2_GetCapability: the TPM answered 0x100"),
        (0x1C4, 1, "TPM2_GetCapability: the TPM answered 0x84"),
        (0x9A2, 20, "has a password"),
        (0x000B0143, 1, "the TPM answered 0xb0143"),
    ],
)
def test_response_codes(tmp_path: Path, code: int, status: int, words: str) -> None:
    with Device(lambda _: error(code), tmp_path, sanitized=True) as device:
        denied(device.run("digest", "sha256", "11"), words, status)


def test_a_tpm_that_wants_its_command_again(tmp_path: Path) -> None:
    answers = iter([error(0x922), error(0x922), error(0x18B)])
    with Device(lambda _: next(answers), tmp_path, sanitized=True) as device:
        denied(device.run("counter", "0x1500016"), "is not defined", 30)
        assert device.bridge.commands == [0x169] * 3


COMMANDS = (
    *("seal", "unseal", "digest", "counter", "raise", "mark", "marked", "unmarked"),
    *("quote", "ek", "activate"),
)


def lying(good: Respond, seed: int, at: int) -> Respond:
    """Answers of a good TPM, but the one to command number ``at`` is damaged in some way."""
    chance = random.Random(seed)
    count = 0

    def respond(command: bytes) -> bytes:
        nonlocal count
        response = good(command)
        count += 1
        if count != at:
            return response
        kind = chance.randrange(6)
        if kind == 0:  # cut short, and it says so
            response = response[: chance.randrange(10, len(response) + 1)]
            return response[:2] + len(response).to_bytes(4, "big") + response[6:]
        if kind == 1:  # more than there is room for
            return response[:2] + (4097).to_bytes(4, "big") + response[6:]
        if kind == 2:  # longer than it says
            return response + b"\xaa" * 64
        if kind == 3:  # a size somewhere is as large as can be
            place = chance.randrange(10, max(11, len(response) - 1))
            return response[:place] + b"\xff\xff" + response[place + 2 :]
        if kind == 4:  # the head is right and the rest is noise
            return response[:10] + chance.randbytes(len(response) - 10)
        return chance.randbytes(chance.randrange(10, 200))

    return respond


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tpm_that_lies_crashes_nothing(machine: TpmMachine, signer: Signer, command: str) -> None:
    """Whatever it answers, the program ends by itself, and its sanitizers find nothing."""
    blob, _ = sealed(machine, signer.authorized)
    entry = signer.entry()
    signer.signature.write_bytes(base64.b64encode(entry.signature))
    machine.run("raise", "0x1500016", 1).good()
    machine.run("quote", "sha256:0", "00", machine.folder).good()
    name = read_sized_public(machine.tools.read("ak_public"), "ak_public").name
    credential = make_credential(endorsement(machine, "ecc"), name, NONCE).pack()
    machine.tools.write("credential", credential)
    tools, certificate = machine.tools, b"\x30\x82\x00\x10" + bytes(16)
    tools.run(
        "tpm2_nvdefine", "0x1c00002", "-C", "o", "-s", len(certificate), "-a", "ownerread|ownerwrite|no_da"
    )
    tools.run("tpm2_nvwrite", "0x1c00002", "-C", "o", "-i", tools.write("data", certificate))
    approval = ("signed", entry.policy.hex(), signer.signature, signer.public)
    machine.run("mark", "0x1500018", blob, signer.authorized.hex(), "sha256", "11", *approval).good()
    arguments: dict[str, tuple[object, ...]] = {
        "seal": (signer.authorized.hex(),),
        "unseal": (blob, "sha256", "11", *approval),
        "digest": ("sha256", "11", "counter", "0x1500016", 1),
        "counter": ("0x1500016",),
        "raise": ("0x1500016", 2),
        "mark": ("0x1500017", blob, signer.authorized.hex(), "sha256", "11", *approval),
        "marked": ("0x1500018", blob, signer.authorized.hex()),
        "unmarked": ("0x1500018",),
        "quote": (SELECTION, NONCE.hex(), machine.folder),
        "ek": (machine.folder,),
        "activate": (machine.folder,),
    }
    good = machine.bridge.respond
    try:
        for seed in range(24):
            machine.bridge.respond = lying(good, seed, 1 + seed % 8)
            outcome = machine.run(command, *arguments[command])
            assert outcome.code in CODES, (seed, outcome)
            assert outcome.code or outcome.words == "", (seed, outcome)
            machine.bridge.respond = good
            for kind in ("-t", "-l", "-s"):
                machine.tools.run("tpm2_flushcontext", kind)
    finally:
        machine.bridge.respond = good


def lock(tools: SoftwareTpm, *password: str) -> None:
    """A wrong guess at a password, where one is enough; ``password`` is the option for the owner's."""
    tools.run("tpm2_dictionarylockout", "-s", "-n", "1", "-t", "1000", "-l", "1000", *password)
    tools.run("tpm2_createprimary", "-C", "o", "-p", "right", "-c", "locked")
    assert tools.attempt("tpm2_create", "-C", "locked", "-P", "wrong", "-u", "pub", "-r", "priv").returncode
    lines = tools.run("tpm2_getcap", "properties-variable").decode().splitlines()
    assert ["inLockout:", "1"] in [line.split() for line in lines]


def test_a_lockout_by_machines_that_were_switched_off_is_left() -> None:
    """Each of them counts as a guess at the storage key's password, which is empty."""
    with TpmMachine() as machine:
        lock(machine.tools)
        machine.run("seal", ANY_POLICY).good()


def test_a_lockout_that_its_owner_guards_stays() -> None:
    with TpmMachine() as machine:
        machine.tools.run("tpm2_changeauth", "-c", "lockout", "owners")
        lock(machine.tools, "-p", "owners")
        found = machine.run("seal", ANY_POLICY)
        assert (found.code, "the TPM is in lockout" in found.words) == (10, True)
