"""ACPI tables of a machine with stage0, from a QEMU that is started and stands still.

stage0 reads the tables before anything has touched the chipset or a PCI device (it looks at PCI devices and
writes to none), so that the machine as QEMU starts it is asked, through its qtest port, for the files of
fw_cfg. What does not run here is stood in for, by something that gives the same tables; each is named.

Spec: project-oak/oak stage0/src/lib.rs rust64_start(), stage0/src/pci.rs; QEMU 10.0 hw/i386/acpi-build.c
acpi_build_update() (tables are made when they are read).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace

from ..errors import FormatError, MeasureError
from ..formats.acpi import LoaderCommandType, parse_loader
from ..machine import Accelerator
from ..machine.stage0 import Stage0Chipset, Stage0Machine
from ..units import KIB
from . import stage0_options as table
from .fwcfg import read_directory
from .launch import DEFAULT_TIMEOUT, Qemu
from .qemu import PROGRAM
from .qtest import QTest
from .stage0_captures import LOADER, RSDP, TABLES, Stage0Capture
from .stage0_words import split_escaped

# QEMU maps a ROM file up to the end of 4 GiB, in whole pieces of this size. Spec: QEMU 10.0
# hw/i386/x86-common.c x86_bios_rom_init().
_ROM_SIZE = 64 * KIB
_RAM = "goldsmith-ram"
# Hides a device. Spec: QEMU 10.0 hw/net/virtio-net.c failover_hide_primary_device().
_PAIR = "failover_pair_id"
# Ours, in seconds: QEMU takes some milliseconds for each vCPU, and more the more there are.
_PATIENCE_FOR_VCPU = 0.25


def capture_stage0(machine: Stage0Machine, *, binary: str = PROGRAM) -> Stage0Capture:
    """The ACPI files that QEMU has for ``machine``; takes well under a second, but for hundreds of vCPUs.

    Args:
        binary: the QEMU that will run the machine: another version may have other tables.

    Raises:
        MeasureError: the machine depends on this host, or has no tables.
        ToolError: QEMU is missing, or does not start such a machine.
    """
    _check(machine)
    with tempfile.NamedTemporaryFile(prefix="goldsmith-") as rom:
        # Nothing in it is executed; without one QEMU would look for firmware that may not be installed.
        rom.truncate(_ROM_SIZE)
        timeout = DEFAULT_TIMEOUT + machine.max_vcpus * _PATIENCE_FOR_VCPU
        qemu = Qemu(command_line(machine, rom=rom.name, binary=binary), timeout=timeout)
        qemu.add_channel("qtest", "-qtest")
        with qemu:
            files = _read_files(machine, qemu)
            version, package = _version(qemu)
            kind, aliases = _type(qemu, machine.type)
    return Stage0Capture(
        qemu_version=version,
        package=package,
        aliases=aliases,
        identity=replace(machine, type=kind).acpi_identity(),
        stand_ins=stand_ins(machine),
        table_loader=files.pop(LOADER),
        rsdp=files.pop(RSDP),
        tables=files.pop(TABLES),
        further=tuple(files.items()),
    )


def command_line(machine: Stage0Machine, *, rom: str, binary: str = PROGRAM) -> tuple[str, ...]:
    """The words that start ``machine`` to be asked for its tables.

    Args:
        rom: path of a file that takes the place of stage0.
    """
    settings = [f"{key}={value}" for key, value in machine.settings if key != "serial"]
    # Memory that nobody touches: a machine may be larger than this host.
    ram = f"memory-backend-ram,id={_RAM},size={machine.memory // KIB}K,reserve=off"
    cpu = "max" if machine.phys_bits is None else f"max,phys-bits={machine.phys_bits}"
    words = [binary, "-nodefaults", "-no-user-config", "-S", "-display", "none", "-bios", rom]
    words += ["-object", ram, "-m", f"{machine.memory // KIB}K"]
    words += ["-machine", ",".join([machine.type, *settings, f"memory-backend={_RAM}"])]
    words += ["-accel", "tcg", "-cpu", cpu, "-smp", f"{machine.vcpus},maxcpus={machine.max_vcpus}"]
    words += ["-qtest-log", "none"]
    words += ["-serial", "null"] * int(dict(machine.settings).get("serial", "0"))
    for device in machine.devices:
        words += ["-device", _startable(device)]
    return tuple(words)


def stand_ins(machine: Stage0Machine) -> tuple[str, ...]:
    """What takes the place of what does not run when tables are captured, a sentence each."""
    return tuple(_stand_ins(machine))


def _stand_ins(machine: Stage0Machine) -> Iterator[str]:
    if machine.accelerator is Accelerator.KVM:
        what = "what KVM and SEV decide for the tables is set by -machine"
        yield f"-accel tcg stands in for kvm, without memory encryption; {what}"
    for device in machine.devices:
        if _startable(device) != device:
            yield f"-device {_startable(device)} stands in for {device} in its slot"


def _startable(device: str) -> str:
    """A device that starts, with the same tables."""
    driver, *settings = split_escaped(device)
    if driver in table.NEEDS_HOST:
        driver = table.STAND_IN
    elif driver in table.MMIO_NEEDS_HOST:
        driver = table.MMIO_STAND_IN
    else:
        return device
    return ",".join([driver, *(item for item in settings if item.partition("=")[0] in table.SLOT)])


def _check(machine: Stage0Machine) -> None:
    for device in machine.devices:
        driver, *settings = split_escaped(device)
        if driver in table.NO_STAND_IN:
            raise MeasureError(f"-device {device}: {table.NO_STAND_IN[driver]}; leave it out")
        if any(item.partition("=")[0] == _PAIR for item in settings):
            what = f"with {_PAIR} its slot stays empty until the guest asks, which is not modelled"
            raise MeasureError(f"-device {device}: {what}; leave it out")
    if machine.chipset is None:
        raise MeasureError(f"machine {machine.type}: not modelled; use q35, pc-q35-N.M or microvm")
    if machine.chipset is Stage0Chipset.MICROVM and machine.phys_bits is None:
        what = "the tables of a microvm hold the address bits of the host's CPU"
        raise MeasureError(f"{machine.name}: {what}; give --host phys-bits=N, as /proc/cpuinfo has it")


def _read_files(machine: Stage0Machine, qemu: Qemu) -> dict[str, bytes]:
    port = QTest(qemu)
    try:
        offered = read_directory(port)
        if LOADER not in offered:
            raise MeasureError(f"{machine.name}: QEMU has no ACPI tables for it; write -machine acpi=on")
        files = {LOADER: offered.read(LOADER)}
        commands = parse_loader(files[LOADER], LOADER)
        names = [item.file for item in commands if item.type is LoaderCommandType.ALLOCATE]
        if not {RSDP, TABLES} <= set(names):
            what = f"{LOADER} allocates {', '.join(names) or 'nothing'}, not both {RSDP} and {TABLES}"
            raise MeasureError(f"{machine.name}: {what}; such a QEMU is not modelled")
        for name in names:
            files[name] = offered.read(name)
    except FormatError as error:
        raise qemu.error(str(error)) from None
    finally:
        port.close()
    return files


def _version(qemu: Qemu) -> tuple[str, str]:
    """QEMU's version, and what its packager calls it."""
    answer = qemu.execute("query-version")
    if isinstance(answer, dict) and isinstance(answer.get("qemu"), dict):
        parts = [answer["qemu"].get(key) for key in ("major", "minor", "micro")]
        if all(isinstance(part, int) for part in parts):
            return ".".join(map(str, parts)), str(answer.get("package", ""))
    raise qemu.error(f"query-version: {answer!r} is no version")


def _type(qemu: Qemu, name: str) -> tuple[str, tuple[str, ...]]:
    """The machine type's versioned name, and its other names."""
    answer = qemu.execute("query-machines")
    for item in answer if isinstance(answer, list) else ():
        names = [str(item[key]) for key in ("name", "alias") if isinstance(item, dict) and key in item]
        if name in names:
            return names[0], tuple(names[1:])
    raise qemu.error(f"query-machines: there is no {name}")
