"""What if: two launches of a realm side by side, from the registers down to the option that moved them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..machine import KvmtoolMachine
from ..machine.kvmtool_profiles import find_profile
from ..measure.kvmtool import RealmPrediction
from ..measure.kvmtool_params import realm_params
from ..measure.rmm import RealmFlags, RealmParams
from ..measure.trace import Step
from .diff import Moved, first_moved, measured
from .explain import describe
from .manifest import RegisterRow, trace_json
from .realm_options import OptionDifference, option_differences, plain
from .tree_diff import TreeDifference, tree_differences

RIM = "RIM"
# What the steps are called that put a file into memory; the option that names the file.
_FILES = {"kernel": "-k", "initramfs": "-i"}
# Which options each measured field of RmiRealmParams follows. Spec: 3rd-kvmtool 3cac6a9, arm/aarch64/realm.c.
_SVE = ("--sve-vl", "--disable-sve", "--host sve_vl", "--profile")
_FIELDS = {
    "flags SVE": _SVE,
    "flags PMU": ("--pmu-counters",),
    "flags LPA2": ("--host lpa2",),
    "s2sz": ("--ipa-size", "-m", "--profile"),
    "sve_vl": _SVE,
    "num_bps": ("--islet", "--host num_bps", "--profile"),
    "num_wps": ("--islet", "--host num_wps", "--profile"),
    "pmu_num_ctrs": ("--pmu-counters",),
}


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """A measured field of the realm's parameters, and the options that changed it."""

    name: str
    before: str
    after: str
    cause: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after}, by {self.cause}"


@dataclass(frozen=True, kw_only=True)
class InputDifference:
    """A file that is not in both launches as it is in the other.

    Attributes:
        option: that names it.
        what: kernel or initramfs.
        how: for people.
        moved: it is the same file in another place, which is another option's doing.
    """

    option: str
    what: str
    how: str
    moved: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({self.option}): {self.how}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two launches held against each other; ``str()`` is the whole text for people.

    Attributes:
        first: the first differing step, or None.
        steps: how many steps differ; those that only one launch has count.
        total: how many steps both have together, equal ones once.
        options: that differ between the machines.
        ignored: what only one command line has, and no register depends on.
        parameters: of the realm that differ.
        inputs: files that differ.
        tree: nodes and properties that differ.
        bytes_only: the trees say the same in different bytes.
    """

    before: RealmPrediction
    after: RealmPrediction
    first: Moved | None
    steps: int
    total: int
    options: tuple[OptionDifference, ...]
    ignored: tuple[str, ...]
    parameters: tuple[FieldDifference, ...]
    inputs: tuple[InputDifference, ...]
    tree: tuple[TreeDifference, ...]
    bytes_only: bool

    @property
    def equal(self) -> bool:
        """Whether both launches measure the same."""
        return self.before.rim == self.after.rim

    def __str__(self) -> str:
        return "\n".join(_text(self)) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything the text says, for programs."""
        return {
            "equal": self.equal,
            "before": _side_json(self.before),
            "after": _side_json(self.after),
            "first_step": _first_json(self),
            "steps": {"differ": self.steps, "of": self.total},
            "options": [
                {
                    "option": item.option,
                    "before": item.before,
                    "after": item.after,
                    "influence": not self.equal and not item.unmeasured,
                    "reason": item.unmeasured,
                }
                for item in self.options
            ],
            "ignored": list(self.ignored),
            "parameters": [
                {"field": item.name, "before": item.before, "after": item.after, "cause": item.cause}
                for item in self.parameters
            ],
            "inputs": [
                {"option": item.option, "input": item.what, "difference": item.how} for item in self.inputs
            ],
            "device_tree": [item.to_json() for item in self.tree],
            "device_tree_bytes_only": self.bytes_only,
        }


def compare(
    before: RealmPrediction,
    after: RealmPrediction,
    machines: tuple[KvmtoolMachine, KvmtoolMachine] | None = None,
    ignored: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> Difference:
    """What differs between two launches.

    Args:
        machines: that were launched, to name the options that differ.
        ignored: options of each command line that have no influence on the RIM, with reasons.
    """
    options = option_differences(*machines) if machines else ()
    inputs = tuple(_inputs(before, after))
    counting = [item for item in options if not item.unmeasured]
    files = [item.option for item in inputs if not item.moved]
    tree = tree_differences(before.device_tree, after.device_tree, counting, files)
    pairs = tuple(_pairs(before, after))
    return Difference(
        before=before,
        after=after,
        first=first_moved(RIM, before.trace, after.trace),
        steps=sum(one is None or other is None or measured(one) != measured(other) for one, other in pairs),
        total=len(pairs),
        options=options,
        ignored=tuple(_one_sided(*ignored, options)),
        parameters=tuple(_parameters(*machines, [item.option for item in counting])) if machines else (),
        inputs=inputs,
        tree=tree,
        bytes_only=not tree and before.dtb != after.dtb,
    )


def _role(step: Step) -> tuple[str, str]:
    """What a step is for, whatever its sizes."""
    return step.operation, step.description.partition(":")[0]


def _pairs(before: RealmPrediction, after: RealmPrediction) -> Iterator[tuple[Step | None, Step | None]]:
    """The steps that are for the same thing, and those that only one launch has."""
    new = {_role(step): step for step in after.trace.steps}
    for step in before.trace.steps:
        yield step, new.pop(_role(step), None)
    for step in new.values():
        yield None, step


def _one_sided(
    before: tuple[str, ...], after: tuple[str, ...], options: tuple[OptionDifference, ...]
) -> Iterator[str]:
    """What only one side ignores, as far as it is no option that is listed already."""
    listed = {item.option for item in options if item.unmeasured}
    for texts, others in ((before, after), (after, before)):
        for text in dict.fromkeys(texts):
            if text not in others and text.partition(":")[0].partition(" ")[0] not in listed:
                yield text


def _inputs(before: RealmPrediction, after: RealmPrediction) -> Iterator[InputDifference]:
    for one, other in _pairs(before, after):
        step = other or one
        if step is None or step.operation != "DATA_CREATE" or step.description not in _FILES:
            continue
        if one is None or other is None:
            side = "second" if one is None else "first"
            how, moved = f"{plain(step.source)} on the {side} command line only", False
        else:
            how, moved = _how(one, other)
        if how:
            option = _FILES[step.description]
            yield InputDifference(option=option, what=step.description, how=how, moved=moved)


def _how(before: Step, after: Step) -> tuple[str, bool]:
    """How a file's step differs, and whether only its place does; a name alone is no difference."""
    names = dict.fromkeys((before.source, after.source))
    where = f"{plain(' and '.join(names))}: "
    comparable = before.digests.keys() == after.digests.keys()
    if before.size != after.size or (comparable and before.digests != after.digests):
        return f"{where}other content ({before.count} and {after.count} granules)", False
    if before.address != after.address:
        return f"{where}at {before.address or 0:#x} and at {after.address or 0:#x}", True
    return "", False


def _parameters(
    before: KvmtoolMachine, after: KvmtoolMachine, options: list[str]
) -> Iterator[FieldDifference]:
    old, new = (realm_params(machine, find_profile(machine.profile)) for machine in (before, after))
    for name, known in _FIELDS.items():
        one, other = _field(old, name), _field(new, name)
        if one != other:
            cause = ", ".join(option for option in known if option in options)
            yield FieldDifference(name=name, before=str(one), after=str(other), cause=cause)
    if before.algorithm != after.algorithm:
        yield FieldDifference(
            name="hash_algo", before=before.algorithm, after=after.algorithm, cause="--measurement-algo"
        )


def _field(params: RealmParams, name: str) -> int:
    field, _, flag = name.partition(" ")
    value = int(getattr(params, field))
    return int(bool(value & RealmFlags[flag])) if flag else value


def _side_json(prediction: RealmPrediction) -> dict[str, Any]:
    row = RegisterRow(
        register=RIM,
        algorithm=prediction.algorithm,
        value=prediction.rim,
        established=prediction.established,
    )
    return {"profile": prediction.profile, "registers": [row.to_json()], "notes": list(prediction.notes)}


def _first_json(difference: Difference) -> dict[str, Any] | None:
    moved = difference.first
    if moved is None:
        return None

    def step(prediction: RealmPrediction, value: Step | None) -> object:
        return trace_json(prediction.trace)["steps"][moved.index] if value else None

    return {
        "step": moved.index + 1,
        "before": step(difference.before, moved.before),
        "after": step(difference.after, moved.after),
    }


def _text(difference: Difference) -> Iterator[str]:
    for side, prediction in (("before", difference.before), ("after ", difference.after)):
        yield f"{side}  {prediction.profile}  {prediction.algorithm.value}  {prediction.rim.hex()}"
    yield ""
    yield from _verdict(difference)
    sections: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("options that differ", difference.options),
        ("on one command line only, of no influence", difference.ignored),
        ("realm parameters", difference.parameters),
        ("files", difference.inputs),
        ("device tree", difference.tree),
    )
    for title, items in sections:
        if items:
            yield ""
            yield title
            yield from ("  " + line for item in items for line in str(item).splitlines())
    if difference.bytes_only:
        yield ""
        yield "device tree"
        yield "  both trees say the same, and their bytes differ"


def _verdict(difference: Difference) -> Iterator[str]:
    moved = difference.first
    if moved is None:
        yield "the RIM is the same, and so is every step" + _why_equal(difference)
        return
    yield str(moved)
    texts = [describe(step) if step else "no such step" for step in (moved.before, moved.after)]
    for side, step, text in zip(("before", "after "), (moved.before, moved.after), texts, strict=True):
        what = "" if texts[0] == texts[1] else f"{text}  "
        hashes = "" if step is None else ", ".join(_hash(step))
        yield f"  {side}  {what}{hashes}".rstrip()
    yield f"{difference.steps} of {difference.total} steps {'differs' if difference.steps == 1 else 'differ'}"
    if difference.before.algorithm is not difference.after.algorithm:
        yield "the algorithms are not the same, so every step differs; contents of files are not compared"


def _hash(step: Step) -> Iterator[str]:
    for algorithm, digest in step.digests.items():
        yield f"{algorithm.value} {digest.hex()} of {step.size} bytes"


def _why_equal(difference: Difference) -> str:
    if any(not option.unmeasured for option in difference.options):
        return "; together, the options that differ leave it as it is"
    if difference.options or difference.ignored:
        return "; what differs between the command lines has no influence on it"
    return "; names of files and the content of disks are in no register"
