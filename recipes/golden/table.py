"""The golden manifest as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..measure.trace import Established, HashAlgorithm
from ..units import format_size
from .manifest import GoldenMachine, GoldenManifest, RegisterRow
from .unlock import UnlockPolicy

# The machines that have a register's value, by how it was established there.
_Values = dict[tuple[str, bytes], dict[Established, list[int]]]
BOLD, DIM, GREEN, YELLOW, PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[0m"
COLOURS = {
    Established.BOOTED: GREEN,
    Established.ORACLE: GREEN,
    Established.LEARNT: YELLOW,
    Established.SPEC_ONLY: YELLOW,
}


def render(manifest: GoldenManifest, *, colour: bool, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> str:
    """Artefacts with their digests, then every golden register of one bank and the machines that share it.

    A register in another algorithm alone, as a realm's or a launch digest, is shown in that one.
    """
    paint = _Paint(colour)
    lines = ["", paint(BOLD, f"{manifest.image} {manifest.version}"), ""]
    width = max((len(artefact.name) for artefact in manifest.artefacts), default=8)
    lines.append(paint(DIM, f"  {'artefact':<{width}}  {'size':>10}  sha256"))
    lines += [
        f"  {artefact.name:<{width}}  {format_size(artefact.size):>10}  {artefact.sha256}"
        for artefact in manifest.artefacts
    ]
    lines += ["", *_registers(manifest, algorithm, paint), ""]
    if manifest.unlock:
        lines += [*_unlock(manifest, paint), ""]
    lines += [*_machines(manifest, paint), ""]
    return "\n".join(lines) + "\n"


class _Paint:
    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, code: str, text: str) -> str:
        return f"{code}{text}{PLAIN}" if self.colour else text


def _registers(manifest: GoldenManifest, algorithm: HashAlgorithm, paint: _Paint) -> list[str]:
    """A table for each hash algorithm that is shown, the chosen one first."""
    groups: dict[HashAlgorithm, _Values] = {algorithm: {}}
    for number, machine in enumerate(manifest.machines, 1):
        for name, row in _shown(machine, algorithm):
            labels = groups.setdefault(row.algorithm, {}).setdefault((name, row.value), {})
            labels.setdefault(row.established, []).append(number)
    found = [item for item in groups if groups[item]] or [algorithm]
    found.sort(key=lambda item: (item is not algorithm, item.size))
    width = max((len(name) for item in found for name, _ in groups[item]), default=8)
    return [line for item in found for line in _bank(item, groups[item], width, paint)]


def _shown(machine: GoldenMachine, algorithm: HashAlgorithm) -> Iterator[tuple[str, RegisterRow]]:
    """Registers in the chosen algorithm, or in their own where they have no value in it."""
    shown = {row.register for row in machine.registers if row.algorithm is algorithm}
    for row in machine.registers:
        if row.algorithm is algorithm or row.register not in shown:
            yield row.register, row
    for disk in machine.disks:
        for row in disk.registers:
            if row.algorithm is algorithm:
                yield f"{row.register} on {', '.join(disk.formats)}", row


def _bank(algorithm: HashAlgorithm, values: _Values, width: int, paint: _Paint) -> list[str]:
    """A line for each value a register has on some machine, with the machines by how it was established."""
    digits = 2 * algorithm.size
    head = f"  {'register':<{width}}  {algorithm.value:<{digits}}  established on machines"
    lines = [paint(DIM, head)]
    for register, value in sorted(values, key=lambda item: (natural(item[0]), min(values[item].values()))):
        labels = values[register, value]
        parts = [
            paint(COLOURS[label], f"{label.value} {ranges(labels[label])}")
            for label in Established
            if label in labels
        ]
        lines.append(f"  {register:<{width}}  {value.hex():<{digits}}  {', '.join(parts)}")
    return lines


def natural(register: str) -> tuple[bool, str, int, int, str]:
    """Sort key: PCR2 before PCR11, the phases of PCR 11 in boot order, and a realm's RIM before its REMs.

    ``PCR5 on gce``, for the disk of a format, comes behind ``PCR5``.
    """
    register, _, disk = register.partition(" on ")
    phases = ("", "enter-initrd", "leave-initrd", "sysinit", "ready")
    name, _, phase = register.partition(":")
    letters = name.rstrip("0123456789")
    number = int(name[len(letters) :] or 0)
    place = phases.index(phase) if phase in phases else len(phases)
    return letters != "RIM", letters, number, place, disk


def ranges(numbers: Sequence[int]) -> str:
    """``1-4,7`` for 1, 2, 3, 4 and 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _unlock(manifest: GoldenManifest, paint: _Paint) -> list[str]:
    """A line for each digest that a TPM demands, with the machines whose boots lead to it."""
    rows = [row for policy in manifest.unlock for row in _policy_rows(policy)]
    width = max(len(name) for name, _, _ in rows)
    lines = [paint(DIM, f"  {'unlock policy':<{width}}  {'sha256':<64}  of")]
    return lines + [f"  {name:<{width}}  {digest:<64}  {what}" for name, digest, what in rows]


def _policy_rows(policy: UnlockPolicy) -> list[tuple[str, str, str]]:
    """Name, digest and meaning; a machine without a digest has its reason in the manifest."""
    name = f"{policy.volume} {policy.provider}"
    groups: dict[bytes, list[int]] = {}
    for number, item in enumerate(policy.machines, 1):
        if item.digest is not None:
            groups.setdefault(item.digest, []).append(number)
    approval = policy.approval
    rows = []
    if approval is not None:
        key = f"whatever key {approval.fingerprint.hex()[:16]} has signed"
        rows.append((f"{name} sealed", approval.sealed.hex(), key))
    kind = "sealed" if approval is None else "signed"
    release = ""
    if approval is not None and approval.rollback is not None:
        release = f", counter {approval.rollback.counter:#010x} at most {approval.rollback.release}"
    registers = ",".join(map(str, policy.registers))
    for digest, numbers in groups.items():
        what = f"PCR {registers} at {policy.phase}{release}, machines {ranges(numbers)}"
        rows.append((f"{name} {kind}", digest.hex(), what))
    return rows or [(name, "", "no machine's boot is known to open it")]


def _machines(manifest: GoldenManifest, paint: _Paint) -> list[str]:
    width = max((len(machine.name) for machine in manifest.machines), default=8)
    lines = [paint(DIM, f"  {'machine':<{width + 4}}  launched by")]
    for number, machine in enumerate(manifest.machines, 1):
        lines.append(f"  {number:>2}  {machine.name:<{width}}  {machine.launch}  ({machine.vmm})")
        reasons: dict[str, list[str]] = {}
        for item in machine.omitted:
            reasons.setdefault(item.reason, []).append(item.register)
        lines += [paint(DIM, f"      {', '.join(names)}: {reason}") for reason, names in reasons.items()]
    return lines


def render_rows(rows: Iterable[RegisterRow]) -> str:
    """Register rows as aligned lines, one a bank."""
    ordered = sorted(rows, key=lambda row: (natural(row.register), row.algorithm.size))
    width = max((len(row.register) for row in ordered), default=0)
    return "\n".join(
        f"{row.register:<{width}}  {row.algorithm.value:<6}  {row.established.value:<9}  {row.value.hex()}"
        for row in ordered
    )
