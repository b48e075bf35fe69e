"""Golden values and policies of a recipe of HATs', with stand-ins and with files that are there."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.errors import ImageError, MeasureError
from recipes.golden import manifest_reader
from recipes.hats import policy, signature
from recipes.machine.sev_cpus import CpuSignature
from recipes.schema.hats import InsecurePlace
from recipes.steps.hats import keys, names, policies
from recipes.vmm.stage0_captures import dump_captures, load_captures
from tests.unit.hats_workshop import FACTS, FORM, MISSING, Workshop, image, kernel, sha256, workshop

__all__ = ["workshop"]


def test_golden_values_and_policies_are_the_same(workshop: Workshop) -> None:
    workshop.predict()
    manifest = manifest_reader.load(workshop.golden.read_text(), "golden.json")
    assert [item.name for item in manifest.machines] == [shape.name for shape in workshop.shapes]
    assert manifest.unmeasured[0].startswith(
        "stage0_bin, kernel_bin, initrd.cpio.xz, system.tar.xz: stand-ins"
    )
    made = workshop.accept(form=replace(FORM, insecure=InsecurePlace.TOGETHER))
    text = made[policies.POLICY].read_text()
    accepted = policy.load_text(text, "policy")
    assert len(accepted) == len(workshop.shapes)
    assert policy.load_binary(made[policies.BINARY].read_bytes(), "binary") == accepted
    assert text.startswith("# STAND-IN for stage0_bin: ")
    for item, shape, machine in zip(accepted, workshop.shapes, manifest.machines, strict=True):
        firmware = "stage0_bin, " if shape.tcb else ""
        assert item.description.startswith(
            f"STAND-IN for {firmware}kernel_bin, initrd.cpio.xz, system.tar.xz, "
        )
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
    assert labels["kernel_cmd_line_regex"].endswith(f"it has to match {accepted[0].kernel_cmd_line_regex}")
    assert all(len(item.reason) < 80 for machine in manifest.machines for item in machine.omitted)


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
    said = capsys.readouterr().out
    assert f"{name}: no policy: {why}" in said
    assert "  WARNING: no policy at all was written, and no verifier accepts any of these machines\n" in said
    text = made[policies.POLICY].read_text()
    assert policy.load_text(text, "policy") == ()
    assert f"# no policy for {name}: {why}\n" in text
    manifest = manifest_reader.load(workshop.golden.read_text(), "golden.json")
    assert why in {item.reason for item in manifest.machines[0].omitted}
    assert made[policies.LAUNCHER].exists()


def test_policies_of_real_files_are_signed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = hats_key(workshop)
    workshop.bring_files(monkeypatch)
    workshop.predict()
    made = workshop.accept(key)
    point = signature.load_point(bytes.fromhex(made[policies.KEY].read_text()), "key")
    text = made[policies.POLICY].read_text()
    accepted = policy.load_text(text, "policy")
    assert len(accepted) == sum(shape.tcb is not None for shape in workshop.shapes)
    for item in accepted:
        assert isinstance(item.stage0, policy.AmdSev)
        assert signature.verify(item, point)
        assert item.signatures[0].signer == "me"
        assert not signature.verify(replace(item, init_ram_fs=bytes(32)), point)
        assert item.init_ram_fs == hashlib.sha256(b"stage1").digest()
        assert "STAND-IN" not in item.description
    assert policy.load_binary(made[policies.BINARY].read_bytes(), "binary") == accepted
    assert not text.startswith("#")
    # What a signature would not cover has none.
    said = capsys.readouterr().out
    for name, kind in ((policies.INSECURE, "insecure"), (policies.DYNAMIC, "amd_sev_dynamic")):
        text = made[name].read_text()
        assert all(not item.signatures for item in policy.load_text(text, name))
        why = f"NOT SIGNED: {kind}; a signature covers nothing of it, and would stand below any firmware"
        assert text.startswith(f"# {why}\n")
        assert f"  WARNING: {name}: {why}\n" in said
    assert "STAND-IN" not in text
    key.chmod(0o644)
    with pytest.raises(ImageError) as caught:
        keys.load(key)
    assert str(caught.value) == (
        "keys/hats-test.pem: others may use it (mode 0644); run chmod 600 keys/hats-test.pem"
    )


def hats_key(workshop: Workshop) -> Path:
    key = workshop.folder / "hats-test.pem"
    key.write_bytes(signature.make_key())
    key.chmod(0o600)
    return key


@pytest.mark.parametrize("missing", [MISSING, ("system.tar.xz",)])
def test_nothing_of_a_stand_in_is_signed(
    workshop: Workshop, missing: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.missing = missing
    workshop.predict()
    made = workshop.accept(hats_key(workshop))
    why = f"NOT SIGNED: signatures are for real files, and there are stand-ins for {', '.join(missing)}"
    text = made[policies.POLICY].read_text()
    assert f"# {why}\n" in text
    assert f"  WARNING: {policies.POLICY}: {why}\n" in capsys.readouterr().out
    accepted = policy.load_text(text, "policy")
    assert accepted
    assert not any(item.signatures for item in accepted)


def test_insecure_policies_are_apart(workshop: Workshop) -> None:
    workshop.predict()
    made = workshop.accept()
    found = policy.load_text(made[policies.POLICY].read_text(), "policy")
    assert {type(item.stage0) for item in found} == {policy.AmdSev}
    apart = policy.load_text(made[policies.INSECURE].read_text(), "insecure")
    assert {type(item.stage0) for item in apart} == {policy.Insecure}
    assert policy.load_binary(made[policies.INSECURE_BINARY].read_bytes(), "binary") == apart
    assert len(found) + len(apart) == len(workshop.shapes)
    together = workshop.accept(form=replace(FORM, insecure=InsecurePlace.TOGETHER))
    assert policies.INSECURE not in together
    assert set(policy.load_text(together[policies.POLICY].read_text(), "both")) == {*found, *apart}
    workshop.shapes = tuple(shape for shape in workshop.shapes if shape.tcb is not None)
    assert policies.INSECURE not in workshop.accept()


def test_an_insecure_policy_does_not_judge_the_firmware(workshop: Workshop) -> None:
    workshop.missing = ("stage0_bin",)
    workshop.predict()
    made = workshop.accept()
    text = made[policies.INSECURE].read_text()
    assert text.startswith(
        "# STAND-IN for stage0_bin: insecure policies do not judge it, and accept any firmware\n"
    )
    (item,) = policy.load_text(text, "insecure")
    assert item.description.startswith("h 1.0.0 in an insecure VM. ")
    text = made[policies.POLICY].read_text()
    assert text.startswith("# STAND-IN for stage0_bin: no policy here accepts anything that runs\n")
    assert "STAND-IN for stage0_bin, accepts nothing real." in policy.load_text(text, "p")[0].description
    assert names.measured(MISSING, protected=True) == MISSING
    assert names.measured(MISSING, protected=False) == MISSING[1:]


def test_a_tvs_does_not_look_at_every_policy(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten are all right, and eleven are not."""
    first = workshop.shapes[0]
    workshop.shapes = tuple(replace(first, machine=f"m{number}") for number in range(10))
    workshop.predict()
    assert "policies for the container" not in workshop.accept()[policies.POLICY].read_text()
    workshop.shapes += (replace(first, machine="m10"),)
    workshop.predict()
    text = workshop.accept()[policies.POLICY].read_text()
    digest = sha256(workshop.runtime).hex()[:16]
    what = (
        f"11 policies for the container with sha256 {digest}…; a TVS looks at 10 of one container, or at 30"
    )
    assert f"\n# {what}, by its version; " in text
    assert f"  WARNING: {policies.POLICY}: {what}" in capsys.readouterr().out


def test_a_tvs_does_not_know_every_processor(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    first = workshop.shapes[0]
    workshop.shapes = (
        replace(first, cpu=CpuSignature(25, 17, 9)),
        replace(first, machine="x", cpu=CpuSignature(26, 2, 1)),
    )
    workshop.predict()
    made = workshop.accept()
    what = "CPU 26/2/1 (family/model/stepping): a TVS computes launch digests for 25/1, 25/17, 26/0 alone"
    assert f"# {what}" in made[policies.DYNAMIC].read_text()
    assert "# CPU" not in made[policies.POLICY].read_text()
    said = capsys.readouterr().out
    assert f"  WARNING: {policies.DYNAMIC}: {what}" in said
    assert "CPU 25/17/9" not in said


def test_a_ram_disk_larger_than_ram(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.predict()
    workshop.accept()
    assert (
        "  WARNING: launcher.ramdrive_size is 10 GiB, more than the RAM of machines"
        in capsys.readouterr().out
    )
    workshop.shapes = tuple(replace(shape, ramdrive=shape.memory) for shape in workshop.shapes)
    workshop.accept()
    assert "ramdrive_size" not in capsys.readouterr().out


def test_a_capture_that_stage0_stops_at(workshop: Workshop) -> None:
    """WRITE_POINTER is command 4. Spec: QEMU 10.0 hw/acpi/bios-linker-loader.c."""
    command = (
        (4).to_bytes(4, "little") + b"etc/vmgenid_addr".ljust(56, b"\0") + b"etc/acpi/tables".ljust(56, b"\0")
    )
    bad = (command + bytes(8) + b"\x08").ljust(128, b"\0")
    known = load_captures(image().captures_path.read_text(), "c")
    spoilt = [
        replace(item, table_loader=item.table_loader.rstrip(b"\0").ljust(3968, b"\0") + bad) for item in known
    ]
    path = workshop.folder / "h.captures.lock"
    path.write_text(dump_captures(spoilt))
    workshop.captures = (path,)
    with pytest.raises(MeasureError) as caught:
        workshop.predict()
    said = str(caught.value)
    assert said.startswith("h.captures.lock: QEMU 7.2.22, pc-q35-7.2, kvm, ")
    assert (
        f"for {workshop.shapes[0].name}: etc/table-loader: command 31: WRITE_POINTER to etc/vmgenid_addr"
        in said
    )


def test_a_golden_manifest_of_another_recipe(workshop: Workshop) -> None:
    workshop.predict()
    workshop.shapes = (replace(workshop.shapes[0], machine="other"),)
    with pytest.raises(
        ImageError, match=r"^golden\.json: has no machine other-.*; run the same command again$"
    ):
        workshop.accept()
