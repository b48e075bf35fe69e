from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from recipes.errors import SpecError, VerifyError
from recipes.formats import cpio, pcrsig, varstore
from recipes.formats.pe import PeImage
from recipes.machine import Accelerator, QemuMachine, TpmInterface, UefiFirmware
from recipes.measure import boot
from recipes.measure.boot import BootInputs
from recipes.measure.stub import StubInputs
from recipes.measure.trace import HashAlgorithm
from recipes.measure.ukifile import read_uki
from recipes.schema.volumes import FormatPolicy, Tpm2Spec, TpmSealing, UnlockSpec
from recipes.steps import kernel as kernel_step
from recipes.steps import keys, uki, unlock_keys, unlock_policy, verity
from recipes.steps.unlock_policy import SecureMachine
from recipes.steps.volumes import Volume
from recipes.units import MIB
from tests.unit.boot_images import kernel, signing_key, stub
from tests.unit.test_golden_unlock import policy_nv, policy_pcr
from tests.unit.test_measure_boot import ENROLLED
from tests.unit.test_steps_unlock_keys import public_of
from tests.unit.unlock_samples import extended

SHA256 = HashAlgorithm.SHA256
POLICY_KEY = signing_key("policy").private_key
MACHINE = QemuMachine(
    name="secure",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="max",
    vcpus=1,
    memory=512 * MIB,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd", secure_boot=True),
    tpm=TpmInterface.CRB,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with keys, a kernel and an initramfs; the stub is the tests' own."""
    made = signing_key("test db")
    (tmp_path / "db.key").write_bytes(made.private_key)
    (tmp_path / "db.pem").write_bytes(made.certificate)
    (tmp_path / "pcr.key").write_bytes(POLICY_KEY)
    (tmp_path / "pcr.key").chmod(0o600)
    (tmp_path / "pcr.pub").write_bytes(public_of(POLICY_KEY))
    (tmp_path / "linux").write_bytes(kernel())
    (tmp_path / "initrd").write_bytes(b"initramfs" * 111)
    (tmp_path / "vars").write_bytes(b"a store with our keys")
    monkeypatch.setattr(varstore, "read", lambda *_: ENROLLED)
    monkeypatch.setattr(keys, "FOLDER", tmp_path)
    monkeypatch.setattr(unlock_keys, "PRIVATE", tmp_path / "pcr.key")
    monkeypatch.setattr(unlock_keys, "PUBLIC", tmp_path / "pcr.pub")
    monkeypatch.setattr(uki, "read_stub", lambda *_: stub())
    monkeypatch.setattr(kernel_step, "release_of", lambda _: "6.12.0-test")
    facts = verity.VerityFacts(root_hash=bytes(32), data_partition=UUID(int=1), hash_partition=UUID(int=2))
    monkeypatch.setattr(verity, "read_facts", lambda _: facts)
    return tmp_path


def volume(spec: UnlockSpec) -> Volume:
    return Volume(
        name="data",
        image="test",
        key=("data",),
        partition=str(UUID(int=3)),
        mountpoint="/var",
        unlock=spec,
        format=FormatPolicy.IF_BLANK,
    )


def built(folder: Path, spec: UnlockSpec, machines: tuple[SecureMachine, ...] = ()) -> bytes:
    target = folder / "out.efi"
    uki.build(
        target,
        lock=folder,
        linux=folder / "linux",
        facts=folder,
        initrd=folder / "initrd",
        root=(folder,),
        cmdline="console=ttyS0",
        name="test",
        version="3",
        suite="trixie",
        opened=(volume(spec),),
        machines=machines,
    )
    return target.read_bytes()


def tpm2(**options: Any) -> UnlockSpec:
    return UnlockSpec(unlock=("tpm2",), tpm2=Tpm2Spec(**{"pcrs": (11,), **options}))


EPHEMERAL = UnlockSpec(unlock=("ephemeral",))
# systemd-stub 257 measures sections in this order. Spec: src/fundamental/uki.c.
MEASURED = (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".pcrpkey")


def sections(data: bytes) -> dict[str, bytes]:
    image = PeImage.parse(data, "u.efi")
    return {item.name: image.section_data(item.name) for item in image.sections}


def pcr_11(data: bytes, *phases: bytes) -> bytes:
    """By hand: each section's name with a NUL, then its content; .pcrsig is passed over."""
    found = sections(data)
    parts = [part for name in MEASURED if name in found for part in (f"{name}\0".encode(), found[name])]
    return extended(*parts, *phases)


@pytest.mark.parametrize("spec", [EPHEMERAL, tpm2(policy=TpmSealing.LITERAL, pcrs=(4, 11))])
def test_without_a_signed_policy_there_is_nothing_new(folder: Path, spec: UnlockSpec) -> None:
    (folder / "pcr.key").unlink()
    (folder / "pcr.pub").unlink()
    assert not {".pcrsig", ".pcrpkey"} & set(sections(built(folder, spec)))
    assert built(folder, spec) == built(folder, EPHEMERAL)


@pytest.mark.parametrize("spec", [tpm2(), tpm2(release=3)])
def test_the_key_approves_what_the_stub_measures(folder: Path, spec: UnlockSpec) -> None:
    image = built(folder, spec)
    found = sections(image)
    assert found[".pcrpkey"] == public_of(POLICY_KEY)
    before = policy_nv(0x01801C00, 3) if spec.tpm2 and spec.tpm2.release else bytes(32)
    expected = policy_pcr({11: pcr_11(image, b"enter-initrd")}, before)
    (entry,) = pcrsig.parse(found[".pcrsig"], "u.efi")
    assert (entry.bank, entry.registers, entry.policy) == ("sha256", (11,), expected)
    public = unlock_keys.load_public(public_of(POLICY_KEY), "p")
    pcrsig.verify(entry, public)
    assert unlock_policy.signatures_of(read_uki(image, "u.efi"), public_of(POLICY_KEY)) == (entry,)
    assert built(folder, spec) == image


def prediction(image: bytes) -> boot.Prediction:
    inputs = BootInputs(
        firmware_code=b"",
        firmware_model=None,
        variables=ENROLLED,
        gpt_event=b"",
        stub=StubInputs(name="u.efi", uki=image),
    )
    return boot.replay_boot(MACHINE, boot.prepare(inputs))


def test_secure_boot_is_signed_for(folder: Path) -> None:
    """With PCR 7 the digest is that of the finished image on a machine whose db has our certificate."""
    pair = (
        SecureMachine(MACHINE, folder / "vars"),
        SecureMachine(replace(MACHINE, name="b"), folder / "vars"),
    )
    image = built(folder, tpm2(pcrs=(7,)), pair)
    (entry,) = pcrsig.parse(sections(image)[".pcrsig"], "u.efi")
    seven = prediction(image).value("PCR7", SHA256)
    assert any(seven)
    assert entry.registers == (7, 11)
    assert entry.policy == policy_pcr({7: seven, 11: pcr_11(image, b"enter-initrd")})


def test_policies_that_cannot_stand_in_the_image(folder: Path) -> None:
    message = "^data.tpm2: a signed policy on PCR 4, 11 cannot stand in the UKI; use PCR 7, 11 and 12$"
    with pytest.raises(SpecError, match=message):
        built(folder, tpm2(pcrs=(4,)))
    message = "^data.tpm2: PCR 7 is to be signed, and no machine has Secure Boot; add a machine with such"
    with pytest.raises(SpecError, match=message):
        built(folder, tpm2(pcrs=(7,)))


def test_the_initramfs_finds_signature_and_key(folder: Path) -> None:
    """PCR 9 holds the initrd as the stub combines it: ours, then an archive for each of three sections."""
    image = built(folder, tpm2())
    found = sections(image)
    parts = [found[".initrd"]]
    for name, file in (
        (".pcrsig", "tpm2-pcr-signature.json"),
        (".pcrpkey", "tpm2-pcr-public-key.pem"),
        (".osrel", "os-release"),
    ):
        entries = [
            cpio.CpioEntry(name=".extra", mode=0o040555, ino=1),
            cpio.CpioEntry(name=f".extra/{file}", data=found[name], mode=0o100444, ino=2),
        ]
        parts.append(cpio.pack_entries(entries))
    combined = b"".join(part + bytes(-len(part) % 4) for part in parts)
    line = found[".cmdline"].decode().encode("utf-16-le") + b"\0\0"
    assert prediction(image).value("PCR9", SHA256) == extended(line, combined)


def test_signatures_of_another_image_are_refused(folder: Path) -> None:
    public, other = public_of(POLICY_KEY), public_of(signing_key("other").private_key)
    with pytest.raises(VerifyError, match=r"^u: has no \.pcrsig; build the UKI again$"):
        unlock_policy.signatures_of(read_uki(built(folder, EPHEMERAL), "u"), public)
    image = read_uki(built(folder, tpm2()), "u")
    with pytest.raises(
        VerifyError, match=r"^u: has another \.pcrpkey than keys/pcr.pub; build the UKI again$"
    ):
        unlock_policy.signatures_of(image, other)
    (entry,) = pcrsig.parse(image.data(".pcrsig") or b"", "u")
    wrong = pcrsig.render([replace(entry, signature=entry.signature[::-1])])
    forged = tuple(replace(item, data=wrong) if item.name == ".pcrsig" else item for item in image.sections)
    with pytest.raises(VerifyError, match=r"^u \.pcrsig: the signature is not the key's over policy"):
        unlock_policy.signatures_of(replace(image, sections=forged), public)
