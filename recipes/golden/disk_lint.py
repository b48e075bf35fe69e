"""What TPM policies of volumes have against disks of several sizes, and against wildcards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..measure.tpm import register
from .manifest import GoldenMachine, ShippedDisk, Wildcard
from .unlock import UnlockVolume
from .unlock_lint import Finding, Severity


def lint_wildcards(wildcards: Sequence[Wildcard], volumes: Iterable[UnlockVolume]) -> Iterator[Finding]:
    """Errors for wildcards that a TPM cannot honour: it knows values, not events."""
    for volume in volumes:
        names = _registers(volume)
        for number, item in enumerate(wildcards):
            if item.register in names:
                what = (
                    f"volume {volume.name} opens only for the predicted {item.register}, a TPM takes no other"
                )
                message = f"{what}; leave the wildcard out, or the register out of the policy"
                yield Finding(severity=Severity.ERROR, key=("golden", "wildcards", number), message=message)


def lint_disks(
    disks: Sequence[ShippedDisk], machines: Iterable[GoldenMachine], volumes: Iterable[UnlockVolume]
) -> Iterator[Finding]:
    """Warnings for disk formats on which a volume's TPM policy is another one than the manifest has."""
    formats: dict[str, list[str]] = {}
    for machine in machines:
        for disk in machine.disks:
            for row in disk.registers:
                found = formats.setdefault(row.register, [])
                found += [name for name in disk.formats if name not in found]
    indexes = {disk.format: index for index, disk in enumerate(disks)}
    for volume in volumes:
        for name in sorted(_registers(volume) & formats.keys()):
            what = (
                f"volume {volume.name} depends on {name}, which is another one on {', '.join(formats[name])}"
            )
            message = f"{what}; its policy in golden.json is that of the raw disk"
            key = ("disk", "formats", indexes[formats[name][0]])
            yield Finding(severity=Severity.WARNING, key=key, message=message)


def _registers(volume: UnlockVolume) -> set[str]:
    indexes = {index for provider in volume.providers for index in provider.registers}
    if volume.tpm2 is not None:
        indexes.update(volume.tpm2.registers)
    return {register(index) for index in indexes}
