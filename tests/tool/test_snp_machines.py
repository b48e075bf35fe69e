"""A recipe's machines with SEV-SNP: their scripts, and their command lines measured by another program."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from recipes.__main__ import main
from recipes.golden.sev import SnpEvidence, golden_snp
from recipes.machine import SnpMachine
from recipes.measure.sev import replay
from recipes.measure.trace import HashAlgorithm
from recipes.steps.measure_sev import read_launch
from recipes.vmm.qemu import DriveFile
from recipes.vmm.qemu_snp import SnpFiles, render_snp
from recipes.vmm.script import snp_script
from recipes.vmm.sev_values import SevFiles
from tests.support import ROOT, require_tool
from tests.unit.snp_machines import DISK, KERNEL, UKI
from tests.vectors.sev_inputs import AMDSEV, write_inputs

pytestmark = pytest.mark.tool
# Name of the kernel, of the initrd, and the command line.
BOOTS: dict[str, tuple[str | None, str | None, str | None]] = {
    "snp-disk": (None, None, None),
    "snp": ("kernel", None, None),
    "snp-kernel": ("kernel", "initrd", "console=ttyS0 panic=-1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("snp"))


@pytest.mark.parametrize("vcpus", [1, 3])
@pytest.mark.parametrize("machine", [DISK, UKI, KERNEL], ids=lambda machine: machine.name)
def test_golden_values_are_those_of_the_command_line(
    machine: SnpMachine, vcpus: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = replace(machine, vcpus=vcpus)
    kernel, initrd, cmdline = BOOTS[machine.name]
    paths = {"kernel": kernel, "initrd": initrd}
    files = {key: str(folder / name) if name else None for key, name in paths.items()}
    measured = machine.measured((cmdline or "") if kernel else None)
    given = SevFiles(firmware=str(folder / AMDSEV), kernel=files["kernel"], initrd=files["initrd"])
    launch = read_launch(measured, given)
    found = SnpEvidence(launch=launch, prediction=replay(launch))
    value = golden_snp(machine, found, firmware_version="1", launch="run.sh").value(
        "LAUNCH_DIGEST", HashAlgorithm.SHA384
    )
    assert value is not None

    words = render_snp(
        machine,
        SnpFiles(
            firmware=str(folder / AMDSEV),
            disk=DriveFile(path="disk.raw"),
            cmdline=cmdline,
            tpm_socket="tpm" if machine.tpm else None,
            kernel=files["kernel"],
            initrd=files["initrd"],
        ),
    )
    assert main(["measure", "--json", "--host", "sev-features=0x1", "--", *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)["registers"]
    assert row["value"] == value.hex()

    argv = [
        require_tool("sev-snp-measure"),
        "--mode",
        "snp",
        "--vcpus",
        str(vcpus),
        "--vcpu-type",
        machine.cpu,
    ]
    argv += ["--ovmf", str(folder / AMDSEV)]
    argv += [word for key, path in files.items() if path for word in (f"--{key}", path)]
    argv += ["--append", cmdline] if cmdline else []
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == value.hex()


@pytest.mark.parametrize("machine", [DISK, UKI, KERNEL], ids=lambda machine: machine.name)
def test_scripts_are_sound_and_refuse_a_host_without_sev(machine: SnpMachine, tmp_path: Path) -> None:
    kernel, initrd, cmdline = BOOTS[machine.name]
    script = snp_script(
        machine, firmware="F", disk="d", kernel=kernel or "", initrd=initrd or "", cmdline=cmdline or ""
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((ROOT / "templates" / "run-qemu.sh.j2").read_text(encoding="utf-8"))
    path = tmp_path / "run.sh"
    path.write_text(template.render(script=script, image="i"), encoding="utf-8")
    path.chmod(0o755)
    subprocess.run([require_tool("shellcheck"), str(path)], check=True)
    for name in ("F", "d", "kernel", "initrd"):
        (tmp_path / name).touch()
    # Whatever the host has, it lacks one of these, or this test would start a machine.
    stand_in = tmp_path / "qemu"
    stand_in.write_text("#!/bin/sh\necho started\n")
    stand_in.chmod(0o755)
    if Path("/sys/module/kvm_amd/parameters/sev_snp").exists():
        pytest.skip("this host may have SEV-SNP")
    require_tool("swtpm")
    done = subprocess.run(
        [str(path)],
        env={"QEMU": str(stand_in), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "/dev/kvm is not usable" in done.stderr or "KVM has no SEV-SNP here" in done.stderr
    assert done.stdout == ""
