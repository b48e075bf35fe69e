"""What a machine in a cloud will measure, as far as the image decides it: a golden manifest of its own.

Its firmware is the cloud's and not known here, so there are no values for what firmware measures of itself.
What boots is ours, and so are the keys that let it boot. So is the partition table (PCR 5): it was made for
the disk as it ships, firmware measures its header and entries and not the disk behind them, and the guest
never moves or grows it. A disk that a cloud makes larger has the same value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..record import dataclass, replace

if TYPE_CHECKING:
    from ..clouds.secure_boot import Pcr7
    from ..golden.manifest import GoldenMachine, GoldenManifest, RegisterRow

# What firmware decides; PCR 7 is added where the keys are enrolled. All others are the image's everywhere.
_FIRMWARE = frozenset({"PCR0", "PCR1", "PCR2", "PCR3", "PCR6", "PCR7"})
_TABLE = "PCR5"
# Of machines with SEV-SNP; the registers of such a machine's TPM are for the record alone.
_LAUNCH_DIGEST = "LAUNCH_DIGEST"
_SHOWN = frozenset({"PCR4", "PCR5", "PCR7", "PCR9", "PCR11"})


@dataclass(frozen=True, kw_only=True)
class CloudGolden:
    """The prediction for one cloud.

    Attributes:
        machine: of the image's own manifest, from which it was made.
        text: the manifest of the cloud.
        rows: registers that a release page shows.
        assumptions: what has to hold for them.
    """

    machine: str
    text: str
    rows: tuple[RegisterRow, ...]
    assumptions: tuple[str, ...]


def cloud_golden(
    golden: Path, cloud: str, disk_format: str, identity: dict[str, str], pcr7: Pcr7 | None
) -> CloudGolden:
    """The prediction for a cloud, of the manifest in the file ``golden``.

    Args:
        identity: what makes the machine what it is there.
        pcr7: None without Secure Boot; then PCR 7 is left out.

    Raises:
        ImageError: the manifest has no machine.
    """
    from ..golden import manifest_reader
    from ..golden.manifest import dump

    manifest = manifest_reader.load(golden.read_text(encoding="utf-8"), golden.name).on_disk(disk_format)
    base = _base(manifest, secure_boot=pcr7 is not None)
    machine = _machine(base, cloud, identity, pcr7)
    made = replace(
        manifest,
        machines=(machine,),
        unlock=(),
        disks=(),
        wildcards=tuple(item for item in manifest.wildcards if item.register == _TABLE),
        unmeasured=(*manifest.unmeasured, f"what the firmware of {cloud} measures of itself: not predicted"),
    )
    return CloudGolden(
        machine=base.name,
        text=dump(made),
        rows=tuple(row for row in machine.registers if row.register in _SHOWN),
        assumptions=pcr7.assumptions if pcr7 else (),
    )


def _base(manifest: GoldenManifest, *, secure_boot: bool) -> GoldenMachine:
    """A machine that boots as one in the cloud does."""
    machines = tuple(item for item in manifest.machines if item.trace(_LAUNCH_DIGEST) is None)
    if not machines:
        raise ImageError("golden.json: has no machine; add one to machines of the recipe")
    alike = [item for item in machines if _enforces(item) == secure_boot]
    return (alike or list(machines))[0]


def _enforces(machine: GoldenMachine) -> bool:
    firmware = json.loads(machine.identity).get("firmware")
    return isinstance(firmware, dict) and firmware.get("secure_boot") is True


def _machine(base: GoldenMachine, cloud: str, identity: dict[str, str], pcr7: Pcr7 | None) -> GoldenMachine:
    from ..golden.manifest import Omitted, RegisterRow
    from ..measure.trace import Established, HashAlgorithm

    rows = [
        replace(row, established=Established.SPEC_ONLY)
        for row in base.registers
        if row.register.partition(":")[0] not in _FIRMWARE
    ]
    traces = [trace for trace in base.traces if trace.register.partition(":")[0] not in _FIRMWARE]
    policies = [
        item
        for item in base.policies
        if item.register not in _FIRMWARE or (item.register == "PCR7" and pcr7 is not None)
    ]
    if pcr7 is not None:
        rows += [
            RegisterRow(
                register="PCR7",
                algorithm=algorithm,
                value=pcr7.value(algorithm),
                established=pcr7.established,
            )
            for algorithm in HashAlgorithm
        ]
        traces.append(pcr7.trace)
    known = {row.register.partition(":")[0] for row in rows}
    gone = [item.register for item in base.policies if item.register in _FIRMWARE]
    return replace(
        base,
        name=cloud,
        vmm=cloud,
        identity=json.dumps(identity, sort_keys=True, separators=(",", ":")),
        launch="deploy.sh",
        registers=tuple(rows),
        traces=tuple(traces),
        policies=tuple(policies),
        omitted=(
            *(
                Omitted(register=name, reason=f"the firmware of {cloud} decides it, and is not known here")
                for name in dict.fromkeys([*gone, *(item.register for item in base.omitted)])
                if name in _FIRMWARE and name not in known
            ),
            *(item for item in base.omitted if item.register not in _FIRMWARE),
        ),
        disks=(),
    )
