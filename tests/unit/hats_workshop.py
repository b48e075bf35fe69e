"""What the steps of a recipe of HATs' are tried on: a small kernel, and stand-ins or files that are there."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.machine.hats import HatsShape, RegexForm
from recipes.machine.stage0 import Stage0Generation
from recipes.schema import HatsImage, load_project
from recipes.schema.hats import FileSpec, HatsApplicationSpec, InsecurePlace, SignatureSpec
from recipes.steps.digests import sidecar, sidecar_text
from recipes.steps.hats import bundles, files, golden, machines, names, policies
from recipes.steps.hats.policy_files import PolicyForm, kinds
from recipes.steps.task import write_text
from tests.support import ROOT
from tests.unit import sev_firmware

FACTS = machines.HostFacts(qemu="7.2.22", phys_bits=48, debug_swap=False)
MISSING = ("stage0_bin", "kernel_bin", "initrd.cpio.xz", "system.tar.xz")


def image() -> HatsImage:
    (found,) = load_project(ROOT).hats
    return found


def kernel() -> bytes:
    """A bzImage as far as it is measured: a setup part of two sectors, and what follows it.

    Spec: Linux 6.12 Documentation/arch/x86/boot.rst.
    """
    data = bytearray(2 * 512)
    data[0x1F1] = 1  # setup_sects
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x208] = b"HdrS\x0f\x02"
    data[0x211] = 1  # loaded high
    data[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    data[0x236:0x238] = (3).to_bytes(2, "little")
    data[0x238:0x23C] = (2047).to_bytes(4, "little")
    return bytes(data) + b"the kernel" * 1000


HELLO = HatsApplicationSpec(overlay="app-hats", command=("/usr/bin/hello",))
FORM = PolicyForm(
    regex=RegexForm.STRICT, dynamic=True, insecure=InsecurePlace.APART, signature=SignatureSpec(signer="me")
)


class Workshop:
    """A folder with what the steps make."""

    def __init__(self, folder: Path, shapes: tuple[HatsShape, ...], captures: tuple[Path, ...]) -> None:
        self.folder, self.shapes, self.captures = folder, shapes, captures
        (folder / "vmlinuz").write_bytes(kernel())
        self.missing: tuple[str, ...] = MISSING
        self.files = {role: folder / f"{names.MARK}{role}" for role in files.ROLES}
        self.system, self.runtime = folder / "stand-in.system_bundle.tar", folder / "runtime_bundle.tar"
        self.golden = folder / "golden.json"

    def take_files(self) -> None:
        files.build(
            *self.files.values(),
            brought={},
            places={},
            missing={role: "" if role == names.KERNEL else f"inputs/{role}" for role in MISSING},
            kernel=self.folder / "vmlinuz",
            others=tuple(self.files.values()),
        )

    def bring_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files that are there, with the digests that a recipe has."""
        monkeypatch.setattr(files, "ROOT", self.folder)
        contents = {
            names.STAGE0: sev_firmware.firmware(size=0x10000),
            names.KERNEL: kernel(),
            names.INITRD: b"stage1",
            names.SYSTEM: b"system image",
        }
        (self.folder / "inputs").mkdir()
        brought = {}
        for role, data in contents.items():
            (self.folder / "inputs" / role).write_bytes(data)
            brought[role] = FileSpec(path=f"inputs/{role}", sha256=hashlib.sha256(data).hexdigest())
        self.missing, self.files = (), {role: self.folder / role for role in files.ROLES}
        files.build(
            *self.files.values(),
            brought=brought,
            places=dict.fromkeys(brought, "r.yaml:1:2"),
            missing={},
            kernel=self.folder / "vmlinuz",
            others=tuple(self.files.values()),
        )
        for path in self.files.values():
            write_text(sidecar(path), sidecar_text(path))

    def bundle(self, application: HatsApplicationSpec = HELLO) -> None:
        bundles.build(
            self.system,
            self.runtime,
            files=tuple(self.files.values()),
            application=application,
            where="r.yaml:1:2",
            lock=self.folder / "lock",
            final=self.system,
        )

    def predict(self, facts: machines.HostFacts = FACTS) -> None:
        golden.build(
            self.golden,
            version="1.0.0",
            settings=golden.Settings(
                image="h",
                generation=Stage0Generation.OAK_D6F890B7,
                facts=facts,
                form=RegexForm.STRICT,
                launcher="launcher",
            ),
            shapes=self.shapes,
            files=self.files,
            bundles={"system_bundle": self.system, "runtime_bundle": self.runtime},
            captures=self.captures,
            missing=self.missing,
        )

    def accept(self, key: Path | None = None, form: PolicyForm = FORM) -> dict[str, Path]:
        form = form if key is not None else replace(form, signature=None)
        texts = [name for kind in kinds(self.shapes, form) for name in policies.FILES[kind] if name]
        wanted = (*texts, policies.LAUNCHER, names.CONFIGS, policies.COMMANDS, policies.BLOBS)
        wanted = (*wanted, *([policies.KEY] if key is not None else []))
        made = {name: self.folder / f"made-{name}" for name in wanted}
        for name in (names.CONFIGS, policies.BLOBS):
            shutil.rmtree(made[name], ignore_errors=True)
        policies.build(
            *made.values(),
            names=wanted,
            finals=tuple(self.folder / name for name in wanted),
            unused=(),
            title="h 1.0.0",
            golden=self.golden,
            stage0=self.files["stage0_bin"],
            bundles=(self.system.name, self.runtime.name),
            shapes=self.shapes,
            form=form,
            key=key,
            missing=self.missing,
        )
        return made


def chosen() -> tuple[HatsShape, ...]:
    """One machine of each kind."""
    found = {(shape.machine, shape.network.mode): shape for shape in image().machines}
    return tuple(found.values())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path, chosen(), (image().captures_path,))
    made.take_files()
    made.bundle()
    for path in (*made.files.values(), made.system, made.runtime):
        write_text(sidecar(path), sidecar_text(path))
    return made


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
