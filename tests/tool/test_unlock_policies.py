"""The policies of a golden manifest judged by a TPM (swtpm with tpm2-tools) that has booted as predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.formats import pcrsig
from recipes.formats.tpm2_nv import ROLLBACK_COUNTER
from recipes.formats.uki import UkiSection, build
from recipes.golden.manifest import GoldenMachine
from recipes.golden.unlock import TpmPolicy, UnlockPolicy, boot_digest, register_at_unlock
from recipes.golden.unlock_predict import unlock_policy
from recipes.measure import stub as stub_replay
from recipes.measure import tpm
from recipes.measure.trace import HashAlgorithm
from recipes.measure.ukifile import read_uki
from recipes.measure.userspace import phase_step
from recipes.steps import unlock_keys
from recipes.steps.unlock_policy import sign_policies
from tests.tool.software_tpm import SoftwareTpm
from tests.tool.test_tpm_policy import SECRET, Sealed, extend, public_pem, trial
from tests.unit.boot_images import kernel, key_pair, stub
from tests.unit.unlock_samples import COVERED, literal, machine, signed

pytestmark = pytest.mark.tool

SHA256 = HashAlgorithm.SHA256
MACHINE = machine("a")
KEY, _ = key_pair("policy")
COUNTER = f"{ROLLBACK_COUNTER:#x}"
DEFINE = ("tpm2_nvdefine", COUNTER, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread|authread|no_da")


def boot(software: SoftwareTpm, booted: GoldenMachine, registers: tuple[int, ...] = COVERED) -> None:
    """What a machine extends until volumes are opened."""
    for index in registers:
        trace = booted.trace(register_at_unlock(index))
        assert trace is not None
        extend(software, index, [dict(step.digests) for step in trace.steps])


@pytest.fixture(scope="module")
def booted() -> Iterator[SoftwareTpm]:
    """A TPM in the moment in which volumes are opened, with a counter that has been raised once."""
    with SoftwareTpm() as software:
        boot(software, MACHINE)
        software.run(*DEFINE)
        software.run("tpm2_nvincrement", "-C", "o", COUNTER)
        yield software


def predicted(policy: TpmPolicy) -> UnlockPolicy:
    signer = unlock_keys.policy_signer(public_pem(KEY))
    return unlock_policy(
        "data", policy, [MACHINE], signer=signer if policy.sealing.value == "signed" else None
    )


# tpm2_policypcr takes eight at most.
@pytest.mark.parametrize("registers", [(11,), (4, 11), (4, 7, 11), COVERED[:8], COVERED[-8:]])
def test_literal_policies(booted: SoftwareTpm, registers: tuple[int, ...]) -> None:
    selection = f"sha256:{','.join(map(str, registers))}"
    (item,) = predicted(literal(*registers)).machines
    assert trial(booted, SHA256, ("tpm2_policypcr", "-l", selection)) == item.digest


def test_a_literal_policy_from_values_alone(booted: SoftwareTpm) -> None:
    """tpm2_policypcr takes the manifest's values from a file, whatever the TPM holds."""
    other = machine("another")
    values = [other.value(register_at_unlock(index), SHA256) or b"" for index in (0, 4, 11)]
    booted.write("values", b"".join(values))
    theirs = trial(booted, SHA256, ("tpm2_policypcr", "-l", "sha256:0,4,11", "-f", "values"))
    assert theirs == boot_digest(other.value, (0, 4, 11))
    assert theirs != boot_digest(MACHINE.value, (0, 4, 11))


@pytest.mark.parametrize("pcrs", [(), (7,)])
def test_signed_policies(booted: SoftwareTpm, pcrs: tuple[int, ...]) -> None:
    policy = predicted(signed(*pcrs))
    selection = f"sha256:{','.join(map(str, policy.registers))}"
    assert trial(booted, SHA256, ("tpm2_policypcr", "-l", selection)) == policy.machines[0].digest
    booted.write("key.pem", public_pem(KEY))
    booted.run("tpm2_loadexternal", "-C", "o", "-G", "rsa", "-u", "key.pem", "-c", "key.ctx", "-n", "name")
    booted.write("any", bytes(32))
    sealed = trial(booted, SHA256, ("tpm2_policyauthorize", "-i", "any", "-n", "name"))
    assert policy.approval is not None
    assert sealed == policy.approval.sealed == unlock_keys.signed_policy_digest(public_pem(KEY))


def test_a_policy_that_forbids_rollback(booted: SoftwareTpm) -> None:
    booted.write("release", (3).to_bytes(8, "big"))
    commands = (
        ("tpm2_policynv", "-i", "release", "-C", "o", COUNTER, "ule"),
        ("tpm2_policypcr", "-l", "sha256:11"),
    )
    assert trial(booted, SHA256, *commands) == predicted(signed(release=3)).machines[0].digest


def test_a_key_as_a_tpm_loads_it(booted: SoftwareTpm) -> None:
    """The public area that the initramfs carries has the name that tpm2-tools give the PEM file."""
    booted.write("key.pub", unlock_keys.tpm_public(public_pem(KEY)))
    booted.run("tpm2_loadexternal", "-C", "o", "-u", "key.pub", "-c", "key.ctx", "-n", "name")
    assert booted.read("name") == unlock_keys.policy_signer(public_pem(KEY)).name


def test_the_signature_in_a_uki_opens_its_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, signed and booted: what was sealed at the first boot opens in the release after it, too."""
    made = tmp_path / "pcr.key"
    monkeypatch.setattr(unlock_keys, "PRIVATE", made)
    monkeypatch.setattr(unlock_keys, "PUBLIC", tmp_path / "pcr.pub")
    monkeypatch.setattr(unlock_keys, "FOLDER", tmp_path)
    unlock_keys.make()
    public = (tmp_path / "pcr.pub").read_bytes()
    with SoftwareTpm() as software:
        sealed = Sealed(software, unlock_keys.private_key())
        assert software.read("authorized") == unlock_keys.signed_policy_digest(public)
        for release in (b"1", b"2"):
            payload = {".linux": kernel(), ".osrel": b"IMAGE_VERSION=" + release, ".pcrpkey": public}
            image = build(stub(), [UkiSection(name, data) for name, data in payload.items()])
            (entry,) = sign_policies(image, "u.efi", signed(), ())
            assert pcrsig.parse(pcrsig.render([entry]), "u.efi") == (entry,)
            (trace,) = tpm.traces(stub_replay.section_steps(read_uki(image, "u.efi")))
            restart(software)
            extend(software, 11, [dict(step.digests) for step in (*trace.steps, phase_step("enter-initrd"))])
            assert sealed.open(entry) == ("", SECRET)


def restart(software: SoftwareTpm) -> None:
    """Power off and on: PCRs start again, NV memory and seeds stay, and so does what they protect."""
    software.run("tpm2_shutdown", "-c")
    software.run("swtpm_ioctl", "--unix", f"{software.server}.ctrl", "-i")
    software.run("tpm2_startup", "-c")
    software.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")


@pytest.mark.parametrize(("pcrs", "opens"), [((12,), True), ((7, 12), False)])
def test_another_program_can_extend_pcr_11_and_not_pcr_7(pcrs: tuple[int, ...], opens: bool) -> None:
    """Why the linter warns of a signature over PCR 11 alone.

    The machine boots a program of the host's choice, without Secure Boot, and that extends what the manifest
    says.
    """
    policy = predicted(signed(*pcrs))
    digest = policy.machines[0].digest
    assert digest is not None
    entry = pcrsig.sign(KEY, "sha256", policy.registers, digest)
    with SoftwareTpm() as software:
        sealed = Sealed(software, KEY)
        boot(software, machine("without Secure Boot"), (7,))
        boot(software, MACHINE, (11, 12))
        failed = "" if opens else "tpm2_policyauthorize"
        assert sealed.open(entry) == (failed, SECRET if opens else b"")
