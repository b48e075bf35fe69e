"""What is read from paused machines, compared with what booted guests read and TPMs recorded.

No test here runs a guest to its end: machines stand still, or run some seconds of firmware.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest

from recipes.errors import MeasureError
from recipes.formats.ovmf import measured_volumes
from recipes.machine import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.acpi_capture import AcpiCapture, capture_acpi
from recipes.vmm.bench import Flash, bench
from recipes.vmm.firmware_learn import capture_machine, learn_patches
from recipes.vmm.fwcfg import read_directory
from recipes.vmm.launch import Qemu, qemu_version
from recipes.vmm.models import FirmwareFacts, known_firmware
from recipes.vmm.qemu_parse import parse
from recipes.vmm.qtest import QTest
from recipes.vmm.script import launch_script
from tests.support import ROOT, VECTORS, require_tool

pytestmark = pytest.mark.boot

RECORDED_ON = "7.2."
PACKAGES = {True: "ovmf-2022.11-6+deb12u2", False: "ovmf-2025.02-8+deb13u1"}
CASES = (
    "q35-512m-1cpu",
    "q35-512m-1cpu-addons",
    "q35-512m-1cpu-extradisk",
    "q35-512m-1cpu-nobootindex",
    "q35-512m-1cpu-ovmf2022",
    "q35-512m-1cpu-secureboot",
    "pc-512m-1cpu",
)
MACHINE = QemuMachine(
    name="bench",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 << 20,
    firmware=UefiFirmware(package="ovmf", code="OVMF_CODE_4M.fd", vars="OVMF_VARS_4M.fd"),
    tpm=TpmInterface.TIS,
)
SECURE = replace(MACHINE, firmware=replace(MACHINE.firmware, code="OVMF_CODE_4M.secboot.fd", smm=True))


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_tool("qemu-system-x86_64")
    require_tool("swtpm")


def flash(folder: Path, machine: QemuMachine, *, old: bool = False) -> tuple[Flash, FirmwareFacts]:
    """The machine's firmware, unpacked into ``folder``, and what is known of it."""
    paths = []
    for name in (machine.firmware.code, "OVMF_VARS_4M.fd"):
        stored = VECTORS / "firmware" / f"{PACKAGES[old]}.{name}.xz"
        paths.append(folder / name)
        paths[-1].write_bytes(lzma.decompress(stored.read_bytes()))
    digest = hashlib.sha256(paths[0].read_bytes()).digest()
    (facts,) = [facts for facts in known_firmware() if facts.code_sha256 == digest]
    return Flash(*paths), facts


def record(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "pcr" / f"{case}.json").read_text())
    return found


def skip_unless_recorded_version() -> None:
    version = qemu_version()
    if not version.startswith(RECORDED_ON):
        pytest.skip(f"the recorded tables are of QEMU {RECORDED_ON}x, this is {version}")


def blobs(capture: AcpiCapture) -> tuple[bytes, bytes, bytes]:
    return capture.table_loader, capture.rsdp, capture.tables


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_paused_machine_gives_what_a_booted_guest_read(case: str, versioned: bool, tmp_path: Path) -> None:
    skip_unless_recorded_version()
    machine = parse(shlex.split(record(case)["qemu"]["cmdline"])).machine
    if versioned:
        machine = replace(machine, type={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}[machine.type])
    files, facts = flash(tmp_path, machine, old=case.endswith("-ovmf2022"))
    capture = capture_acpi(machine, files, facts.layout)
    read = json.loads(gzip.decompress((VECTORS / "pcr" / f"{case}.fwcfg.json.gz").read_bytes()))
    names = ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")
    assert blobs(capture) == tuple(base64.b64decode(read[name]) for name in names)
    assert (capture.identity, capture.code_sha256) == (machine.identity(), facts.code_sha256)
    assert capture.qemu_version == qemu_version()


def run_firmware(qemu: Qemu) -> None:
    """Lets the machine run until its firmware has given PCI devices their addresses, and a moment longer."""
    limit = time.monotonic() + 90
    while all(
        region["address"] in {-1, 0xFFFFFFFFFFFFFFFF}
        for bus in buses(qemu)
        for device in bus["devices"]
        for region in device["regions"]
    ):
        assert time.monotonic() < limit
        time.sleep(0.2)
    time.sleep(1)
    qemu.execute("stop")


def buses(qemu: Qemu) -> list[dict[str, Any]]:
    found = qemu.execute("query-pci")
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    "machine",
    [
        # 32-bit window and an unknown address width; 64-bit memory and a known one; the other chipset
        replace(
            MACHINE,
            cpu="Nehalem",
            vcpus=2,
            memory=3 << 30,
            tpm=TpmInterface.CRB,
            devices=("virtio-rng-pci",),
        ),
        replace(
            SECURE,
            cpu="EPYC",
            memory=5 << 30,
            tpm=None,
            disks=(Disk(bootindex=0), Disk()),
            devices=("nvme,serial=x",),
        ),
        replace(MACHINE, type="pc-i440fx-7.2", vcpus=3, memory=1 << 30, devices=("virtio-rng-pci",)),
    ],
    ids=["q35-nehalem", "q35-secboot-epyc", "pc"],
)
def test_a_paused_machine_gives_what_running_firmware_sees(machine: QemuMachine, tmp_path: Path) -> None:
    files, facts = flash(tmp_path, machine)
    capture = capture_acpi(machine, files, facts.layout)
    with bench(machine, files, channels=(("qtest", "-qtest"),)) as qemu:
        run_firmware(qemu)
        port = QTest(qemu)
        seen = read_directory(port)
        names = ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")
        live = tuple(seen.read(name) for name in names)
        port.close()
    assert blobs(capture) == live


def test_a_bridge_is_refused(tmp_path: Path) -> None:
    machine = replace(MACHINE, devices=("pcie-root-port,id=p",))
    files, facts = flash(tmp_path, machine)
    with pytest.raises(MeasureError) as caught:
        capture_acpi(machine, files, facts.layout)
    assert str(caught.value) == "bench: PCI bridge 02.0: bridges and root ports are not modelled"


@pytest.mark.parametrize(
    ("machine", "old", "case"),
    [
        (MACHINE, False, "q35-512m-1cpu"),
        (SECURE, False, "q35-512m-1cpu-secureboot"),
        (MACHINE, True, "q35-512m-1cpu-ovmf2022"),
    ],
    ids=["plain", "smm", "2022"],
)
def test_learnt_words_give_the_digest_a_tpm_recorded(
    machine: QemuMachine, old: bool, case: str, tmp_path: Path
) -> None:
    files, facts = flash(tmp_path, machine, old=old)
    volume = measured_volumes(files.code.read_bytes(), "code")[0]
    (words,) = learn_patches(machine, files, (volume,))
    patched = bytearray(volume)
    for offset, word in words:
        patched[offset : offset + 4] = word
    events = [item for item in record(case)["events"] if item["type"] == "EV_EFI_PLATFORM_FIRMWARE_BLOB"]
    assert hashlib.sha256(patched).hexdigest() == events[0]["sha256"]
    assert words == facts.words_for(machine)


def test_words_of_two_processors_are_in_the_log_that_the_firmware_wrote(tmp_path: Path) -> None:
    machine = replace(SECURE, vcpus=2)
    files, facts = flash(tmp_path, machine)
    assert facts.words_for(machine) is None
    capture = capture_machine(machine, files, facts)
    assert capture.firmware_words is not None
    volume = bytearray(measured_volumes(files.code.read_bytes(), "code")[0])
    for offset, word in capture.firmware_words:
        volume[offset : offset + 4] = word
    digest = hashlib.sha256(volume).digest()
    with bench(machine, files) as qemu:
        run_firmware(qemu)
        # The firmware keeps its TCG event log in memory; the digest can be nowhere else.
        memory = (qemu.save_memory(start, 32 << 20) for start in range(0, machine.memory, 32 << 20))
        assert any(digest in part for part in memory)


def test_the_launch_script_starts_the_firmware(tmp_path: Path) -> None:
    flash(tmp_path, MACHINE)
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    template = jinja2.Template((ROOT / "templates" / "run-qemu.sh.j2").read_text(encoding="utf-8"))
    words = launch_script(
        MACHINE, code=MACHINE.firmware.code, vars_template=MACHINE.firmware.vars, disks=("disk.raw",)
    )
    script, console = tmp_path / "run.sh", tmp_path / "console"
    script.write_text(template.render(script=words, image="test"), encoding="utf-8")
    variables = {"SERIAL": f"file:{console}", "STATE": str(tmp_path / "state")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", str(script)],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        limit = time.monotonic() + 90
        while b"BdsDxe" not in (console.read_bytes() if console.exists() else b""):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.2)
    finally:
        process.terminate()
        assert process.wait(20) == 143
    # The firmware wrote its variables into the private store, and the TPM kept its state beside it.
    store = (tmp_path / "state" / "vars.fd").read_bytes()
    assert store != (tmp_path / MACHINE.firmware.vars).read_bytes()
    assert list((tmp_path / "state" / "tpm").iterdir())
