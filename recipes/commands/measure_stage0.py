"""``goldsmith measure`` and ``explain`` for machines that start in stage0."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError
from ..record import TYPE_CHECKING
from .arguments import LateHelp

if TYPE_CHECKING:
    from typing import Any

    from ..measure.stage0 import Stage0Prediction
    from ..steps.measure_stage0 import OpenedStage0

SYSTEM_IMAGE, CONTAINER = "system_image_sha256", "container_binary_sha256"
# Characters that Rust's regex crate does not take as themselves.
_SPECIAL = frozenset(r"\.+*?()|[]{}^$")
# How commands.txt of a recipe of HATs' writes what the launcher draws at each start.
_PORT = "PORT"
_DRAWN = f"--launcher-addr=vsock://2:{_PORT}"
_HOW = "goldsmith capture acpi -o FILE -- QEMU COMMAND LINE, then --acpi FILE --qemu-version VERSION"


def add_stage0_options(parser: argparse.ArgumentParser, *, files: bool = True) -> None:
    """Adds what is for machines with stage0 alone.

    Args:
        files: whether files that later stages measure can be given.
    """
    stage0 = parser.add_argument_group("stage0 (HATs, Oak Containers)")
    stage0.add_argument("--stage0", metavar="GENERATION", help=LateHelp(_generations))
    stage0.add_argument(
        "--acpi", type=Path, metavar="FILE", help="captured ACPI tables (goldsmith capture acpi)"
    )
    stage0.add_argument("--qemu-version", metavar="VERSION", help="that runs the machine, such as 9.2.0")
    if files:
        stage0.add_argument(
            "--system-image", type=Path, metavar="FILE", help="system.tar.xz, which stage1 measures"
        )
        stage0.add_argument(
            "--runtime-bundle", type=Path, metavar="FILE", help="the bundle that the orchestrator measures"
        )


def _generations() -> str:
    from ..machine.stage0 import Stage0Generation

    names = ", ".join(generation.value for generation in Stage0Generation)
    return f"the firmware is a stage0 of this generation: {names}"


def stage0_options(options: argparse.Namespace) -> list[tuple[object, str]]:
    """What was given of ``add_stage0_options`` beside the generation, each with its name."""
    given = vars(options)
    names = ("acpi", "qemu_version", "system_image", "runtime_bundle")
    return [(given.get(name), "--" + name.replace("_", "-")) for name in names]


def run_stage0(options: argparse.Namespace) -> int:
    """Prints the fields of an appraisal policy, and the event."""
    if not options.launch:
        raise ImageError(
            "measure: no command line; write it behind --, for example -- qemu-system-x86_64 ..."
        )
    opened = _open(options, options.launch)
    prediction = opened.replay()
    document = _document(options, opened, prediction)
    for text in opened.ignored if options.verbose else ():
        print(f"no influence: {text}", file=sys.stderr)
    for note in document["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for item in document["omitted"]:
        print(f"omitted: {item['register']}: {item['reason']}", file=sys.stderr)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _print_text(document)
    return 0


def explain_stage0(options: argparse.Namespace, launches: Sequence[Sequence[str]]) -> int:
    """Prints every step of a launch, or what differs between two; 1 where something does."""
    opened = [_open(options, launch) for launch in launches]
    predictions = [item.replay() for item in opened]
    notes = [
        note
        for item, prediction in zip(opened, predictions, strict=True)
        for note in (*item.notes, *prediction.notes, *_drawn_notes(prediction.cmdline))
    ]
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)
    if len(opened) == 2:
        from ..golden.whatif_stage0 import compare

        difference = compare((opened[0].launch, opened[1].launch), (predictions[0], predictions[1]))
        text = json.dumps(difference.to_json(), indent=1) + "\n" if options.json else str(difference)
        print(text, end="")
        return 0 if difference.equal else 1
    _explain(options, opened[0], predictions[0])
    return 0


def _explain(options: argparse.Namespace, opened: OpenedStage0, prediction: Stage0Prediction) -> None:
    from ..golden.explain import explain
    from ..golden.rows import trace_json

    names = {trace.register for trace in prediction.traces}
    for name in options.register or ():
        if name not in names:
            raise ImageError(f"explain: --register {name}: not among {', '.join(sorted(names))}")
    wanted = options.register or names
    traces = [trace for trace in prediction.traces if trace.register in wanted]
    if options.json:
        document = {"profile": _profile(opened), "trace": [trace_json(trace) for trace in traces]}
        print(json.dumps(document, indent=1))
    else:
        print(f"profile {_profile(opened)}\n\n{explain(traces)}", end="")


def _open(options: argparse.Namespace, launch: Sequence[str]) -> OpenedStage0:
    from ..steps.measure_stage0 import open_stage0
    from ..vmm.stage0_parse import parse_generation, parse_host

    return open_stage0(
        launch,
        generation=parse_generation(options.stage0),
        host=parse_host(options.host),
        acpi=options.acpi,
        qemu_version=options.qemu_version,
    )


def _profile(opened: OpenedStage0) -> str:
    machine = opened.launch.machine
    protection = "insecure" if machine.sev is None else machine.sev.mode.value
    return f"stage0-{machine.generation.value}-{protection}"


def _document(
    options: argparse.Namespace, opened: OpenedStage0, prediction: Stage0Prediction
) -> dict[str, Any]:
    """What ``--json`` prints: the fields, every input that they follow from, and the steps."""
    from ..golden.rows import trace_json

    rows, omitted = _rows(options, prediction)
    drawn = prediction.cmdline.endswith(_DRAWN)
    capture = opened.capture
    return {
        "profile": _profile(opened),
        "machine": json.loads(opened.launch.machine.identity()),
        "inputs": _inputs(opened),
        "acpi_capture": None
        if capture is None
        else {"qemu": capture.qemu_version, "machine": capture.machine},
        "registers": rows,
        "omitted": omitted,
        "event": None
        if prediction.event is None or drawn
        else {"sha256": hashlib.sha256(prediction.event).hexdigest(), "content": prediction.event.hex()},
        "notes": [*opened.notes, *prediction.notes, *_drawn_notes(prediction.cmdline)],
        "trace": [trace_json(trace) for trace in prediction.traces],
    }


def _rows(
    options: argparse.Namespace, prediction: Stage0Prediction
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The nine fields in the order of an appraisal policy: those with a value, and those without."""
    from ..measure.stage0 import CMDLINE, LOG_LABELS, REGISTERS, STAGE0
    from ..measure.trace import Established
    from ..steps.measure_sev import hash_file

    values = {trace.register: trace.steps[-1].after.hex() for trace in prediction.traces}
    values[CMDLINE] = _expression(prediction.cmdline)
    rows, omitted = [], []
    for name in REGISTERS:
        if name not in values:
            reason = _no_sev() if name == STAGE0 else _no_tables(options)
            omitted.append({"register": name, "reason": reason})
            continue
        established = prediction.established[name]
        if name == CMDLINE and prediction.cmdline.endswith(_DRAWN):
            established = Established.SPEC_ONLY
        row = {"register": name, "value": values[name], "established": established.value}
        if name != CMDLINE:
            row["algorithm"] = "sha384" if name == STAGE0 else "sha256"
        if name in LOG_LABELS:
            row["log"] = LOG_LABELS[name]
        rows.append(row)
    for name, path, option in (
        (SYSTEM_IMAGE, options.system_image, "--system-image system.tar.xz"),
        (CONTAINER, options.runtime_bundle, "--runtime-bundle FILE"),
    ):
        if path is None:
            omitted.append({"register": name, "reason": f"no command line names the file; give {option}"})
        else:
            value = hash_file(path).sha256.hex()
            rows.append({"register": name, "value": value, "established": "oracle", "algorithm": "sha256"})
    return rows, omitted


def _expression(cmdline: str) -> str:
    """What matches this command line and no other, but for a port that the launcher has yet to draw."""
    text, end = cmdline, ""
    if cmdline.endswith(_DRAWN):
        text, end = cmdline.removesuffix(_PORT), "[0-9]+"
    escaped = "".join(f"\\{character}" if character in _SPECIAL else character for character in text)
    return f"^{escaped}{end}$"


def _drawn_notes(cmdline: str) -> tuple[str, ...]:
    if not cmdline.endswith(_DRAWN):
        return ()
    what = f"-append: {_PORT} stands for the vsock port that HATs' launcher draws at each start"
    return (f"{what}: the expression takes any number there, and the event is left out",)


def _no_sev() -> str:
    return "no SEV-SNP; its policy says insecure {}"


def _no_tables(options: argparse.Namespace) -> str:
    if options.acpi is not None:
        return f"what stage0 {options.stage0} hashes of the tables is not modelled"
    return f"QEMU makes the tables, and none are given; capture them: {_HOW}"


def _inputs(opened: OpenedStage0) -> list[dict[str, object]]:
    launch = opened.launch
    rows: list[dict[str, object]] = []
    if launch.firmware is not None:
        digest = launch.firmware.sha256.hexdigest()
        rows.append(
            {"role": "firmware", "name": launch.firmware.name, "size": launch.firmware.size, "sha256": digest}
        )
    kernel = launch.kernel
    rows.append(
        {"role": "kernel", "name": kernel.name, "size": kernel.size, "behind_setup": kernel.sha256.hex()}
    )
    if launch.initrd is not None:
        initrd = launch.initrd
        rows.append(
            {"role": "initrd", "name": initrd.name, "size": initrd.size, "sha256": initrd.sha256.hex()}
        )
    return rows


def _print_text(document: dict[str, Any]) -> None:
    print(f"profile {document['profile']}")
    print(f"machine {json.dumps(document['machine'], sort_keys=True)}")
    width = max(len(row["register"]) for row in document["registers"])
    for row in document["registers"]:
        print(f"{row['register']:<{width}}  {row['value']}  {row['established']}")
    if document["event"] is not None:
        print(f"{'event':<{width}}  {document['event']['content']}")
        print(f"{'sha256 of the event':<{width}}  {document['event']['sha256']}")
