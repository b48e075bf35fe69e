"""Predicted policies judged by a TPM (swtpm with tpm2-tools) and by systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from recipes.errors import VerifyError
from recipes.formats import pcrsig
from recipes.formats.tpm2 import Alg
from recipes.formats.tpm2_nv import NvAttribute, NvPublic, read_nv_public, rollback_counter
from recipes.formats.tpm2_public import (
    ENDORSEMENT_POLICY,
    PublicKey,
    endorsement_public,
    external_public,
    read_sized_public,
)
from recipes.golden.unlock import Rollback
from recipes.measure import stub, tpm
from recipes.measure.stub import StubInputs
from recipes.measure.tpm_policy import (
    RH_ENDORSEMENT,
    Operation,
    PcrValue,
    PolicySession,
)
from recipes.measure.trace import HashAlgorithm, Trace, measured
from recipes.measure.userspace import phase_step
from tests.support import require_tool
from tests.tool.boot_policies import PHASE_PATHS, phase_policies, unlock_digest
from tests.tool.software_tpm import SoftwareTpm
from tests.unit.measure_images import kernel, uki

pytestmark = pytest.mark.tool

SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384
COUNTER = 0x01500016
BANK_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
SECRET = b"a volume key, 32 bytes, no more."
SECTIONS = {"osrel": b"ID=x\nVERSION_ID=1\n", "cmdline": b"console=ttyS0", "initrd": b"070701" * 900}


@pytest.fixture(scope="module")
def signer() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def busy() -> Iterator[SoftwareTpm]:
    """A TPM whose PCRs hold something, and whose counter has been raised once."""
    with SoftwareTpm() as software:
        for index in (0, 7, 11, 12, 23):
            extend(software, index, [measured(bytes([index])).digests])
        counter = f"{COUNTER:#x}"
        attributes = "nt=counter|ownerwrite|ownerread|authread|no_da"
        software.run("tpm2_nvdefine", counter, "-C", "o", "-a", attributes)
        software.run("tpm2_nvincrement", "-C", "o", counter)
        yield software


def extend(software: SoftwareTpm, index: int, all_digests: Sequence[Mapping[HashAlgorithm, bytes]]) -> None:
    for digests in all_digests:
        texts = (f"{algorithm.value}={digest.hex()}" for algorithm, digest in digests.items())
        software.run("tpm2_pcrextend", f"{index}:{','.join(texts)}")


def pcr_values(software: SoftwareTpm, selection: str) -> list[PcrValue]:
    """What the TPM says that PCRs hold."""
    found = []
    for bank in selection.split("+"):
        name, _, indexes = bank.partition(":")
        for index in indexes.split(","):
            software.run("tpm2_pcrread", f"{name}:{index}", "-o", "one")
            found.append(PcrValue(HashAlgorithm(name), int(index), software.read("one")))
    return found


def trial(software: SoftwareTpm, algorithm: HashAlgorithm, *commands: Sequence[object]) -> bytes:
    """The digest that a TPM's trial session ends with."""
    software.run("tpm2_startauthsession", "-S", "s.ctx", "-g", algorithm.value)
    for name, *arguments in commands:
        software.run(str(name), "-S", "s.ctx", "-L", "policy", *arguments)
    software.run("tpm2_flushcontext", "s.ctx")
    return software.read("policy")


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("algorithm", [SHA256, SHA384])
@pytest.mark.parametrize(
    "selection",
    [
        "sha256:11",
        "sha384:11",
        "sha512:0,7",
        "sha1:23",
        "sha256:7,11",
        "sha256:0,1,2,3,8,15,16,17",
        "sha384:18,19,20,21,22,23",
        "sha1:0,7+sha256:11",
        "sha256:11,12+sha1:0",
        "sha384:7+sha512:11+sha256:0,23",
    ],
)
def test_policy_pcr(busy: SoftwareTpm, selection: str, algorithm: HashAlgorithm) -> None:
    theirs = trial(busy, algorithm, ("tpm2_policypcr", "-l", selection))
    assert PolicySession(algorithm).policy_pcr(pcr_values(busy, selection)) == theirs
    assert len(theirs) == algorithm.size


def test_policies_add_up(busy: SoftwareTpm) -> None:
    commands = (
        ("tpm2_policypcr", "-l", "sha256:7"),
        ("tpm2_policycommandcode", "TPM2_CC_Unseal"),
        ("tpm2_policypcr", "-l", "sha256:11"),
        ("tpm2_policyauthvalue",),
    )
    session = PolicySession()
    session.policy_pcr(pcr_values(busy, "sha256:7"))
    session.policy_command_code(0x15E)
    session.policy_pcr(pcr_values(busy, "sha256:11"))
    session.policy_auth_value()
    assert session.digest == trial(busy, SHA256, *commands)


@pytest.mark.parametrize("algorithm", [SHA256, SHA384])
@pytest.mark.parametrize("reference", [b"", b"goldsmith release 7"])
@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384"])
def test_policy_authorize(busy: SoftwareTpm, kind: str, reference: bytes, algorithm: HashAlgorithm) -> None:
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind in curves:
        key = ec.generate_private_key(curves[kind])
    else:
        key = rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    busy.write("key.pem", public_pem(key))
    family = "ecc" if kind in curves else "rsa"
    busy.run("tpm2_loadexternal", "-C", "o", "-G", family, "-u", "key.pem", "-c", "key.ctx", "-n", "name")
    name = external_public(key.public_key()).name
    assert name == busy.read("name")

    busy.write("approved", bytes(algorithm.size))
    busy.write("reference", reference)
    arguments = ["-i", "approved", "-n", "name", *(["-q", "reference"] if reference else [])]
    before = ("tpm2_policypcr", "-l", "sha256:11")
    theirs = trial(busy, algorithm, before, ("tpm2_policyauthorize", *arguments))
    session = PolicySession(algorithm)
    session.policy_pcr(pcr_values(busy, "sha256:11"))
    assert session.policy_authorize(name, reference) == theirs


def nv_public(software: SoftwareTpm, index: int) -> tuple[NvPublic, bytes]:
    """What tpm2_nvreadpublic prints, as a structure, and the name it gives."""
    text = software.run("tpm2_nvreadpublic", f"{index:#x}").decode()
    fields = dict(line.strip().split(": ", 1) for line in text.splitlines() if ": " in line)
    values = [line.split()[-1] for line in text.splitlines() if "value:" in line]
    public = NvPublic(index=index, attributes=NvAttribute(int(values[1], 16)), size=int(fields["size"]))
    return public, bytes.fromhex(fields["name"])


def test_name_of_a_counter(busy: SoftwareTpm) -> None:
    public, name = nv_public(busy, COUNTER)
    assert rollback_counter(COUNTER).written() == public
    assert public.name == name
    assert rollback_counter(COUNTER).name != name
    assert read_nv_public(public.pack(), "counter") == public


@pytest.mark.parametrize(
    ("operation", "word"),
    [
        *((Operation.EQ, "eq"), (Operation.NEQ, "neq"), (Operation.BITSET, "bs"), (Operation.BITCLEAR, "bc")),
        *((Operation.SIGNED_GT, "sgt"), (Operation.UNSIGNED_GT, "ugt")),
        *((Operation.SIGNED_LT, "slt"), (Operation.UNSIGNED_LT, "ult")),
        *((Operation.SIGNED_GE, "sge"), (Operation.UNSIGNED_GE, "uge")),
        *((Operation.SIGNED_LE, "sle"), (Operation.UNSIGNED_LE, "ule")),
    ],
)
def test_policy_nv_operations(busy: SoftwareTpm, operation: Operation, word: str) -> None:
    operand = (7).to_bytes(8, "big")
    busy.write("operand", operand)
    theirs = trial(busy, SHA256, ("tpm2_policynv", "-i", "operand", "-C", "o", f"{COUNTER:#x}", word))
    name = rollback_counter(COUNTER).written().name
    assert PolicySession().policy_nv(name, operand, operation) == theirs


@pytest.mark.parametrize("algorithm", [SHA256, SHA384])
@pytest.mark.parametrize(("offset", "operand"), [(0, bytes(8)), (4, b"\0\0\0\1"), (7, b"\2")])
def test_policy_nv_operands(busy: SoftwareTpm, offset: int, operand: bytes, algorithm: HashAlgorithm) -> None:
    busy.write("operand", operand)
    arguments = ("-i", "operand", "--offset", offset, "-C", "o", f"{COUNTER:#x}", "ule")
    theirs = trial(busy, algorithm, ("tpm2_policynv", *arguments))
    name = rollback_counter(COUNTER).written().name
    session = PolicySession(algorithm)
    assert session.policy_nv(name, operand, Operation.UNSIGNED_LE, offset) == theirs


@pytest.mark.parametrize("algorithm", [SHA256, SHA384])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_policy_or(busy: SoftwareTpm, count: int, algorithm: HashAlgorithm) -> None:
    branches = [algorithm.digest(bytes([number])) for number in range(count)]
    for number, branch in enumerate(branches):
        busy.write(f"branch{number}", branch)
    names = ",".join(f"branch{number}" for number in range(count))
    theirs = trial(busy, algorithm, ("tpm2_policyor", f"{algorithm.value}:{names}"))
    assert PolicySession(algorithm).policy_or(branches) == theirs


def test_policy_secret_is_that_of_endorsement_keys(busy: SoftwareTpm) -> None:
    theirs = trial(busy, SHA256, ("tpm2_policysecret", "-c", "e"))
    assert PolicySession().policy_secret(RH_ENDORSEMENT) == theirs == ENDORSEMENT_POLICY


@pytest.mark.parametrize("family", ["rsa", "ecc"])
def test_public_areas_of_default_keys(busy: SoftwareTpm, family: str) -> None:
    busy.run("tpm2_createek", "-G", family, "-c", "ek.ctx", "-u", "ek.pub")
    busy.run("tpm2_readpublic", "-c", "ek.ctx", "-n", "ek.name", "-f", "pem", "-o", "ek.pem")
    public = read_sized_public(busy.read("ek.pub"), "ek")
    assert public.name == busy.read("ek.name")
    key: PublicKey = public.public_key()
    assert key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) == busy.read("ek.pem")
    assert endorsement_public(key) == public
    assert len(public.pack()).to_bytes(2, "big") + public.pack() == busy.read("ek.pub")


def boot_trace() -> Trace:
    """PCR 11 of a small UKI when its kernel starts."""
    steps = stub.stub_steps(stub.prepare(StubInputs(name="u.efi", uki=uki(**SECTIONS))))
    return next(trace for trace in tpm.traces(steps) if trace.register == "PCR11")


def boot(software: SoftwareTpm, trace: Trace, *phases: str) -> None:
    """What a machine that boots this extends."""
    extend(software, 11, [dict(step.digests) for step in (*trace.steps, *map(phase_step, phases))])


class Sealed:
    """A secret sealed under whatever policy a key approves, and the way to open it."""

    def __init__(self, software: SoftwareTpm, key: rsa.RSAPrivateKey) -> None:
        self.software = software
        software.write("signer.pem", public_pem(key))
        software.write("secret", SECRET)
        name = external_public(key.public_key()).name
        software.write("authorized", PolicySession().policy_authorize(name))
        software.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
        self.make = ("-u", "sealed.pub", "-r", "sealed.priv", "-L", "authorized", "-i", "secret")
        software.run("tpm2_create", "-C", "primary.ctx", *self.make)

    def open(self, entry: pcrsig.PcrSignature, *before: Sequence[object]) -> tuple[str, bytes]:
        """The step that failed, or the secret."""
        software = self.software
        software.write("pol", entry.policy)
        software.write("sig", entry.signature)
        software.run(
            "tpm2_loadexternal", "-C", "o", "-G", "rsa", "-u", "signer.pem", "-c", "k.ctx", "-n", "n"
        )
        verify = ("-c", "k.ctx", "-g", "sha256", "-m", "pol", "-s", "sig", "-f", "rsassa", "-t", "ticket")
        software.run("tpm2_verifysignature", *verify)
        software.run("tpm2_startauthsession", "-S", "p.ctx", "--policy-session")
        try:
            selection = f"{entry.bank}:{','.join(map(str, entry.registers))}"
            steps = [*before, ("tpm2_policypcr", "-S", "p.ctx", "-l", selection)]
            authorize = ("-S", "p.ctx", "-i", "pol", "-n", "n", "-t", "ticket")
            steps.append(("tpm2_policyauthorize", *authorize))
            for step in steps:
                if software.attempt(str(step[0]), *step[1:]).returncode:
                    return str(step[0]), b""
            load = ("-C", "primary.ctx", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed.ctx")
            software.run("tpm2_load", *load)
            done = software.attempt("tpm2_unseal", "-c", "sealed.ctx", "-p", "session:p.ctx")
            return ("tpm2_unseal", b"") if done.returncode else ("", done.stdout)
        finally:
            software.run("tpm2_flushcontext", "p.ctx")


@pytest.mark.parametrize("bank", [SHA256, SHA384])
def test_the_signed_policy_opens_one_phase_of_one_boot(
    signer: rsa.RSAPrivateKey, bank: HashAlgorithm
) -> None:
    trace = boot_trace()
    entry = pcrsig.sign(signer, bank.value, [11], unlock_digest(trace, bank=bank))
    (policy,) = phase_policies(trace, [bank], [("enter-initrd",)])
    assert policy.digest == entry.policy
    with SoftwareTpm() as software:
        sealed = Sealed(software, signer)
        boot(software, trace)
        assert sealed.open(entry) == ("tpm2_policyauthorize", b"")
        extend(software, 11, [dict(phase_step("enter-initrd").digests)])
        assert pcr_values(software, f"{bank.value}:11") == [policy.value]
        assert sealed.open(entry) == ("", SECRET)
        extend(software, 11, [dict(phase_step("leave-initrd").digests)])
        assert sealed.open(entry) == ("tpm2_policyauthorize", b"")


def test_an_update_opens_and_a_rollback_is_refused(signer: rsa.RSAPrivateKey) -> None:
    """Three releases of one signer; the counter is raised after the second's first good boot."""
    trace = boot_trace()
    entries = {}
    for release in (1, 2, 3):
        digest = unlock_digest(trace, rollback=Rollback(COUNTER, release))
        entries[release] = pcrsig.sign(signer, "sha256", [11], digest)
    with SoftwareTpm() as software:
        index = f"{COUNTER:#x}"
        software.run(
            "tpm2_nvdefine", index, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread|authread|no_da"
        )
        software.run("tpm2_nvincrement", "-C", "o", index)
        sealed = Sealed(software, signer)
        boot(software, trace, "enter-initrd")

        def opens(release: int, claimed: int) -> tuple[str, bytes]:
            operand = software.write("operand", claimed.to_bytes(8, "big"))
            return sealed.open(
                entries[release], ("tpm2_policynv", "-S", "p.ctx", "-i", operand, "-C", "o", index, "ule")
            )

        assert [opens(release, release) for release in (1, 2, 3)] == [("", SECRET)] * 3
        software.run("tpm2_nvincrement", "-C", "o", index)
        assert opens(1, 1) == ("tpm2_policynv", b"")
        assert opens(1, 2) == ("tpm2_policyauthorize", b"")
        assert opens(2, 2) == opens(3, 3) == ("", SECRET)


def test_a_counter_defined_anew_is_not_lower() -> None:
    with SoftwareTpm() as software:
        index = f"{COUNTER:#x}"
        define = ("tpm2_nvdefine", index, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread|authread|no_da")
        software.run(*define)
        for _ in range(3):
            software.run("tpm2_nvincrement", "-C", "o", index)
        assert software.run("tpm2_nvread", index, "-C", "o") == (3).to_bytes(8, "big")
        software.run("tpm2_nvundefine", index, "-C", "o")
        software.run(*define)
        software.run("tpm2_nvincrement", "-C", "o", index)
        assert software.run("tpm2_nvread", index, "-C", "o") == (4).to_bytes(8, "big")


def systemd_measure(software: SoftwareTpm, key: rsa.RSAPrivateKey, *options: str) -> bytes:
    program = require_tool("/usr/lib/systemd/systemd-measure")
    arguments = ["sign", "--json=short", f"--tpm2-device={software.tcti}", *options]
    for name, data in {"linux": kernel(), **SECTIONS}.items():
        arguments.append(f"--{name}={software.write(name, data)}")
    arguments.append(f"--private-key={software.write('private.pem', private_pem(key))}")
    arguments.append(f"--public-key={software.write('public.pem', public_pem(key))}")
    return software.run(program, *arguments)


@pytest.mark.parametrize("paths", [PHASE_PATHS, (("enter-initrd",),), (("a", "b"), ("enter-initrd",))])
def test_systemd_measure_signs_the_same(
    busy: SoftwareTpm, signer: rsa.RSAPrivateKey, paths: tuple[tuple[str, ...], ...]
) -> None:
    options = ["--bank=sha256"]
    if paths != PHASE_PATHS:
        options += [f"--phase={':'.join(path)}" for path in paths]
    theirs = systemd_measure(busy, signer, *options)
    policies = phase_policies(boot_trace(), [SHA256], paths)
    ours = [pcrsig.sign(signer, "sha256", [11], each.digest) for each in policies]
    assert pcrsig.render(ours) == theirs
    read = pcrsig.parse(theirs, "systemd-measure")
    assert list(read) == ours
    for entry in read:
        pcrsig.verify(entry, signer.public_key())


def test_systemd_measure_has_the_same_policies_in_every_bank(
    busy: SoftwareTpm, signer: rsa.RSAPrivateKey
) -> None:
    """Policies alone: systemd-measure signs with the bank's hash, which a TPM takes for SHA-256 only.

    The key's nameAlg is SHA-256, and TPM2_VerifySignature and TPM2_PolicyAuthorize hash with that. Ours signs
    with SHA-256 in every bank, as the test that opens a secret in the SHA-384 bank shows.
    """
    theirs = pcrsig.parse(systemd_measure(busy, signer), "systemd-measure")
    policies = phase_policies(boot_trace(), list(HashAlgorithm))
    ours = [pcrsig.sign(signer, each.value.algorithm.value, [11], each.digest) for each in policies]
    assert len(theirs) == 4 * len(PHASE_PATHS)
    for entry, own in zip(theirs, ours, strict=True):
        assert replace(entry, signature=own.signature) == own
        with_hash = BANK_HASHES[entry.bank]
        signer.public_key().verify(entry.signature, entry.policy, PKCS1v15(), with_hash)
        if entry.bank != "sha256":
            with pytest.raises(VerifyError):
                pcrsig.verify(entry, signer.public_key())


def test_systemd_enrols_the_same_policy(busy: SoftwareTpm, signer: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    """The token in a LUKS2 header has the digest of PolicyAuthorize for the key."""
    disk, password = tmp_path / "disk", busy.write("password", b"x")
    with disk.open("wb") as file:
        file.truncate(20 << 20)
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    busy.run("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *cheap, disk, password)
    busy.write("public.pem", public_pem(signer))
    enrol = ("systemd-cryptenroll", f"--tpm2-device={busy.tcti}", "--tpm2-pcrs=", "--tpm2-public-key-pcrs=11")
    busy.run("env", "PASSWORD=x", *enrol, f"--tpm2-public-key={busy.folder / 'public.pem'}", disk)
    header = json.loads(busy.run("cryptsetup", "luksDump", "--dump-json-metadata", disk))
    (token,) = header["tokens"].values()
    name = external_public(signer.public_key(), Alg.SHA256).name
    assert token["tpm2-policy-hash"] == PolicySession().policy_authorize(name).hex()
