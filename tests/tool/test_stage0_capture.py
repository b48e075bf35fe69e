"""ACPI tables asked from the QEMU that is installed, held against those that others recorded.

The records are of a program that ran inside each machine (a ROM that wrote every file of fw_cfg to the serial
port); those of the version that is installed have to be the same, to the last byte.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import MeasureError, ToolError
from recipes.machine import Accelerator
from recipes.machine.stage0 import Stage0Machine
from recipes.measure.e820 import memory_map, pack_map
from recipes.steps.capture import capture_command_line, capture_machine, store
from recipes.steps.measure_stage0 import read_captures
from recipes.vmm.fwcfg import parse_e820, read_directory
from recipes.vmm.launch import Qemu, qemu_version
from recipes.vmm.pci import Function, functions
from recipes.vmm.qemu import PROGRAM
from recipes.vmm.qtest import QTest
from recipes.vmm.stage0_capture import command_line
from recipes.vmm.stage0_parse import parse, parse_host
from tests.support import require_tool
from tests.vectors.sev_inputs import SNP

pytestmark = pytest.mark.tool

# As HATs' launcher writes a machine; TCG in the place of KVM is what was recorded.
LINE = (
    "{program} -nodefaults -nographic -no-reboot -machine {machine} -accel tcg -cpu max -m {memory}K "
    "-smp {vcpus} -netdev user,id=netdev "
    "-device virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=netdev,romfile= "
    "-device vhost-vsock-pci,guest-cid=7,rombar=0 -bios stage0_bin -serial stdio"
)
RECORDS: list[dict[str, Any]] = SNP["hats"]["fwcfg_captures"]
# A capture is quick; this is where a machine under load is no longer to blame.
MOST_SECONDS = 10


@pytest.fixture(scope="module")
def version() -> str:
    require_tool(PROGRAM)
    return qemu_version()


def words(**changes: object) -> list[str]:
    values = {"program": PROGRAM, "machine": "q35,smm=off", "memory": 8_000_000, "vcpus": 1, **changes}
    return shlex.split(LINE.format(**values))


def machine(**changes: object) -> Stage0Machine:
    return parse(words(**changes), tables_only=True).machine


def digest(value: Stage0Machine) -> str:
    return capture_machine(value).acpi_table_sha256.hex()


@pytest.fixture(scope="module")
def usual(version: str) -> str:
    return digest(machine())


@pytest.mark.parametrize("record", RECORDS, ids=lambda item: "-".join(map(str, list(item.values())[:5])))
def test_fresh_capture_is_the_recorded_one(record: dict[str, Any], version: str) -> None:
    if f"version {version} " not in record["qemu"]:
        pytest.skip(f"recorded of {record['qemu']}; {version} is installed")
    started = time.monotonic()
    argv = words(machine=record["machine"], memory=record["mem_kib"], vcpus=record["cpus"])
    captured = capture_command_line(argv)
    assert time.monotonic() - started < MOST_SECONDS
    files = {name: zlib.decompress(base64.b64decode(text)) for name, text in record["files_zlib_b64"].items()}
    memory = files.pop("etc/e820")
    assert dict(captured.capture.files) == files
    assert captured.acpi_table_sha256.hex() == record["acpi_table_sha256"]
    assert captured.capture.qemu_version == version
    # QEMU lists the HyperTransport range before RAM, and stage0 sorts.
    ranges = sorted(parse_e820(memory), key=lambda item: item.address)
    assert b"".join(item.pack() for item in ranges) == pack_map(memory_map(parse(argv).machine))


def test_any_number_of_vcpus(version: str) -> None:
    found = {}
    for vcpus in (1, 2, 3, 8, 9, 64):
        capture = capture_machine(machine(vcpus=vcpus)).capture
        # A MADT lists a local APIC for each one (ACPI 6.5, section 5.2.12.2: type 0, 8 bytes).
        start = capture.tables.index(b"APIC")
        table = capture.tables[
            start : start + int.from_bytes(capture.tables[start + 4 : start + 8], "little")
        ]
        entries, place = [], 44
        while place < len(table):
            entries.append(table[place])
            place += table[place + 1]
        assert entries.count(0) == vcpus
        found[vcpus] = capture.tables
    assert len(set(found.values())) == len(found)


def test_types_get_their_versioned_names(version: str) -> None:
    short = ".".join(version.split(".")[:2])
    capture = capture_machine(machine()).capture
    assert (capture.machine["type"], capture.aliases) == (f"pc-q35-{short}", ("q35",))
    assert capture_machine(machine(machine=f"pc-q35-{short},smm=off")).capture == capture
    assert capture_machine(machine(machine="microvm,pcie=on,rtc=off")).capture.machine["type"] == "microvm"


@pytest.mark.parametrize(
    "devices",
    [
        ("vhost-vsock-pci", "virtio-net-pci"),
        ("virtio-rng-pci", "virtio-rng-pci"),
        ("virtio-blk-pci", "virtio-balloon-pci"),
        ("virtio-net-pci", "vfio-pci"),
        ("virtio-net-pci", "nvme,serial=x"),
    ],
)
def test_tables_see_slots_and_not_what_sits_in_them(devices: tuple[str, ...], usual: str) -> None:
    assert digest(replace(machine(), devices=devices)) == usual


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ("virtio-net-pci",)},
        {"devices": ("virtio-net-pci", "vhost-vsock-pci,addr=7")},
        {"settings": (("hpet", "on"), ("serial", "1"), ("smm", "on"))},
        {"settings": (("hpet", "off"), ("serial", "1"), ("smm", "off"))},
        {"settings": (("hpet", "on"), ("serial", "0"), ("smm", "off"))},
        {"memory": 4_000_000 * 1024},
        {"max_vcpus": 2},
    ],
)
def test_what_the_tables_depend_on(changes: dict[str, Any], usual: str) -> None:
    assert digest(replace(machine(), **changes)) != usual


def test_microvm_sees_transports_and_not_what_is_plugged_there(version: str) -> None:
    value = machine(machine="microvm,pcie=on,rtc=off")
    found = [
        digest(replace(value, devices=devices))
        for devices in (
            ("vhost-vsock-device",),
            ("virtio-net-device",),
            ("virtio-rng-pci",),
            (),
            ("vhost-vsock-device", "virtio-blk-device"),
        )
    ]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len(set(found)) == 3


@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_what_they_do_not_depend_on(accelerator: Accelerator, usual: str) -> None:
    assert digest(replace(machine(), amd=False, phys_bits=48, cmdline="x", accelerator=accelerator)) == usual


def test_address_bits_are_in_the_tables_of_a_microvm(version: str) -> None:
    value = machine(machine="microvm,pcie=on,rtc=off")
    assert len({digest(replace(value, phys_bits=bits)) for bits in (40, 48, 52)}) == 3


def test_memory_that_this_host_does_not_have(version: str) -> None:
    assert len(digest(machine(memory=900 << 20))) == 64


def probed(value: Stage0Machine, rom: Path, prepare: Any) -> str:
    """The digest of the tables after something was done to the machine through its ports."""
    qemu = Qemu(command_line(value, rom=str(rom)))
    qemu.add_channel("qtest", "-qtest")
    with qemu:
        port = QTest(qemu)
        prepare(port)
        files = read_directory(port)
        data = b"".join(map(files.read, ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")))
        port.close()
    return hashlib.sha256(data).hexdigest()


def look(port: QTest) -> None:
    """What stage0 does before it reads the tables: vendor, class and header type of each function."""
    for function in functions(port):
        assert function.read(8) >> 24 in range(256)
        assert not function.is_bridge or function.read(0x18) >= 0


def place(port: QTest) -> None:
    """What later builds of stage0 do: an address for each region, which no device answers at yet."""
    address = 0x180_0000_0000
    for function in functions(port):
        for bar in function.bars64():
            function.place(bar, address)
            address += bar.size


def map_configuration(port: QTest) -> None:
    """What stage0 does not do, and OVMF does: PCIEXBAR, which makes a table of its own."""
    Function(port, 0, 0).write(0x60, 0xE000_0001)


def test_looking_at_pci_devices_changes_no_table(tmp_path: Path, usual: str) -> None:
    rom = tmp_path / "rom"
    rom.write_bytes(bytes(64 << 10))
    assert probed(machine(), rom, look) == usual
    assert probed(machine(), rom, place) == usual
    assert probed(machine(), rom, map_configuration) != usual


def test_makers_of_cpus_are_what_qemu_says(version: str, tmp_path: Path) -> None:
    rom = tmp_path / "rom"
    rom.write_bytes(bytes(64 << 10))
    for model in (
        "max",
        "qemu64",
        "phenom",
        "Opteron_G5",
        "EPYC",
        "EPYC-Milan-v1",
        "Dhyana",
        "Haswell-noTSX-IBRS",
        "kvm64",
        "Nehalem",
    ):
        argv = words()
        argv[argv.index("max")] = model
        value = parse(argv, tables_only=True).machine
        line = [model if word == "max" else word for word in command_line(value, rom=str(rom))]
        with Qemu(line) as qemu:
            cpus = qemu.execute("query-cpus-fast")
            assert isinstance(cpus, list)
            path = cpus[0]["qom-path"]
            assert value.amd == (qemu.property(path, "vendor") == "AuthenticAMD"), model
            assert (qemu.property(path, "phys-bits"), qemu.property(path, "lm")) == (40, True), model


def test_qemu_that_ends_shows_what_it_said(version: str) -> None:
    with pytest.raises(ToolError) as caught:
        capture_machine(replace(machine(), devices=("no-such-device",)))
    assert re.search(r"(connection|reset by peer\)), exit status 1$", str(caught.value).splitlines()[0])
    assert "'no-such-device' is not a valid device model name" in str(caught.value)


def test_qemu_that_is_missing() -> None:
    with pytest.raises(ToolError) as caught:
        capture_machine(machine(), binary="/nowhere/qemu-system-x86_64")
    assert str(caught.value).splitlines()[0] == (
        "/nowhere/qemu-system-x86_64: not found; install the Debian package qemu-system-x86"
    )


def test_tables_at_which_stage0_stops(version: str) -> None:
    with pytest.raises(MeasureError, match="WRITE_POINTER to etc/vmgenid_addr, at which stage0 stops"):
        capture_machine(replace(machine(), devices=("vmgenid",)))


def test_microvm_behind_kvm_needs_the_address_bits_of_its_host(version: str) -> None:
    argv = words(machine="microvm,pcie=on")
    argv[argv.index("tcg")], argv[argv.index("max")] = "kvm", "host"
    with pytest.raises(MeasureError) as caught:
        capture_command_line(argv)
    assert str(caught.value) == (
        "command line: the tables of a microvm hold the address bits of the host's CPU; "
        "give --host phys-bits=N, as /proc/cpuinfo has it"
    )
    assert capture_command_line(argv, parse_host(["phys-bits=48"])).capture.machine["phys_bits"] == 48


def test_a_file_keeps_captures_of_any_machines(version: str, tmp_path: Path) -> None:
    path = tmp_path / "acpi.json"
    captured = [capture_machine(value) for value in (machine(), replace(machine(), vcpus=2, max_vcpus=2))]
    assert set(store(path, captured)) == {item.capture for item in captured}
    before = path.read_text(encoding="utf-8")
    store(path, captured[:1])
    assert path.read_text(encoding="utf-8") == before
    assert len(read_captures(path)) == 2


def test_command_as_a_process(version: str, tmp_path: Path) -> None:
    path = tmp_path / "acpi.json"
    program = [require_tool("python3"), "-m", "recipes", "capture", "acpi"]
    result = subprocess.run(
        [*program, "-o", str(path), "--", *words()], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "note: -device virtio-rng-pci stands in for vhost-vsock-pci in its slot\n" in result.stderr
    assert result.stderr.endswith("acpi.json: 1 capture\n")
