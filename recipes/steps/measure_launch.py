"""``goldsmith measure``: a real command line, replayed from the files it names."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import MeasureError
from ..formats import varstore
from ..golden.manifest import GoldenMachine
from ..golden.predict import golden_machine
from ..machine import QemuMachine, UefiFirmware
from ..measure import secureboot
from ..measure.boot import replay_boot
from ..measure.uefi import AcpiTables
from ..record import dataclass, replace
from ..vmm.captures import AcpiCapture
from ..vmm.models import find_firmware, known_firmware
from ..vmm.qemu_parse import parse
from .boot_inputs import read_boot
from .digests import ROOT
from .models import load_models, read_captures

PROFILE = "qemu-uefi-tpm"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a command line measures, under which rules, and which of its options have no part in it."""

    profile: str
    machine: GoldenMachine
    ignored: tuple[str, ...]


def measure_launch(argv: Sequence[str], captures: Sequence[Path] | None) -> Measurement:
    """The golden entry of the machine that ``argv`` starts.

    Args:
        captures: files with captured ACPI tables; without any, those beside the project's recipes.

    Raises:
        ImageError: the command line is not modelled, or a file it names cannot be read.
    """
    launch = parse(argv, name="command line")
    code, variables = Path(launch.files.code), Path(launch.files.vars)
    if not launch.files.disks or launch.files.disks[0].format != "raw":
        raise MeasureError("-drive: the first disk must be a raw image; convert it, or measure the raw one")
    known = read_captures(captures or sorted((ROOT / "recipes" / "images").glob("*.captures.lock")))
    digest = hashlib.sha256(code.read_bytes()).digest()
    machine = _as_stored(launch.machine, variables, digest)
    capture = _find(known, machine, digest)
    words = ((machine, capture),) if capture else ()
    boot, model = read_boot(code, variables, Path(launch.files.disks[0].path), load_models(words))
    tables = AcpiTables(capture.table_loader, capture.rsdp, capture.tables) if capture else None
    prediction = replay_boot(machine, boot, tables)
    vmm = f"qemu {capture.qemu_version}" if capture else "qemu"
    golden = golden_machine(machine, prediction, model, vmm=vmm, launch=shlex.join(argv))
    return Measurement(profile=PROFILE, machine=golden, ignored=launch.ignored)


def _as_stored(machine: QemuMachine, variables: Path, digest: bytes) -> QemuMachine:
    """The machine with what its command line does not say: whether its store enforces Secure Boot."""
    facts = find_firmware(known_firmware(), digest)
    stored_variables = varstore.read(variables.read_bytes(), variables.name)
    enforced = (facts is None or facts.secure_boot_variable) and secureboot.is_enforced(stored_variables)
    return replace(machine, firmware=replace(machine.firmware, secure_boot=enforced))


def _find(known: Sequence[AcpiCapture], machine: QemuMachine, digest: bytes) -> AcpiCapture | None:
    """The capture of a machine whose firmware files may be called anything: their digest is what counts."""
    for capture in known:
        firmware = UefiFirmware(**json.loads(capture.identity)["firmware"])
        same = replace(machine, firmware=firmware).identity() == capture.identity
        if same and capture.code_sha256 == digest and firmware.secure_boot == machine.firmware.secure_boot:
            return capture
    return None
