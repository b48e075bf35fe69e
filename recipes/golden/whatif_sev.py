"""What if: two launches with AMD SEV side by side, down to the page, the vCPU and the input that moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from ..measure.igvm import IgvmLaunch, first_different_page_of_run
from ..measure.igvm_image import IgvmImage
from ..measure.sev import SevFirmware, SevLaunch, SevPrediction, first_different_page
from ..units import PAGE_SIZE
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
    "legacy_vm_type": "legacy-vm-type",
}
# Which option each file that is measured page by page follows, by its role.
_IMAGES = {"firmware": "-bios", "svsm": "svsm", "igvm": "igvm-cfg"}
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
        directive: number of the directive that it comes from, in the second IGVM file.
    """

    before: SevPrediction
    after: SevPrediction
    first: Moved | None
    page: int | None
    directive: int | None = None
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
            "directive": self.directive,
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


Launch = SevLaunch | IgvmLaunch


def compare(
    launches: tuple[Launch, Launch], predictions: tuple[SevPrediction, SevPrediction]
) -> SevDifference:
    """What differs between two launches."""
    before, after = predictions
    register = before.trace.register
    first = first_moved(register, before.trace, after.trace)
    page, directive = _page(launches, first)
    return SevDifference(
        before=before,
        after=after,
        first=first,
        page=page,
        directive=directive,
        causes=tuple(_causes(*launches)),
    )


def _page(launches: tuple[Launch, Launch], first: Moved | None) -> tuple[int | None, int | None]:
    """Where the first page of a file lies that is not the same, and its directive in an IGVM file."""
    if first is None or first.before is None or first.after is None or first.before.address is None:
        return None, None
    before, after = launches
    if isinstance(before, IgvmLaunch) and isinstance(after, IgvmLaunch):
        number = first_different_page_of_run(before.igvm, after.igvm, first.index)
        if number is None:
            return None, None
        return first.before.address + number * PAGE_SIZE, after.igvm.directive_of(first.index, number)
    if isinstance(before, IgvmLaunch) or isinstance(after, IgvmLaunch):
        return None, None
    with_svsm = first.before.description == "SVSM"
    one, other = (launch.svsm if with_svsm else launch.firmware for launch in (before, after))
    if first.before.description not in ("firmware", "SVSM"):
        return None, None
    if one is None or other is None or one.size != other.size:
        return None, None
    offset = first_different_page(one, other)
    return None if offset is None else first.before.address + offset, None


def _causes(before: Launch, after: Launch) -> Iterator[SevCause]:
    for item in fields(before.machine):
        old, new = getattr(before.machine, item.name), getattr(after.machine, item.name)
        if item.name != "name" and old != new:
            yield SevCause(
                option=_OPTIONS[item.name],
                before=_plain(old, item.name),
                after=_plain(new, item.name),
                influence=item.name not in _UNMEASURED and (item.name != "cmdline" or _hashed(before, after)),
            )
    old_files, new_files = _images(before), _images(after)
    for role, option in _IMAGES.items():
        old_file, new_file = old_files.get(role), new_files.get(role)
        if (old_file and old_file.sha256.digest()) != (new_file and new_file.sha256.digest()):
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


def _images(launch: Launch) -> dict[str, SevFirmware | IgvmImage]:
    """The files of a launch that are measured page by page, by their roles."""
    return dict(launch.images)


def _hashed(*launches: Launch) -> bool:
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
        origin = "" if difference.directive is None else f", directive {difference.directive}"
        yield f"  the first page that differs is at {difference.page:#x}{origin}"
    if difference.causes:
        yield ""
        yield "what differs"
        yield from (f"  {cause}" for cause in difference.causes)
