"""Golden values of disks of several sizes, and events that are not compared, held against a recorded boot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recipes.__main__ import main
from recipes.errors import FormatError, ImageError
from recipes.golden import manifest_reader
from recipes.golden.disk_lint import lint_disks, lint_wildcards
from recipes.golden.manifest import (
    DiskRegisters,
    GoldenMachine,
    GoldenManifest,
    RegisterRow,
    ShippedDisk,
    Wildcard,
    dump,
)
from recipes.golden.table import render
from recipes.golden.unlock import Formatting, Sealing, TpmPolicy, UnlockVolume, VolumeProvider
from recipes.golden.unlock_lint import Severity
from recipes.golden.verify import Observation, compare
from recipes.golden.wildcards import problems
from recipes.measure.tpm import fold
from recipes.measure.trace import HashAlgorithm, Trace, digests_of
from tests.support import ROOT
from tests.unit.test_golden import LOG, machine, manifest, observation

GPT = "EV_EFI_GPT_EVENT"
WILDCARD = Wildcard(register="PCR5", event=GPT, reason="the guest grows its last partition")
SCHEMA = json.loads((ROOT / "recipes" / "golden" / "manifest.schema.json").read_text())


def with_other_table(data: bytes) -> Trace:
    """PCR 5 of the recorded boot, had its disk had another partition table."""
    trace = machine().trace("PCR5")
    assert trace is not None
    steps = tuple(
        replace(step, digests=digests_of(data), source="disk.tar.gz GPT") if step.operation == GPT else step
        for step in trace.steps
    )
    return replace(trace, steps=steps)


def rows_of(trace: Trace) -> tuple[RegisterRow, ...]:
    label = machine().registers[0].established
    return tuple(
        RegisterRow(
            register=trace.register, algorithm=algorithm, value=fold(trace, algorithm), established=label
        )
        for algorithm in HashAlgorithm
    )


def shipped() -> GoldenManifest:
    """The recorded boot's disk is the raw one; in the archive of another format it is larger."""
    trace = with_other_table(b"a table of a larger disk")
    disk = DiskRegisters(size=1 << 30, formats=("gce",), registers=rows_of(trace), traces=(trace,))
    disks = (
        ShippedDisk(format="raw", file="disk.raw", size=1 << 29),
        ShippedDisk(format="vhd", file="disk.vhd", size=1 << 29),
        ShippedDisk(format="gce", file="disk.tar.gz", size=1 << 30),
    )
    return replace(manifest(), machines=(replace(machine(), disks=(disk,)),), disks=disks)


def moved(data: bytes = b"grown by the guest") -> Observation:
    """The recorded boot with another partition table, in its log and in its registers."""
    seen = observation()
    steps = tuple(
        replace(step, digests=digests_of(data)) if step.operation == GPT else step for step in seen.steps
    )
    trace = Trace("PCR5", tuple(step for step in steps if step.register == "PCR5"))
    values = dict(seen.values) | {("PCR5", item): fold(trace, item) for item in HashAlgorithm}
    return Observation(values=values, steps=steps)


def test_a_manifest_with_disks_is_read_back_as_it_was() -> None:
    value = replace(shipped(), wildcards=(WILDCARD,))
    text = dump(value)
    assert manifest_reader.load(text, "golden.json") == value
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_without_other_formats_nothing_new_is_written() -> None:
    document = json.loads(dump(manifest()))
    assert not {"disks", "wildcards"} & (document.keys() | document["machines"][0].keys())
    assert manifest_reader.load(dump(manifest()), "golden.json").disk_formats == ("raw",)


def test_a_boot_is_held_against_the_disk_that_it_is_from() -> None:
    value = manifest_reader.load(dump(shipped()), "golden.json")
    raw, gce = value.machines[0], value.on_disk("gce").machines[0]
    assert compare(raw, observation()).equal
    assert compare(gce, moved(b"a table of a larger disk")).equal
    for wrong in (
        compare(gce, observation()),
        compare(raw, moved(b"a table of a larger disk")),
        compare(value.on_disk("vhd").machines[0], moved(b"a table of a larger disk")),
    ):
        assert {item.register for item in wrong.differences} == {"PCR5"}
    assert gce.disks == ()
    assert gce.value("PCR4", HashAlgorithm.SHA256) == raw.value("PCR4", HashAlgorithm.SHA256)


def test_a_format_that_the_image_does_not_ship_in() -> None:
    with pytest.raises(ImageError) as caught:
        shipped().on_disk("vhdx")
    assert str(caught.value) == "i: no disk of format 'vhdx'; did you mean 'vhd'?"
    assert manifest().on_disk("raw") == manifest()
    with pytest.raises(ImageError, match=r"^i: no disk of format 'gce'; known: raw$"):
        manifest().on_disk("gce")


def test_the_table_says_whose_disk_has_another_register() -> None:
    lines = [line.split("  ")[1] for line in render(shipped(), colour=False).splitlines() if " PCR" in line]
    at = lines.index("PCR5 on gce")
    assert lines[at - 1 : at + 2] == ["PCR5", "PCR5 on gce", "PCR7"]


Document = dict[str, Any]
GCE = "gce (1073741824 bytes)"


def _set(*path: str | int, value: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("disks", 2, "size", value=1 << 29),
            f"m has registers for the disks {GCE}, expected none",
        ),
        (
            _set("disks", 1, "size", value=7 << 20),
            f"m has registers for the disks {GCE}, expected vhd (7340032 bytes), {GCE}",
        ),
        (_set("disks", 0, "format", value="row"), "there is no raw disk, which every image has"),
        (_set("disks", 1, "format", value="raw"), "two disks have the same format"),
        (_set("disks", 1, "more", value=1), "disks 2: 'more' is unknown; remove it or use a newer version"),
        (
            lambda document: document["machines"][0].pop("disks"),
            f"m has registers for the disks none, expected {GCE}",
        ),
        (
            _set("machines", 0, "disks", 0, "formats", value=["gce", "gce"]),
            f"m has registers for the disks {GCE}, {GCE}, expected {GCE}",
        ),
        (
            lambda document: document["machines"][0]["disks"][0]["registers"].pop(),
            "machines 1: the registers for a disk of 1073741824 bytes are not the machine's in every bank",
        ),
        (
            lambda document: document["machines"][0]["disks"][0]["traces"].pop(),
            "machines 1: disks 1: registers and traces do not belong together",
        ),
        (
            _set("wildcards", 0, "event", value="EV_EFI_ACTION"),
            "wildcard 1: PCR5 of m has 2 events EV_EFI_ACTION predicted; a wildcard is for exactly one",
        ),
        (
            _set("wildcards", 0, "register", value="PCR4"),
            "wildcard 1: PCR4 says what runs; without one of its events anything could; leave it out",
        ),
        (
            _set("wildcards", 0, "register", value="PCR3"),
            f"wildcard 1: PCR3 of m has no event {GPT} predicted; a wildcard is for exactly one",
        ),
        (
            lambda document: document["wildcards"].append(document["wildcards"][0]),
            f"wildcard 2: PCR5 {GPT} is there twice; write it once",
        ),
    ],
)
def test_what_a_manifest_cannot_say(change: Callable[[Document], None], message: str) -> None:
    document = json.loads(dump(replace(shipped(), wildcards=(WILDCARD,))))
    change(document)
    with pytest.raises(FormatError) as caught:
        manifest_reader.load(json.dumps(document), "golden.json")
    assert str(caught.value) == f"golden.json: {message}"


# ---- wildcards


def test_a_wildcard_takes_one_event_as_it_is_and_nothing_else() -> None:
    assert not compare(machine(), moved()).equal
    result = compare(machine(), moved(), wildcards=[WILDCARD])
    assert result.equal
    assert result.not_compared == (WILDCARD,)
    assert result.events == compare(machine(), observation()).events - 1


def test_a_wildcard_says_so_even_where_the_event_is_as_predicted() -> None:
    assert compare(machine(), observation(), wildcards=[WILDCARD]).not_compared == (WILDCARD,)


@pytest.mark.parametrize("register", ["PCR0", "PCR4", "PCR5", "PCR7", "PCR9", "PCR11"])
def test_every_other_event_must_be_as_predicted(register: str) -> None:
    seen = moved()
    for index, step in enumerate(seen.steps):
        if step.register != register or step.operation == GPT:
            continue
        steps = list(seen.steps)
        steps[index] = replace(step, digests=digests_of(b"other"))
        trace = Trace(register, tuple(item for item in steps if item.register == register))
        values = dict(seen.values) | {(register, item): fold(trace, item) for item in HashAlgorithm}
        result = compare(machine(), Observation(values=values, steps=tuple(steps)), wildcards=[WILDCARD])
        assert [item.register for item in result.differences] == [register]
        assert not result.equal


def _steps(seen: Observation, change: Callable[[list[Any], int], None]) -> Observation:
    """With the steps changed around the event, and registers that the changed log leads to."""
    steps = list(seen.steps)
    change(steps, next(index for index, step in enumerate(steps) if step.operation == GPT))
    trace = Trace("PCR5", tuple(step for step in steps if step.register == "PCR5"))
    values = dict(seen.values) | {("PCR5", item): fold(trace, item) for item in HashAlgorithm}
    return Observation(values=values, steps=tuple(steps))


def _twice(steps: list[Any], index: int) -> None:
    steps.insert(index, steps[index])


def _gone(steps: list[Any], index: int) -> None:
    del steps[index]


def _renamed(steps: list[Any], index: int) -> None:
    steps[index] = replace(steps[index], operation="EV_EFI_ACTION")


@pytest.mark.parametrize("change", [_twice, _gone, _renamed])
def test_the_event_must_be_there_once_and_in_its_place(change: Callable[[list[Any], int], None]) -> None:
    result = compare(machine(), _steps(moved(), change), wildcards=[WILDCARD])
    assert not result.equal
    assert {item.register for item in result.differences} == {"PCR5"}


def test_a_log_that_does_not_lead_to_the_register_is_found() -> None:
    seen = moved()
    values = dict(seen.values) | {("PCR5", HashAlgorithm.SHA256): bytes(32)}
    result = compare(machine(), replace(seen, values=values), wildcards=[WILDCARD])
    assert "PCR5: the log replays to sha256" in result.differences[0].message


def test_registers_without_a_log_are_compared_in_full() -> None:
    result = compare(machine(), replace(moved(), steps=()), wildcards=[WILDCARD])
    assert "PCR5" in {item.register for item in result.differences}
    assert result.not_compared == ()


def test_a_bank_that_the_log_lacks_is_compared_in_full() -> None:
    """Else a value could be made up in it, which no event stands behind."""
    seen = moved()
    short = tuple(
        replace(
            step,
            digests={HashAlgorithm.SHA256: step.digests[HashAlgorithm.SHA256]}
            if step.operation == GPT
            else step.digests,
        )
        for step in seen.steps
    )
    result = compare(machine(), replace(seen, steps=short), wildcards=[WILDCARD])
    wrong = {item.algorithm for item in result.results if not item.equal and item.register == "PCR5"}
    assert wrong == set(HashAlgorithm) - {HashAlgorithm.SHA256}


def test_a_machine_for_which_the_register_is_not_predicted() -> None:
    lacking = replace(machine(), name="bare", traces=(), registers=())
    assert list(problems([WILDCARD], [machine(), lacking])) == [
        (0, f"PCR5 of bare has no event {GPT} predicted; a wildcard is for exactly one")
    ]


# ---- verify, as it is typed


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.json"
    path.write_text(dump(replace(shipped(), wildcards=(WILDCARD,))))
    (tmp_path / "log").write_bytes(LOG)
    return path


def verify(golden: Path, *words: str) -> int:
    return main(["verify", str(golden), *words, "--event-log", str(golden.parent / "log")])


def test_verify_says_what_it_did_not_compare_and_why(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((), ("--disk", "gce")):
        assert verify(golden, *words) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[1:] == [f"m: PCR5 {GPT} was not compared: the guest grows its last partition"]
    assert verify(golden, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["not_compared"] == [{"register": "PCR5", "event": GPT, "reason": WILDCARD.reason}]


def test_verify_of_a_disk(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden.write_text(dump(shipped()))
    assert verify(golden) == verify(golden, "--disk", "vhd") == 0
    assert verify(golden, "--disk", "gce") == 1
    assert "m: PCR5 differs at event 2 of 4 (EV_EFI_GPT_EVENT" in capsys.readouterr().err
    assert verify(golden, "--disk", "gcp") == 2
    assert capsys.readouterr().err == "goldsmith: i: no disk of format 'gcp'; did you mean 'gce'?\n"


def test_diff_and_explain_of_a_disk(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["diff", str(golden), str(golden)]
    assert main([*both, "--disk", "gce"]) == main([*both, "--with-disk", "vhd"]) == 0
    capsys.readouterr()
    assert main([*both, "--with-disk", "gce"]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"m: PCR5: first differs at step 2, {GPT}")
    assert said.endswith("; input: disk.tar.gz GPT\n")
    assert main(["explain", str(golden), "--register", "PCR5", "--disk", "gce"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("i 1 on m, disk gce\n\nPCR5\n")
    assert "input: disk.tar.gz GPT" in said
    assert main(["explain", "--disk", "gce", "--", "lkvm", "run"]) == 2
    want = "goldsmith: explain: --disk is for golden.json, a command line names its disks; leave it out\n"
    assert capsys.readouterr().err == want


# ---- what TPM policies have against it


def volume(*registers: int) -> UnlockVolume:
    policy = TpmPolicy(sealing=Sealing.LITERAL, pcrs=registers)
    return UnlockVolume(
        name="data",
        key=("data",),
        providers=(VolumeProvider(name="tpm2", formats=True, registers=registers),),
        formatting=Formatting.IF_BLANK,
        tpm2=policy,
    )


def test_a_tpm_knows_no_wildcards() -> None:
    assert list(lint_wildcards([WILDCARD], [volume(4, 11, 12)])) == []
    (finding,) = lint_wildcards([replace(WILDCARD, register="PCR3"), WILDCARD], [volume(4, 5, 11)])
    assert (finding.severity, finding.key) == (Severity.ERROR, ("golden", "wildcards", 1))
    what = "volume data opens only for the predicted PCR5, a TPM takes no other"
    assert finding.message == f"{what}; leave the wildcard out, or the register out of the policy"


def test_a_policy_of_another_disk_is_warned_about() -> None:
    machines: tuple[GoldenMachine, ...] = shipped().machines
    assert list(lint_disks(shipped().disks, machines, [volume(4, 11, 12)])) == []
    (finding,) = lint_disks(shipped().disks, machines, [volume(4, 5, 11)])
    assert (finding.severity, finding.key) == (Severity.WARNING, ("disk", "formats", 2))
    what = "volume data depends on PCR5, which is another one on gce"
    assert finding.message == f"{what}; its policy in golden.json is that of the raw disk"
