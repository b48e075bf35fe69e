"""``check:IMAGE``: boots the shipped disk by its launch script and holds the TPM against golden.json."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.exceptions import TaskFailed

from ..errors import ImageError, SpecError, ToolError
from ..machine import Accelerator
from ..record import dataclass, field, replace
from ..schema import DiskImage
from . import golden
from .run import pick
from .task import OUT, Task, say, write_text

if TYPE_CHECKING:
    from ..golden.manifest import GoldenMachine
    from ..golden.report import BootReport
    from ..golden.verify import Comparison

TIMEOUT = 420.0
# A check holds TPM registers against the prediction; a launch digest is in an attestation report.
NO_SNP = (
    "it needs a host with SEV-SNP, which no check has; start its script on one, and hold the guest's "
    "attestation report against golden.json with `goldsmith verify --snp-report`"
)
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What one boot showed.

    Attributes:
        console: all of it, with the boot report in it.
        refused: registers this host cannot speak about, with the reason.
    """

    machine: str
    vmm: str
    seconds: float
    comparison: Comparison
    console: bytes = field(repr=False)
    report: BootReport
    refused: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Whether the boot is exactly as predicted and the system came up whole."""
        return self.comparison.equal and self.report.facts.get("state") == "running"


def task(image: DiskImage) -> Task:
    """The doit task: every TCG machine of the recipe, or those named by ``--machine``."""
    parameter = {
        "name": "machine",
        "long": "machine",
        "short": "m",
        "type": list,
        "default": [],
        "help": "boot this machine only; may be given again",
    }
    return {
        "basename": "check",
        "name": image.name,
        "doc": f"boot {image.name} under QEMU (TCG) with swtpm and compare every register and event",
        "task_dep": [image.name],
        "params": [parameter],
        "actions": [(check, [image])],
        "verbosity": 2,
    }


def check(image: DiskImage, machine: Sequence[str]) -> TaskFailed | None:
    """Boots the machines, prints the table and writes ``check.json``; fails on any difference.

    A machine that does not come up is a failure of its own and hides nothing that the others show. An older
    verdict is removed first: it speaks of other bytes.
    """
    record = OUT / image.name / "check.json"
    try:
        expected = _expected(image, machine)
        record.unlink(missing_ok=True)
    except ImageError as error:
        return TaskFailed(str(error))
    left = not_booted(image) if not machine else ()
    count = "1 machine" if len(expected) == 1 else f"{len(expected)} machines, {AT_ONCE} at a time"
    say(f"booting {count}; each takes a minute or two")
    outcomes = _attempt_all(image, expected)
    write_text(record, json.dumps(_json(image, outcomes, left), indent=1) + "\n")
    for outcome in outcomes:
        say(_table(outcome) if isinstance(outcome, Proof) else f"\n{outcome.machine}\n  {outcome.message}")
    if left:
        say("\nnot booted, so nothing is proved of them here")
    for item in left:
        say(f"  {item.machine}: {item.message}")
    complaints = [line for outcome in outcomes for line in _complaints(outcome)]
    return TaskFailed("\n".join(complaints)) if complaints else None


def _expected(image: DiskImage, names: Sequence[str]) -> list[GoldenMachine]:
    """The golden entries of the machines to boot.

    Raises:
        SpecError: one is not known, or cannot be booted here.
    """
    from ..golden import manifest_reader

    snp = {item.name for item in image.snp}
    for name in names:
        if name in snp:
            raise SpecError(f"{image.name}: {name} cannot be checked: {NO_SNP}")

    path = golden.golden_path(image)
    where = path.relative_to(OUT.parent).as_posix() if path.is_relative_to(OUT.parent) else str(path)
    manifest = manifest_reader.load(path.read_text(encoding="utf-8"), where)
    found = []
    for item in pick(image, names):
        machine = manifest.machine(item.name)
        if machine is None:
            raise SpecError(f"{where}: it has no machine {item.name!r}; build the image again")
        found.append(machine)
    return found


@dataclass(frozen=True)
class NoProof:
    """A machine that did not come up, or whose report cannot be read."""

    machine: str
    message: str


def not_booted(image: DiskImage) -> tuple[NoProof, ...]:
    """The machines of the recipe that no check boots, each with the reason."""
    kvm = [item.name for item in image.machines if item.accelerator is not Accelerator.TCG]
    return (
        *(NoProof(name, "it needs KVM; name it by --machine on a host that has it") for name in kvm),
        *(NoProof(item.name, NO_SNP) for item in image.snp),
    )


def _attempt_all(image: DiskImage, expected: Sequence[GoldenMachine]) -> list[Proof | NoProof]:
    """Boots the machines; when this process is told to stop, all are ended."""
    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            futures = [pool.submit(_attempt, image, item, stop) for item in expected]
            # The system may give a signal to any thread; Python acts on it when the main thread wakes.
            while wait(futures, timeout=0.5).not_done:
                pass
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _attempt(image: DiskImage, expected: GoldenMachine, stop: threading.Event) -> Proof | NoProof:
    try:
        return prove(image, expected, stop=stop)
    except ImageError as error:
        return NoProof(expected.name, str(error))


def prove(image: DiskImage, expected: GoldenMachine, *, stop: threading.Event | None = None) -> Proof:
    """Boots one machine and compares.

    Args:
        stop: once set, the machine is ended.

    Raises:
        ImageError: the machine did not come up, or its report cannot be read.
    """
    from ..golden.report import parse_report
    from ..golden.verify import compare
    from ..measure.trace import ALL_ALGORITHMS
    from ..vmm.launch import qemu_version

    version = qemu_version()
    predicted, refused = _comparable(expected, version)
    started = time.monotonic()
    console = boot(OUT / image.name / expected.launch, expected.name, stop=stop)
    seconds = time.monotonic() - started
    report = parse_report(console, f"{expected.name}: console")
    say(f"{expected.name}: booted in {seconds:.0f} s")
    return Proof(
        machine=expected.name,
        vmm=f"qemu {version}",
        seconds=seconds,
        # swtpm has all four banks; a missing one is a difference.
        comparison=compare(predicted, report.observation, banks=ALL_ALGORITHMS),
        console=console,
        report=report,
        refused=refused,
    )


def boot(script: Path, name: str, *, timeout: float = TIMEOUT, stop: threading.Event | None = None) -> bytes:
    """What the console showed up to the end of the boot report.

    Raises:
        ToolError: the machine ended, or showed no whole report in time; with the last lines of its console.
    """
    from ..golden.report import is_complete

    with tempfile.TemporaryDirectory(prefix="goldsmith-check.") as folder:
        console = Path(folder) / "console"
        output = Path(folder) / "output"
        environment = {**os.environ, "SERIAL": f"file:{console}", "STATE": folder, "SNAPSHOT": "on"}
        with output.open("wb") as log:
            process = subprocess.Popen(
                [str(script)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            limit = time.monotonic() + timeout
            while True:
                ended = process.poll() is not None
                seen = console.read_bytes() if console.exists() else b""
                if is_complete(seen):
                    return seen
                if ended or time.monotonic() > limit:
                    status = (
                        f"ended with {process.returncode}" if ended else f"no boot report in {timeout:.0f} s"
                    )
                    tail = output.read_text(errors="replace") + seen[-3000:].decode("utf-8", "replace")
                    raise ToolError([script.name], f"{name}: {status}", tail)
                if stop is not None and stop.is_set():
                    raise ToolError([script.name], f"{name}: ended because the check was")
                time.sleep(0.3)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the script and what it started: it leads a session of its own."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(patience)
            break
        except subprocess.TimeoutExpired:
            continue


def _comparable(expected: GoldenMachine, version: str) -> tuple[GoldenMachine, tuple[tuple[str, str], ...]]:
    """The prediction without the registers that hold another VMM version's ACPI tables."""
    captured = expected.vmm.removeprefix("qemu").strip()
    if not captured or captured == version:
        return expected, ()
    reason = f"its ACPI tables were captured from QEMU {captured}, this is {version}"
    machine = replace(
        expected,
        registers=tuple(row for row in expected.registers if row.register != "PCR1"),
        traces=tuple(trace for trace in expected.traces if trace.register != "PCR1"),
    )
    return machine, (("PCR1", reason),)


def _table(proof: Proof) -> str:
    from ..golden.table import natural

    lines = [f"\n{proof.machine} ({proof.vmm}, {proof.seconds:.0f} s, {proof.comparison.events} events)"]
    registers: dict[str, list[Any]] = {}
    for result in proof.comparison.results:
        registers.setdefault(result.register, []).append(result)
    for name in sorted(registers, key=natural):
        results = registers[name]
        wrong = [result for result in results if not result.equal]
        banks = " ".join(result.algorithm.value for result in results)
        verdict = (
            f"DIFFERS in {' '.join(item.algorithm.value for item in wrong)}" if wrong else f"equal   {banks}"
        )
        lines.append(f"  {name:<20} {verdict}")
    lines += [f"  {register:<20} refused: {reason}" for register, reason in proof.refused]
    state = proof.report.facts.get("state", "unknown")
    lines.append(f"  {'system':<20} {state} {' '.join(proof.report.failed_units)}".rstrip())
    return "\n".join(lines)


def _complaints(outcome: Proof | NoProof) -> list[str]:
    if isinstance(outcome, NoProof):
        return [f"{outcome.machine}: {outcome.message}"]
    lines = [f"{outcome.machine}: {item.message}" for item in outcome.comparison.differences]
    state = outcome.report.facts.get("state", "unknown")
    if state != "running":
        units = " ".join(outcome.report.failed_units) or "none listed"
        lines.append(f"{outcome.machine}: the system is {state}, expected running; failed units: {units}")
    if not lines and not outcome.passed:
        lines.append(f"{outcome.machine}: a register differs, see the table")
    return lines


def _json(image: DiskImage, outcomes: Sequence[Proof | NoProof], left: Sequence[NoProof]) -> dict[str, Any]:
    value: dict[str, Any] = {"schema": 1, "image": image.name}
    value["machines"] = [_outcome_json(outcome) for outcome in outcomes]
    if left:
        value["not_booted"] = [{"name": item.machine, "reason": item.message} for item in left]
    return value


def _outcome_json(outcome: Proof | NoProof) -> dict[str, Any]:
    if isinstance(outcome, NoProof):
        return {"name": outcome.machine, "passed": False, "error": outcome.message}
    return {
        "name": outcome.machine,
        "vmm": outcome.vmm,
        "passed": outcome.passed,
        "seconds": round(outcome.seconds, 1),
        "events": outcome.comparison.events,
        "state": outcome.report.facts.get("state", "unknown"),
        "refused": [{"register": name, "reason": reason} for name, reason in outcome.refused],
        "differences": [item.message for item in outcome.comparison.differences],
        "registers": [
            {
                "register": result.register,
                "algorithm": result.algorithm.value,
                "predicted": result.expected.hex(),
                "observed": result.observed.hex() if result.observed is not None else None,
                "equal": result.equal,
            }
            for result in outcome.comparison.results
        ],
    }
