from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import eventlog
from recipes.golden import manifest_reader
from recipes.golden.diff import moved_registers
from recipes.golden.explain import explain
from recipes.golden.manifest import (
    Artefact,
    GoldenMachine,
    GoldenManifest,
    Omitted,
    Policy,
    RegisterPolicy,
    RegisterRow,
    dump,
)
from recipes.golden.report import is_complete, parse_report
from recipes.golden.table import natural, ranges, render
from recipes.golden.verify import Observation, compare, first_difference
from recipes.measure.tpm import event_steps, traces
from recipes.measure.trace import Established, HashAlgorithm, digests_of
from tests.support import ROOT, VECTORS

CASE = json.loads((VECTORS / "pcr" / "q35-512m-1cpu.json").read_text())
LOG = gzip.decompress((VECTORS / "pcr" / "q35-512m-1cpu.eventlog.gz").read_bytes())
REGISTERS = ("PCR0", "PCR4", "PCR5", "PCR7", "PCR9", "PCR11")


def recorded(register: str, algorithm: HashAlgorithm) -> bytes:
    """What the TPM of the recorded boot held."""
    return bytes.fromhex(CASE["pcrs"][algorithm.value][register.removeprefix("PCR")])


def observation() -> Observation:
    values = {
        (name, algorithm): recorded(name, algorithm) for name in REGISTERS for algorithm in HashAlgorithm
    }
    return Observation(values=values, steps=event_steps(eventlog.parse(LOG, "log")))


def machine() -> GoldenMachine:
    """A prediction that is right: the values are the TPM's, the steps those of its log."""
    steps = [step for step in event_steps(eventlog.parse(LOG, "log")) if step.register in REGISTERS]
    return GoldenMachine(
        name="m",
        vmm="qemu 7.2.22",
        identity='{"cpu":"qemu64"}',
        launch="run-m.sh",
        registers=tuple(
            RegisterRow(
                register=name,
                algorithm=algorithm,
                value=recorded(name, algorithm),
                established=Established.BOOTED,
            )
            for name in REGISTERS
            for algorithm in HashAlgorithm
        ),
        policies=tuple(
            RegisterPolicy(register=name, policy=Policy.ENFORCE, covers="x") for name in REGISTERS
        ),
        omitted=(Omitted(register="PCR1", reason="no capture"),),
        traces=traces(steps),
    )


def manifest() -> GoldenManifest:
    artefact = Artefact(name="disk.raw", size=4096, sha256="00" * 32)
    return GoldenManifest(
        image="i", version="1", artefacts=(artefact,), machines=(machine(),), unmeasured=("all",)
    )


def falsified(register: str, index: int) -> GoldenMachine:
    good = machine()
    changed = []
    for trace in good.traces:
        steps = list(trace.steps)
        if trace.register == register:
            steps[index] = replace(steps[index], digests=digests_of(b"other"), source="the input at fault")
        changed.append(replace(trace, steps=tuple(steps)))
    return replace(good, traces=tuple(changed))


def test_a_right_prediction_is_equal_in_every_register_and_bank() -> None:
    result = compare(machine(), observation())
    assert result.equal
    assert len(result.results) == len(REGISTERS) * 4


@pytest.mark.parametrize("register", REGISTERS)
def test_a_falsified_step_is_named_with_its_input(register: str) -> None:
    result = compare(falsified(register, 0), observation())
    assert not result.equal
    (difference,) = [item for item in result.differences if item.register == register]
    assert difference.index == 0
    assert "the input at fault" in difference.message
    (enforced,) = result.enforced(falsified(register, 0))
    assert enforced.message.startswith(f"{register} differs at event 1 of")


def test_a_falsified_value_alone_is_found() -> None:
    good = machine()
    rows = tuple(
        replace(row, value=bytes(row.algorithm.size)) if row.register == "PCR4" else row
        for row in good.registers
    )
    result = compare(replace(good, registers=rows), observation())
    assert [item.register for item in result.differences] == ["PCR4"]


def test_a_log_that_does_not_replay_to_its_register_is_found() -> None:
    seen = observation()
    values = {**seen.values, ("PCR9", HashAlgorithm.SHA256): bytes(32)}
    result = compare(machine(), replace(seen, values=values))
    assert "PCR9: the log replays to sha256" in result.differences[0].message


def test_a_missing_and_a_further_event_are_found() -> None:
    seen = observation()
    fewer = replace(seen, steps=seen.steps[:-1])
    assert "the log ends before it" in compare(machine(), fewer).differences[0].message
    more = replace(seen, steps=(*seen.steps, seen.steps[-1]))
    assert "predicted nothing more" in compare(machine(), more).differences[0].message


def test_a_register_that_is_not_reported_is_not_equal() -> None:
    seen = observation()
    values = {key: value for key, value in seen.values.items() if key[0] != "PCR5"}
    result = compare(machine(), replace(seen, values=values))
    assert [item.register for item in result.results if not item.equal] == ["PCR5"] * 4


def test_the_manifest_survives_its_file() -> None:
    text = dump(manifest())
    assert manifest_reader.load(text, "golden.json") == manifest()
    assert dump(manifest_reader.load(text, "golden.json")) == text


def test_rows_are_printed_as_the_schema_says() -> None:
    row = json.loads(dump(manifest()))["machines"][0]["registers"][0]
    assert row == {
        "register": "PCR0",
        "algorithm": "sha1",
        "value": CASE["pcrs"]["sha1"]["0"],
        "established": "booted",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "golden.json: schema 2; this version reads schema 1"),
        ({"image": 3}, "golden.json: 'image' is not a string"),
        ({"extra": 3}, "golden.json: 'extra' is unknown; remove it or use a newer version"),
        ({"machines": {}}, "golden.json: 'machines' is not a list"),
        ({"machines": [{}]}, "golden.json: machines 1: 'name' is missing"),
    ],
)
def test_a_manifest_that_is_wrong(change: dict[str, object], message: str) -> None:
    value = {**json.loads(dump(manifest())), **change}
    with pytest.raises(FormatError) as caught:
        manifest_reader.load(json.dumps(value), "golden.json")
    assert str(caught.value) == message


def test_a_digest_of_the_wrong_length_is_refused() -> None:
    text = dump(manifest()).replace(CASE["pcrs"]["sha1"]["4"], "00")
    with pytest.raises(FormatError, match=r"registers 5: 'value' is not 40 lower-case hexadecimal digits"):
        manifest_reader.load(text, "golden.json")


@settings(max_examples=100)
@given(st.data())
def test_damaged_manifests_give_format_errors_only(data: st.DataObject) -> None:
    text = TEXT
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.text(max_size=3)) + text[place + data.draw(st.integers(0, 40)) :]
    try:
        manifest_reader.load(damaged, "golden.json")
    except FormatError as error:
        assert str(error).startswith("golden.json")


TEXT = dump(manifest())


def test_diff_names_the_first_step_that_moved_and_its_input() -> None:
    moved = moved_registers(machine(), falsified("PCR11", 3))
    assert [item.register for item in moved] == ["PCR11"]
    assert moved[0].index == 3
    assert "the input at fault" in str(moved[0])


def test_diff_sees_words_about_registers_without_a_value() -> None:
    """The expression that a command line has to match is no digest."""

    def saying(*reasons: str) -> GoldenMachine:
        words = (Omitted(register="kernel_cmd_line_regex", reason=reason) for reason in reasons)
        return replace(machine(), omitted=tuple(words))

    assert moved_registers(saying("^a$"), saying("^a$")) == ()
    for one, other, message in (
        (("^a$",), ("^b$",), "no value in either, and they say of it '^a$' and '^b$'"),
        (("^a$",), (), "the first prediction alone speaks of it: '^a$'"),
        ((), ("^b$",), "the second prediction alone speaks of it: '^b$'"),
    ):
        (moved,) = moved_registers(saying(*one), saying(*other))
        assert str(moved) == f"kernel_cmd_line_regex: {message}"


def test_explain_ends_with_the_value() -> None:
    text = explain([trace for trace in machine().traces if trace.register == "PCR4"])
    assert text.splitlines()[-1] == f"  = sha256 {CASE['pcrs']['sha256']['4']}"
    assert "EV_EFI_BOOT_SERVICES_APPLICATION" in text


def test_table_has_every_register_once_and_says_who_shares_it() -> None:
    text = render(manifest(), colour=False)
    assert text.count(CASE["pcrs"]["sha256"]["11"]) == 1
    assert "PCR1: no capture" in text
    assert "\033" not in text


def test_registers_sort_by_number_and_phase() -> None:
    names = ["PCR11:ready", "PCR9", "PCR11", "PCR2", "PCR11:enter-initrd"]
    assert sorted(names, key=natural) == ["PCR2", "PCR9", "PCR11", "PCR11:enter-initrd", "PCR11:ready"]


def test_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3,7,9-10"


def console(items: dict[str, bytes]) -> bytes:
    """A report made after the description in the boot-report overlay."""
    lines = []
    for name, data in items.items():
        text = base64.b64encode(data).decode()
        lines += [f"{name} {text[at : at + 96]}" for at in range(0, len(text), 96)] or [f"{name} -"]
    body = [f"{number} {line}" for number, line in enumerate(lines, 1)]
    digest = hashlib.sha256("".join(f"{line}\n" for line in body).encode()).hexdigest()
    shown = ["BEGIN 1", *body, f"END {len(body)} {digest}"]
    return (
        b"noise\r\n" + "".join(f"GOLDSMITH-REPORT {line}\r\n" for line in shown).encode() + b"more noise\r\n"
    )


def items() -> dict[str, bytes]:
    pcrs = "".join(
        f"{a.value} {n} {CASE['pcrs'][a.value][str(n)].upper()}\n" for a in HashAlgorithm for n in range(16)
    )
    return {
        "facts": b"report=1\nstate=running\n",
        "failed-units": b"",
        "pcrs": pcrs.encode(),
        "event-log": LOG,
    }


def test_a_report_is_read_back() -> None:
    report = parse_report(console(items()), "console")
    assert report.facts["state"] == "running"
    assert report.observation.values["PCR4", HashAlgorithm.SHA256] == recorded("PCR4", HashAlgorithm.SHA256)
    assert compare(machine(), report.observation).equal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b"BEGIN 1", b"BEGIN 2"), "console: 0 boot reports of version 1 in it"),
        (lambda text: text * 2, "console: 2 boot reports of version 1 in it"),
        (lambda text: text.replace(b"GOLDSMITH-REPORT END", b"END"), "console: the boot report has no end"),
        (lambda text: text.replace(b"GOLDSMITH-REPORT 2 ", b"x"), "ends with other counts; a line is lost"),
        (lambda text: text.replace(b" 1 facts", b" 1 tcafs"), "console: the boot report's checksum is"),
    ],
)
def test_a_damaged_report_is_refused(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(FormatError) as caught:
        parse_report(change(console(items())), "console")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("other", b"x", "the boot report has an unknown item 'other'"),
        ("pcrs", b"sha256 4 00\n", "item 'pcrs' of the boot report has the line 'sha256 4 00'"),
        ("pcrs", b"sha1 4 " + b"00" * 20 + b"\nsha1 4 " + b"00" * 20, "has PCR4 twice"),
        ("facts", b"\xff", "item 'facts' of the boot report is not text"),
        ("event-log", b"short", "event log"),
    ],
)
def test_a_report_with_wrong_content_is_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_report(console({**items(), name: data}), "console")
    assert message in str(caught.value)


def test_complete_only_with_its_end() -> None:
    whole = console(items())
    assert is_complete(whole)
    assert not is_complete(whole[: whole.index(b"GOLDSMITH-REPORT END")])


@settings(max_examples=100)
@given(st.data())
def test_hostile_consoles_give_format_errors_only(data: st.DataObject) -> None:
    text = console({"facts": b"state=running\n", "pcrs": b"sha1 4 " + b"00" * 20 + b"\n"})
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.binary(max_size=5)) + text[place + data.draw(st.integers(0, 5)) :]
    try:
        parse_report(damaged, "console")
    except FormatError as error:
        assert "console" in str(error)


def test_the_schema_accepts_what_is_written_and_refuses_what_is_not() -> None:
    schema = json.loads((ROOT / "recipes" / "golden" / "manifest.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    value = json.loads(dump(manifest()))
    validator.check_schema(schema)
    validator.validate(value)
    for damage in ("schema", "machines", "unmeasured"):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({key: item for key, item in value.items() if key != damage})
    value["machines"][0]["registers"][0]["established"] = "guessed"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(value)


def test_a_report_without_values_proves_nothing() -> None:
    result = compare(machine(), replace(observation(), values={}))
    assert not result.equal
    assert "no register of a bank of SHA-256 or stronger is reported" in result.enforced(machine())[0].message


def test_sha1_alone_proves_nothing() -> None:
    seen = observation()
    values = {key: value for key, value in seen.values.items() if key[1] is HashAlgorithm.SHA1}
    assert not compare(machine(), replace(seen, values=values)).equal


def test_a_bank_that_is_demanded_must_be_reported() -> None:
    seen = observation()
    values = {key: value for key, value in seen.values.items() if key[1] is HashAlgorithm.SHA256}
    alone = replace(seen, values=values)
    assert compare(machine(), alone).equal
    assert not compare(machine(), alone, banks=[HashAlgorithm.SHA384]).equal


def test_a_prediction_without_registers_proves_nothing() -> None:
    empty = replace(machine(), registers=(), traces=())
    assert not compare(empty, observation()).equal


def test_a_report_cannot_steer_the_terminal() -> None:
    report = parse_report(
        console({**items(), "facts": b"state=\x1b[2Jrunning\n", "failed-units": b"\x1b]0;x"}), "c"
    )
    assert report.facts["state"] == "\\x1b[2Jrunning"
    assert report.failed_units == ("\\x1b]0;x",)
    with pytest.raises(FormatError, match="holds a character that is not printable"):
        manifest_reader.load(dump(manifest()).replace("no capture", "\\u001b[2J"), "golden.json")


def test_a_manifest_whose_rows_and_traces_differ_is_refused() -> None:
    for broken in (replace(machine(), traces=machine().traces[1:]), replace(machine(), registers=())):
        with pytest.raises(FormatError, match="registers and traces do not belong together"):
            manifest_reader.load(dump(replace(manifest(), machines=(broken,))), "golden.json")


@pytest.mark.parametrize("algorithm", list(HashAlgorithm))
def test_the_bank_that_differs_is_the_one_that_is_named(algorithm: HashAlgorithm) -> None:
    good = machine()
    trace = good.trace("PCR4")
    assert trace is not None
    wrong = {**trace.steps[0].digests, algorithm: bytes(algorithm.size)}
    steps = (replace(trace.steps[0], digests=wrong), *trace.steps[1:])
    difference = first_difference(replace(trace, steps=steps), trace.steps)
    assert difference is not None
    assert f"{algorithm.value} predicted {bytes(algorithm.size).hex()}" in difference.message
