"""``check:IMAGE``: boots the shipped disk by its launch script and holds the TPM against golden.json."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.exceptions import TaskFailed

from ..errors import ImageError, ToolError
from ..schema import Image
from . import golden
from .run import pick
from .task import OUT, Task, say, write_text

if TYPE_CHECKING:
    from ..golden.manifest import GoldenMachine
    from ..golden.report import BootReport
    from ..golden.verify import Comparison

TIMEOUT = 420.0
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


def task(image: Image) -> Task:
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


def check(image: Image, machine: Sequence[str]) -> TaskFailed | None:
    """Boots the machines, prints the table and writes ``check.json``; fails on any difference."""
    from ..golden import manifest_reader

    try:
        chosen = pick(image, machine)
        path = golden.golden_path(image)
        manifest = manifest_reader.load(
            path.read_text(encoding="utf-8"), path.relative_to(OUT.parent).as_posix()
        )
        expected = [found for item in chosen if (found := manifest.machine(item.name)) is not None]
        say(f"booting {len(expected)} machines, {AT_ONCE} at a time; each takes about a minute")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            proofs = list(pool.map(lambda item: prove(image, item), expected))
    except ImageError as error:
        return TaskFailed(str(error))
    write_text(OUT / image.name / "check.json", json.dumps(_json(image, proofs), indent=1) + "\n")
    for proof in proofs:
        say(_table(proof))
    failed = [proof for proof in proofs if not proof.passed]
    return TaskFailed("\n".join(_complaints(failed))) if failed else None


def prove(image: Image, expected: GoldenMachine) -> Proof:
    """Boots one machine and compares.

    Raises:
        ImageError: the machine did not come up, or its report cannot be read.
    """
    from ..golden.report import parse_report
    from ..golden.verify import compare
    from ..vmm.launch import qemu_version

    version = qemu_version()
    predicted, refused = _comparable(expected, version)
    started = time.monotonic()
    console = boot(OUT / image.name / expected.launch, expected.name)
    seconds = time.monotonic() - started
    report = parse_report(console, f"{expected.name}: console")
    say(f"{expected.name}: booted in {seconds:.0f} s")
    return Proof(
        machine=expected.name,
        vmm=f"qemu {version}",
        seconds=seconds,
        comparison=compare(predicted, report.observation),
        console=console,
        report=report,
        refused=refused,
    )


def boot(script: Path, name: str, *, timeout: float = TIMEOUT) -> bytes:
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


def _complaints(failed: Sequence[Proof]) -> list[str]:
    lines = []
    for proof in failed:
        lines += [f"{proof.machine}: {item.message}" for item in proof.comparison.differences]
        state = proof.report.facts.get("state", "unknown")
        if state != "running":
            units = " ".join(proof.report.failed_units) or "none listed"
            lines.append(f"{proof.machine}: the system is {state}, expected running; failed units: {units}")
    return lines


def _json(image: Image, proofs: Sequence[Proof]) -> dict[str, Any]:
    return {
        "schema": 1,
        "image": image.name,
        "machines": [
            {
                "name": proof.machine,
                "vmm": proof.vmm,
                "passed": proof.passed,
                "seconds": round(proof.seconds, 1),
                "events": proof.comparison.events,
                "state": proof.report.facts.get("state", "unknown"),
                "refused": [{"register": name, "reason": reason} for name, reason in proof.refused],
                "differences": [item.message for item in proof.comparison.differences],
                "registers": [
                    {
                        "register": result.register,
                        "algorithm": result.algorithm.value,
                        "predicted": result.expected.hex(),
                        "observed": result.observed.hex() if result.observed is not None else None,
                        "equal": result.equal,
                    }
                    for result in proof.comparison.results
                ],
            }
            for proof in proofs
        ],
    }
