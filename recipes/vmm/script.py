"""A QEMU machine as the words of a shell script, for ``templates/run-qemu.sh.j2``.

The words come from :func:`.qemu.render`, so that what is launched is what is measured; only the places of
files, the serial console and whether writes are kept are left to variables of the script.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import Accelerator, Disk, QemuMachine, SnpMachine
from .qemu import PROGRAM, DriveFile, LaunchFiles, render
from .qemu_snp import SnpFiles, render_snp

_MARK = "\x00"
_NETDEV = re.compile(r"(?:^|,)netdev=([A-Za-z0-9_-]+)")


@dataclass(frozen=True, kw_only=True)
class LaunchScript:
    """What the template needs; every text is quoted for the shell.

    Attributes:
        machine: the machine's name.
        program: the QEMU program.
        words: its command line; uses the variables ``code``, ``vars``, ``kernel``, ``initrd``, ``disk0`` and
            so on, ``tpm``, ``snapshot``, ``NETDEV`` and ``SERIAL`` of the script.
        code: path of the firmware, relative to the script's folder; ``vars``, ``disks``, ``kernel`` and
            ``initrd`` likewise, empty where there is none.
        tpm: the machine has a TPM, so the script starts swtpm.
        writable: the machine has a disk it may write to.
        snapshot: whether such writes are thrown away by default.
        network: id of the network backend that the machine's devices want, or empty.
        qemu_version: the version whose ACPI tables were measured, or empty.
        snp: the machine needs a host with SEV-SNP.
    """

    machine: str
    program: str
    words: tuple[str, ...]
    code: str
    vars: str
    disks: tuple[str, ...]
    tpm: bool
    kvm: bool
    writable: bool
    snapshot: bool
    network: str = ""
    qemu_version: str = ""
    kernel: str = ""
    initrd: str = ""
    snp: bool = False


def launch_script(
    machine: QemuMachine, *, code: str, vars_template: str, disks: Sequence[str], qemu_version: str = ""
) -> LaunchScript:
    """The launch script of ``machine``.

    A TCG machine is there to be checked, and a check must not change the disk that is shipped; so it throws
    writes away unless the user says otherwise.

    Args:
        code: path of the code flash, relative to the script's folder; the next two likewise.
        vars_template: the variable store to start with.
        disks: raw disks, one for each disk of the machine.
        qemu_version: the version whose ACPI tables were measured.

    Raises:
        MeasureError: the disks do not fit the machine, or the machine cannot be written down.
    """
    network = _network(machine)
    files = LaunchFiles(
        code=_variable("code"),
        vars=_variable("vars"),
        disks=tuple(_disk(machine.disks, number) for number in range(len(disks))),
        tpm_socket=_variable("tpm") if machine.tpm is not None else None,
        serial=_variable("SERIAL"),
        options=("-netdev", _variable("NETDEV")) if network else (),
    )
    words = render(machine, files)[1:]
    return LaunchScript(
        machine=machine.name,
        program=PROGRAM,
        words=_lines(tuple(_quote(word) for word in words)),
        code=shlex.quote(code),
        vars=shlex.quote(vars_template),
        disks=tuple(shlex.quote(disk) for disk in disks),
        tpm=machine.tpm is not None,
        kvm=machine.accelerator is Accelerator.KVM,
        writable=not all(disk.read_only for disk in machine.disks),
        snapshot=machine.accelerator is Accelerator.TCG,
        network=network,
        qemu_version=qemu_version,
    )


def snp_script(
    machine: SnpMachine, *, firmware: str, disk: str, kernel: str = "", initrd: str = "", cmdline: str = ""
) -> LaunchScript:
    """The launch script of a machine with SEV-SNP; what the guest writes is kept.

    Args:
        firmware: its path, relative to the script's folder; so are those behind it.
        disk: raw disk.
        kernel: of a machine with kernel hashes: the UKI, or the kernel.
        initrd: of a kernel that is no UKI.
        cmdline: likewise.

    Raises:
        MeasureError: the files do not fit the machine.
    """
    files = SnpFiles(
        firmware=_variable("code"),
        disk=_disk(machine.disks, 0),
        kernel=_variable("kernel") if kernel else None,
        initrd=_variable("initrd") if initrd else None,
        cmdline=cmdline or None,
        tpm_socket=_variable("tpm") if machine.tpm is not None else None,
        serial=_variable("SERIAL"),
    )
    return LaunchScript(
        machine=machine.name,
        program=PROGRAM,
        words=_lines(tuple(_quote(word) for word in render_snp(machine, files)[1:])),
        code=shlex.quote(firmware),
        vars="",
        disks=(shlex.quote(disk),),
        kernel=shlex.quote(kernel) if kernel else "",
        initrd=shlex.quote(initrd) if initrd else "",
        tpm=machine.tpm is not None,
        kvm=True,
        writable=True,
        snapshot=False,
        snp=True,
    )


def _network(machine: QemuMachine) -> str:
    """The backend of the machine's network device; it is the host's side, so the script leaves it open.

    Raises:
        MeasureError: there are several; the script has one variable for one.
    """
    found = sorted({match[1] for device in machine.devices if (match := _NETDEV.search(device))})
    if len(found) > 1:
        raise MeasureError(f"{machine.name}: network backends {', '.join(found)}; a launch script has one")
    return "".join(found)


def _disk(disks: Sequence[Disk], number: int) -> DriveFile:
    keeps = number < len(disks) and disks[number].read_only
    return DriveFile(path=_variable(f"disk{number}") + ("" if keeps else _variable("snapshot")))


def _variable(name: str) -> str:
    return f"{_MARK}{name}{_MARK}"


def _quote(word: str) -> str:
    """The word for the shell; in double quotes where it has variables, or what a reader may take for one."""
    if not re.search(f"[{_MARK}$`]", word):
        return shlex.quote(word)
    escaped = re.sub(r'([\\"$`])', r"\\\1", word)
    return '"' + re.sub(f"{_MARK}([A-Za-z0-9]+){_MARK}", r"${\1}", escaped) + '"'


def _lines(words: tuple[str, ...]) -> tuple[str, ...]:
    """Options with their value, so that the script shows one option a line."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return tuple(lines)
