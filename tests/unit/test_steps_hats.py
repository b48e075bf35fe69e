"""The steps of a recipe of HATs', run on a small kernel: with stand-ins, and with files that are there."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.errors import ImageError, SpecError
from recipes.golden import manifest_reader
from recipes.hats import policy, signature, stand_in
from recipes.machine.hats import HatsShape, RegexForm
from recipes.machine.stage0 import Stage0Generation
from recipes.schema import HatsImage, load_project
from recipes.schema.hats import FileSpec, HatsApplicationSpec, SignatureSpec
from recipes.steps.digests import sidecar, sidecar_text
from recipes.steps.hats import bundles, capture, files, golden, keys, machines, names, policies
from recipes.steps.task import write_text
from tests.support import ROOT

FACTS = machines.HostFacts(qemu="7.2.22", phys_bits=48, debug_swap=False)
MISSING = ("stage0_bin", "initrd.cpio.xz", "system.tar.xz")


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


class Workshop:
    """A folder with what the steps make."""

    def __init__(self, folder: Path, shapes: tuple[HatsShape, ...], captures: tuple[Path, ...]) -> None:
        self.folder, self.shapes, self.captures = folder, shapes, captures
        (folder / "vmlinuz").write_bytes(kernel())
        marked = {role: names.MARK + role if role in MISSING else role for role in files.ROLES}
        self.files = {role: folder / name for role, name in marked.items()}
        self.system, self.runtime = folder / "stand-in.system_bundle.tar", folder / "runtime_bundle.tar"
        self.golden = folder / "golden.json"

    def take_files(self) -> None:
        files.build(
            *self.files.values(),
            brought={},
            places={role: f"inputs/{role}" for role in MISSING},
            kernel=self.folder / "vmlinuz",
            others=tuple(self.files.values()),
        )

    def bundle(self) -> None:
        bundles.build(
            self.system,
            self.runtime,
            files=tuple(self.files.values()),
            application=HatsApplicationSpec(overlay="app-hats", command=("/usr/bin/hello",)),
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
            missing=MISSING,
        )

    def accept(self, key: Path | None = None) -> dict[str, Path]:
        signed = SignatureSpec(signer="me") if key is not None else None
        plain = [policies.POLICY, policies.BINARY, policies.LAUNCHER, names.CONFIGS, policies.COMMANDS]
        wanted = (*plain, policies.DYNAMIC, policies.BLOBS, *([policies.KEY] if key is not None else []))
        made = {name: self.folder / f"made-{name}" for name in wanted}
        policies.build(
            *made.values(),
            names=wanted,
            finals=tuple(self.folder / name for name in wanted),
            title="h 1.0.0",
            golden=self.golden,
            stage0=self.files["stage0_bin"],
            bundles=(self.system.name, self.runtime.name),
            shapes=self.shapes,
            form=policies.PolicyForm(regex=RegexForm.STRICT, dynamic=True, signature=signed),
            key=key,
            missing=MISSING,
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


def test_stand_ins_say_what_they_are(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.take_files()
    said = capsys.readouterr().out
    for role in MISSING:
        assert workshop.files[role].read_bytes().startswith(f"Goldsmith stand-in for {role}".encode())
        assert f"inputs/{role} is not there, and a stand-in takes the place of {role}" in said
    assert workshop.files["kernel_bin"].read_bytes() == kernel()
    assert names.MARK.removesuffix(".") == stand_in.MARK


def test_names_that_a_former_build_gave_are_gone(workshop: Workshop) -> None:
    left = [
        workshop.folder / name for name in ("stage0_bin", "stage0_bin.digest.json", "stand-in.kernel_bin")
    ]
    for path in left:
        path.write_text("old")
    (workshop.folder / "launcher").mkdir()
    (workshop.folder / "launcher" / "old.txtpb").write_text("old")
    workshop.take_files()
    names.remove_others(workshop.folder / "stand-in.launcher")
    assert not any(path.exists() for path in left)
    assert not (workshop.folder / "launcher").exists()
    assert workshop.files["kernel_bin"].exists()


def test_the_bundles(workshop: Workshop) -> None:
    with tarfile.open(workshop.system) as tar:
        found = [member.name for member in tar.getmembers()]
    # The launcher looks at the end of a name, so it would take these.
    assert [name.endswith(role) for name, role in zip(found[1:], sorted(files.ROLES), strict=False)]
    assert set(found) == {".", "./kernel_bin", *(f"./stand-in.{role}" for role in MISSING)}
    with tarfile.open(workshop.runtime) as tar:
        config = tar.extractfile("./config.json")
        assert config is not None
        value = json.loads(config.read())
        assert tar.getmember("./rootfs/usr/bin/hello").mode == 0o755
    assert value["process"]["args"] == ["/usr/bin/hello"]
    assert value["root"]["path"] == "rootfs"


def test_a_bundle_that_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "b.tar").write_bytes(b"bundle")
    good = hashlib.sha256(b"bundle").hexdigest()
    files.copy(FileSpec(path="b.tar", sha256=good), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"bundle"
    with pytest.raises(SpecError) as caught:
        files.copy(FileSpec(path="b.tar", sha256="0" * 64), tmp_path / "out")
    assert str(caught.value) == (
        f"b.tar: has sha256 {good}, the recipe has {'0' * 64}; find out which is right"
    )
    with pytest.raises(SpecError) as caught:
        files.copy(FileSpec(path="c.tar", sha256=good), tmp_path / "out")
    assert str(caught.value) == "c.tar: there is no such file; put it there, or change the recipe"


def test_golden_values_and_policies_are_the_same(workshop: Workshop) -> None:
    workshop.predict()
    manifest = manifest_reader.load(workshop.golden.read_text(), "golden.json")
    assert [item.name for item in manifest.machines] == [shape.name for shape in workshop.shapes]
    assert manifest.unmeasured[0].startswith("stage0_bin, initrd.cpio.xz, system.tar.xz: stand-ins")
    made = workshop.accept()
    text = made[policies.POLICY].read_text()
    accepted = policy.load_text(text, "policy")
    assert len(accepted) == len(workshop.shapes)
    assert policy.load_binary(made[policies.BINARY].read_bytes(), "binary") == accepted
    assert text.startswith("# STAND-IN for stage0_bin: ")
    for item, shape, machine in zip(accepted, workshop.shapes, manifest.machines, strict=True):
        assert item.description.startswith("STAND-IN for stage0_bin, initrd.cpio.xz, system.tar.xz, ")
        rows = {row.register: row.value for row in machine.registers}
        assert item.init_ram_fs == sha256(workshop.files["initrd.cpio.xz"]) == rows["init_ram_fs_sha256"]
        assert item.system_image == sha256(workshop.files["system.tar.xz"])
        assert item.containers == (sha256(workshop.runtime),)
        assert item.kernel_image == hashlib.sha256(kernel()[1024:]).digest()
        assert item.acpi_table == rows["acpi_table_sha256"]
        assert item.kernel_cmd_line_regex.endswith("[0-9]+$")
        assert isinstance(item.stage0, policy.AmdSev if shape.tcb else policy.Insecure)
    labels = {item.register: item.covers for item in manifest.machines[0].policies}
    assert "stage0 prints it as 'E820 table digest'" in labels["memory_map_sha256"]
    assert "stage0 prints it as 'ACPI table generation digest'" in labels["acpi_table_sha256"]


def test_memory_maps_are_the_published_ones(workshop: Workshop) -> None:
    """HATs 7d61840, client/trusted_application/configs: both sizes on q35, one of microvm."""
    workshop.shapes = image().machines
    workshop.predict()
    manifest = manifest_reader.load(workshop.golden.read_text(), "golden.json")
    found = {
        "-".join(item.name.split("-")[0::2][:2]): next(
            row.value.hex()[:8] for row in item.registers if row.register == "memory_map_sha256"
        )
        for item in manifest.machines
    }
    assert found == {
        "genoa-8000000k": "11103720",
        "genoa-4000000k": "23b1d609",
        "milan-8000000k": "11103720",
        "test-8000000k": "196215d0",
    }


def test_what_goes_with_policies(workshop: Workshop) -> None:
    workshop.predict()
    made = workshop.accept()
    digest = sha256(workshop.files["stage0_bin"])
    assert [path.name for path in made[policies.BLOBS].iterdir()] == [digest.hex()]
    dynamic = policy.load_text(made[policies.DYNAMIC].read_text(), "dynamic")
    protected = [shape for shape in workshop.shapes if shape.cpu is not None]
    assert [item.stage0 for item in dynamic] == [
        policy.AmdSevDynamic((digest,), shape.tcb, (shape.cpu,), (shape.vcpus,))
        for shape in protected
        if shape.tcb is not None and shape.cpu is not None
    ]
    configs = {path.name for path in made[names.CONFIGS].iterdir()}
    assert configs == {f"{shape.name}.txtpb" for shape in workshop.shapes}
    first = (made[names.CONFIGS] / f"{workshop.shapes[0].name}.txtpb").read_text()
    assert made[policies.LAUNCHER].read_text() == first
    assert 'hats_system_bundle: "./stand-in.system_bundle.tar"' in first
    lines = made[policies.COMMANDS].read_text()
    assert len(re.findall(r"^\./launcher_main ", lines, re.MULTILINE)) == len(workshop.shapes)
    assert len(re.findall(r"^/usr/local/bin/qemu-system-x86_64 ", lines, re.MULTILINE)) == len(
        workshop.shapes
    )


def test_without_a_capture_there_is_no_policy(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.predict(replace(FACTS, qemu="9.2.0"))
    made = workshop.accept()
    why = (
        "the ACPI tables of QEMU 9.2.0 for this machine are not captured; "
        "run python3 dodo.py capture:h where it is installed, then build again"
    )
    name = workshop.shapes[0].name
    assert f"{name}: no policy: {why}" in capsys.readouterr().out
    text = made[policies.POLICY].read_text()
    assert policy.load_text(text, "policy") == ()
    assert f"# no policy for {name}: {why}\n" in text
    manifest = manifest_reader.load(workshop.golden.read_text(), "golden.json")
    assert why in {item.reason for item in manifest.machines[0].omitted}
    assert made[policies.LAUNCHER].exists()


def test_policies_are_signed(workshop: Workshop) -> None:
    key = workshop.folder / "hats-test.pem"
    key.write_bytes(signature.make_key())
    key.chmod(0o600)
    workshop.predict()
    made = workshop.accept(key)
    point = signature.load_point(bytes.fromhex(made[policies.KEY].read_text()), "key")
    for name in (policies.POLICY, policies.DYNAMIC):
        accepted = policy.load_text(made[name].read_text(), name)
        assert accepted
        assert all(signature.verify(item, point) for item in accepted)
        assert {item.signatures[0].signer for item in accepted} == {"me"}
    key.chmod(0o644)
    with pytest.raises(ImageError) as caught:
        keys.load(key)
    assert str(caught.value) == (
        "keys/hats-test.pem: others may use it (mode 0644); run chmod 600 keys/hats-test.pem"
    )


def test_a_key_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FOLDER", tmp_path)
    path = tmp_path / "hats-a.pem"
    with pytest.raises(
        ImageError, match=r"^keys/hats-a\.pem: there is no such key; run `python3 dodo\.py keys`$"
    ):
        keys.load(path)
    keys.make(path)
    before = path.read_bytes()
    keys.make(path)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600
    assert [key.name for key in keys.own_keys()] == ["keys/hats-a.pem"]


def test_a_golden_manifest_of_another_recipe(workshop: Workshop) -> None:
    workshop.predict()
    workshop.shapes = (replace(workshop.shapes[0], machine="other"),)
    with pytest.raises(
        ImageError, match=r"^golden\.json: has no machine other-.*; run the same command again$"
    ):
        workshop.accept()


def test_the_machines_are_what_the_command_line_says() -> None:
    shape = workshop_shape()
    machine = machines.stage0_machine(shape, Stage0Generation.OAK_55607DD8, FACTS)
    assert machine.name == shape.name
    assert machine.generation is Stage0Generation.OAK_55607DD8
    assert (machine.vcpus, machine.memory) == (shape.vcpus, shape.memory)
    assert machine.sev is not None
    assert (machine.sev.features, machine.sev.cpu) == (1, shape.cpu)
    swapped = machines.stage0_machine(shape, machine.generation, replace(FACTS, debug_swap=True))
    assert swapped.sev is not None
    assert swapped.sev.features == 0x21


def workshop_shape() -> HatsShape:
    return image().machines[0]


def test_the_tasks() -> None:
    found = image()
    assert capture.task(found)["name"] == "hats-snp"
    key = keys.key_path(found)
    assert key is not None
    assert keys.task(found, key)["targets"] == [str(ROOT / "keys" / "hats-policy.pem")]
    standing = set(names.standing_in(found))
    marks = {role: names.file_path(found, role).name.startswith(names.MARK) for role in files.ROLES}
    assert marks == {role: role in standing for role in files.ROLES}
    assert files.step(found).products[0] in golden.step(found).inputs
    assert policies.step(found).products[0].name.endswith("appraisal_policy.txtpb")
