"""What if: two launches with AMD SEV side by side, down to the page, the vCPU and the input that moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from ..measure.sev import SevLaunch, SevPrediction, first_different_page
from .diff import Moved, first_moved
from .explain import describe

# Which option each field of a machine follows.
_OPTIONS = {
    "mode": "-object",
    "vmm": "--machine vmm",
    "vcpus": "-smp",
    "cpu": "-cpu",
    "features": "--host sev-features",
    "kernel_hashes": "kernel-hashes",
    "policy": "policy",
    "cmdline": "-append",
    "variables_size": "variables",
}
_HEXADECIMAL = ("features", "policy")
# No digest depends on it; the mode that it decides is compared itself.
_UNMEASURED = ("policy",)


@dataclass(frozen=True, kw_only=True)
class SevCause:
    """An input that is not the same in both launches.

    Attributes:
        influence: whether digests depend on it in these launches.
    """

    option: str
    before: str
    after: str
    influence: bool

    def __str__(self) -> str:
        text = f"{self.option}: {self.before} -> {self.after}"
        return text if self.influence else f"{text} (not measured)"


@dataclass(frozen=True, kw_only=True)
class SevDifference:
    """Two launches held against each other; ``str()`` is the whole text for people.

    Attributes:
        first: the first differing step, or None.
        page: guest address of the first page that differs, where that step is the firmware's.
    """

    before: SevPrediction
    after: SevPrediction
    first: Moved | None
    page: int | None
    causes: tuple[SevCause, ...]

    @property
    def equal(self) -> bool:
        """Whether both launches measure the same."""
        return self.before.digest == self.after.digest

    def __str__(self) -> str:
        return "\n".join(_text(self)) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything the text says, for programs."""
        first = self.first
        step = (first.after or first.before) if first else None
        return {
            "equal": self.equal,
            "before": self.before.digest.hex(),
            "after": self.after.digest.hex(),
            "first_step": None
            if first is None or step is None
            else {"index": first.index, "step": describe(step)},
            "page": self.page,
            "inputs": [
                {
                    "option": item.option,
                    "before": item.before,
                    "after": item.after,
                    "influence": item.influence,
                }
                for item in self.causes
            ],
        }


def compare(
    launches: tuple[SevLaunch, SevLaunch], predictions: tuple[SevPrediction, SevPrediction]
) -> SevDifference:
    """What differs between two launches."""
    before, after = predictions
    register = before.trace.register
    first = first_moved(register, before.trace, after.trace)
    return SevDifference(
        before=before,
        after=after,
        first=first,
        page=_page(launches, first),
        causes=tuple(_causes(*launches)),
    )


def _page(launches: tuple[SevLaunch, SevLaunch], first: Moved | None) -> int | None:
    """Where the first page of firmware or SVSM lies that is not the same."""
    if first is None or first.before is None or first.after is None or first.before.address is None:
        return None
    with_svsm = first.before.description == "SVSM"
    one, other = (launch.svsm if with_svsm else launch.firmware for launch in launches)
    if first.before.description not in ("firmware", "SVSM"):
        return None
    if one is None or other is None or one.size != other.size:
        return None
    offset = first_different_page(one, other)
    return None if offset is None else first.before.address + offset


def _causes(before: SevLaunch, after: SevLaunch) -> Iterator[SevCause]:
    for item in fields(before.machine):
        old, new = getattr(before.machine, item.name), getattr(after.machine, item.name)
        if item.name != "name" and old != new:
            yield SevCause(
                option=_OPTIONS[item.name],
                before=_plain(old, item.name),
                after=_plain(new, item.name),
                influence=item.name not in _UNMEASURED and (item.name != "cmdline" or _hashed(before, after)),
            )
    for option, old_file, new_file in (
        ("-bios", before.firmware, after.firmware),
        ("svsm", before.svsm, after.svsm),
    ):
        if (old_file and old_file.page_digests) != (new_file and new_file.page_digests):
            yield SevCause(
                option=option,
                before=f"{old_file.name}, {old_file.size} bytes" if old_file else "none",
                after=f"{new_file.name}, {new_file.size} bytes" if new_file else "none",
                influence=True,
            )
    for option, old_hash, new_hash in (
        ("-kernel", before.kernel, after.kernel),
        ("-initrd", before.initrd, after.initrd),
    ):
        if (old_hash and old_hash.sha256) != (new_hash and new_hash.sha256):
            yield SevCause(
                option=option,
                before=f"{old_hash.name}, sha256 {old_hash.sha256.hex()}" if old_hash else "none",
                after=f"{new_hash.name}, sha256 {new_hash.sha256.hex()}" if new_hash else "none",
                influence=_hashed(before, after),
            )


def _hashed(*launches: SevLaunch) -> bool:
    return any(launch.hashes is not None for launch in launches)


def _plain(value: object, name: str) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if name in _HEXADECIMAL and isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value)


def _text(difference: SevDifference) -> Iterator[str]:
    for side, prediction in (("before", difference.before), ("after ", difference.after)):
        yield f"{side}  {prediction.algorithm.value}  {prediction.digest.hex()}"
    yield ""
    if difference.first is None:
        yield "the launch digest is the same, and so is every step"
    else:
        yield str(difference.first)
    if difference.page is not None:
        yield f"  the first page that differs is at {difference.page:#x}"
    if difference.causes:
        yield ""
        yield "what differs"
        yield from (f"  {cause}" for cause in difference.causes)
