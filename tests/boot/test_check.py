"""Predictions held against swtpm: every register and event of four machines, and how a wrong one is named.

The four machines differ in vCPUs, memory, TPM interface and Secure Boot, and each is booted once by the
script that ships. All other tests here take what those boots showed and boot nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.golden import manifest_reader
from recipes.golden.verify import compare
from recipes.measure.trace import HashAlgorithm
from recipes.steps import check, golden
from recipes.steps.check import Proof, prove
from recipes.vmm import launch

from .support import STOP, Boot, Boots, Built

pytestmark = pytest.mark.boot

MACHINES = ("q35-secure-boot", "q35-1cpu-512m-tis", "q35-2cpu-2048m-crb", "q35-1cpu-2048m-tis")
# The one whose boot serves the tests that need no more than one.
ONE = "q35-1cpu-512m-tis"
REGISTERS = tuple(f"PCR{index}" for index in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13))
PHASES = tuple(f"PCR11:{phase}" for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready"))
# Registers of the one machine that nothing but constants goes into: they have no step to falsify.
EMPTY = ("PCR12", "PCR13")

Golden = dict[str, Any]


def prove_one(name: str, built: Built, folder: Path) -> Proof:
    return prove(built.image, built.expected(name), stop=STOP)


BOOTS: dict[str, Boot] = {name: partial(prove_one, name) for name in MACHINES}


@pytest.fixture(scope="module")
def proofs(boots: Boots) -> Mapping[str, Proof]:
    return {name: boots[name].result() for name in MACHINES}


@pytest.fixture(scope="module")
def proof(proofs: Mapping[str, Proof]) -> Proof:
    return proofs[ONE]


@pytest.fixture(scope="module")
def report(proof: Proof, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console of one boot, as a person keeps it for ``goldsmith verify``."""
    path = tmp_path_factory.mktemp("report") / "console"
    path.write_bytes(proof.console)
    return path


@pytest.mark.parametrize("name", MACHINES)
def test_every_register_and_event_is_as_predicted(
    built: Built, proofs: Mapping[str, Proof], name: str
) -> None:
    proof = proofs[name]
    assert proof.comparison.differences == ()
    compared = {(result.register, result.algorithm) for result in proof.comparison.results}
    refused = {register for register, _ in proof.refused}
    spoken = [register for register in (*REGISTERS, *PHASES) if register not in refused]
    assert compared == {(register, algorithm) for register in spoken for algorithm in HashAlgorithm}
    assert all(result.equal for result in proof.comparison.results)
    predicted = [built.expected(name).trace(register) for register in spoken if register != "PCR11"]
    final = [trace for trace in predicted if trace is not None and trace.register not in PHASES[:-1]]
    assert proof.comparison.events == sum(len(trace.steps) for trace in final) > 30
    assert proof.passed


@pytest.mark.parametrize("name", MACHINES)
def test_pcr_1_is_compared_where_its_acpi_tables_come_from(
    built: Built, proofs: Mapping[str, Proof], name: str
) -> None:
    captured, here = built.expected(name).vmm, launch.qemu_version()
    compared = {result.register for result in proofs[name].comparison.results}
    if captured == f"qemu {here}":
        assert "PCR1" in compared
        assert proofs[name].refused == ()
    else:
        reason = f"its ACPI tables were captured from QEMU {captured.removeprefix('qemu ')}, this is {here}"
        assert "PCR1" not in compared
        assert proofs[name].refused == (("PCR1", reason),)


@pytest.mark.parametrize("name", MACHINES)
def test_the_guest_is_the_machine_that_was_measured(
    built: Built, proofs: Mapping[str, Proof], name: str
) -> None:
    machine, report = built.machine(name), proofs[name].report
    assert report.facts["cpus"] == str(machine.vcpus)
    # The kernel counts what firmware, and SMM with it, leave over.
    assert 0.75 < int(report.facts["memory-kib"]) * 1024 / machine.memory < 1
    assert report.facts["firmware"] == "uefi"
    assert report.facts["cmdline"] == built.command_line()
    assert report.facts["state"] == "running"
    assert report.failed_units == ()


def test_the_machines_do_not_measure_the_same(proofs: Mapping[str, Proof]) -> None:
    """Were two of them one machine by mistake, they would prove half of what they claim."""
    results = [proofs[name].comparison.results for name in MACHINES]
    values = [{(item.register, item.algorithm): item.observed for item in each} for each in results]
    assert len({each["PCR11:ready", HashAlgorithm.SHA256] for each in values}) == 1
    if all("PCR1" in {register for register, _ in each} for each in values):
        assert len({each["PCR1", HashAlgorithm.SHA256] for each in values}) == len(MACHINES)
    assert len({each["PCR7", HashAlgorithm.SHA256] for each in values}) == 2


# ---- wrong predictions, judged by the boots above


def opposite(digest: str) -> str:
    """A hex digest with its first bit flipped."""
    return f"{int(digest[0], 16) ^ 8:x}{digest[1:]}"


def falsify(built: Built, target: Path, change: Callable[[Golden], None]) -> Path:
    """A golden manifest with something changed in the entry of the one machine."""
    document = json.loads(built.golden.read_text())
    change(next(machine for machine in document["machines"] if machine["name"] == ONE))
    target.write_text(json.dumps(document))
    return target


def last_step(machine: Golden, register: str) -> tuple[int, Golden]:
    """The last step that a register has before it is looked at, and its place, counted from 1."""
    trace = next(trace for trace in machine["traces"] if trace["register"] == register)
    return len(trace["steps"]), trace["steps"][-1]


def traces_with(machine: Golden, register: str) -> Iterator[Golden]:
    """PCR 11 is in several traces, one for each phase; a false event has to be in all of them."""
    return (trace for trace in machine["traces"] if trace["register"].partition(":")[0] == register)


@pytest.mark.parametrize("algorithm", [algorithm.value for algorithm in HashAlgorithm])
@pytest.mark.parametrize("register", [register for register in REGISTERS if register not in EMPTY])
def test_a_false_digest_is_named_with_its_event_and_input(
    built: Built,
    report: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    register: str,
    algorithm: str,
) -> None:
    seen: Golden = {}

    def change(machine: Golden) -> None:
        place, step = last_step(machine, register)
        total = max(len(trace["steps"]) for trace in traces_with(machine, register))
        seen.update(step, place=place, total=total, right=step["digests"][algorithm])
        for trace in traces_with(machine, register):
            digests = trace["steps"][place - 1]["digests"]
            digests[algorithm] = opposite(digests[algorithm])

    false = falsify(built, tmp_path / "golden.json", change)
    assert main(["verify", str(false), "--machine", ONE, "--report", str(report)]) == 1
    place = f"{register} differs at event {seen['place']} of {seen['total']}"
    event = f"{seen['operation']} {seen['description']}; input: {seen['source']}"
    digests = f"{algorithm} predicted {opposite(seen['right'])}, observed {seen['right']}"
    assert capsys.readouterr().err == f"goldsmith: {ONE}: {place} ({event}): {digests}\n"


def test_every_golden_value_is_compared(built: Built, proof: Proof) -> None:
    """Each one falsified alone is found, and nothing else is."""
    observation = proof.report.observation
    count = 0
    assert proof.comparison.equal
    document = json.loads(built.golden.read_text())
    machine = next(machine for machine in document["machines"] if machine["name"] == ONE)
    for row in machine["registers"]:
        row["value"] = opposite(row["value"])
        text = json.dumps({**document, "machines": [machine]})
        false = manifest_reader.load(text, "golden.json").machine(ONE)
        row["value"] = opposite(row["value"])
        assert false is not None
        wrong = [item for item in compare(false, observation).results if not item.equal]
        found = [(item.register, item.algorithm.value) for item in wrong]
        assert found == [(row["register"], row["algorithm"])]
        (difference,) = compare(false, observation).differences
        both = f"predicted {opposite(row['value'])}, observed {row['value']}"
        assert difference.message == f"{row['register']}: {row['algorithm']} {both}"
        count += 1
    assert count == len(REGISTERS + PHASES) * len(HashAlgorithm)


def test_an_event_too_many_and_one_too_few_are_named(
    built: Built, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drop(machine: Golden) -> None:
        for trace in traces_with(machine, "PCR5"):
            trace["steps"].pop()

    def add(machine: Golden) -> None:
        for trace in traces_with(machine, "PCR5"):
            trace["steps"].append({**trace["steps"][-1], "description": "once more"})

    arguments = ["--machine", ONE, "--report", str(report)]
    assert main(["verify", str(falsify(built, tmp_path / "short.json", drop)), *arguments]) == 1
    expected = "PCR5 differs at event 4 of 3: predicted nothing more, observed EV_EFI_ACTION"
    assert expected in capsys.readouterr().err
    assert main(["verify", str(falsify(built, tmp_path / "long.json", add)), *arguments]) == 1
    expected = "PCR5 differs at event 5 of 5: predicted EV_EFI_ACTION once more (from firmware), the log ends"
    assert expected in capsys.readouterr().err


# ---- the task, with the boot replaced by what it showed


@pytest.fixture
def replayed(proof: Proof, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the task writes: booting gives the console that was kept."""
    (tmp_path / "out" / "debian-cvm").mkdir(parents=True)
    monkeypatch.setattr(check, "boot", lambda script, name, **options: proof.console)
    monkeypatch.setattr(check, "OUT", tmp_path / "out")
    return tmp_path / "out" / "debian-cvm"


def use_golden(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(golden, "golden_path", lambda image: path)


def test_the_task_passes_and_records_what_it_saw(
    built: Built, replayed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden_copy = replayed / "golden.json"
    golden_copy.write_bytes(built.golden.read_bytes())
    use_golden(monkeypatch, golden_copy)
    assert check.check(built.image, [ONE]) is None
    (record,) = json.loads((replayed / "check.json").read_text())["machines"]
    assert (record["name"], record["passed"], record["state"]) == (ONE, True, "running")
    assert record["differences"] == []
    assert all(row["equal"] for row in record["registers"])
    assert "DIFFERS" not in capsys.readouterr().out


def test_the_task_fails_on_a_false_prediction(
    built: Built, replayed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(machine: Golden) -> None:
        step = next(iter(traces_with(machine, "PCR4")))["steps"][2]
        step["digests"]["sha256"] = opposite(step["digests"]["sha256"])

    use_golden(monkeypatch, falsify(built, replayed / "golden.json", change))
    failed = check.check(built.image, [ONE])
    assert failed is not None
    source = "disk.raw EFI/BOOT/BOOTX64.EFI"
    event = f"EV_EFI_BOOT_SERVICES_APPLICATION UKI; input: {source}"
    start = f"{ONE}: PCR4 differs at event 3 of 4 ({event}): sha256 predicted "
    assert failed.message.startswith(start)
    (record,) = json.loads((replayed / "check.json").read_text())["machines"]
    assert not record["passed"]
    assert len(record["differences"]) == 1


def test_another_qemu_leaves_pcr_1_out_and_says_so(
    built: Built, replayed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden_copy = replayed / "golden.json"
    golden_copy.write_bytes(built.golden.read_bytes())
    use_golden(monkeypatch, golden_copy)
    monkeypatch.setattr(launch, "qemu_version", lambda: "0.1.2")
    assert check.check(built.image, [ONE]) is None
    (record,) = json.loads((replayed / "check.json").read_text())["machines"]
    captured = built.expected(ONE).vmm.removeprefix("qemu ")
    reason = f"its ACPI tables were captured from QEMU {captured}, this is 0.1.2"
    assert record["refused"] == [{"register": "PCR1", "reason": reason}]
    assert f"PCR1                 refused: {reason}" in capsys.readouterr().out
