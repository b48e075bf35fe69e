"""``goldsmith verify`` as a user calls it: what it refuses to judge, and reports of guests with SEV-SNP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.golden.manifest import GoldenMachine, Policy, RegisterPolicy, dump
from recipes.measure.trace import HashAlgorithm, Step
from tests.unit.snp_machines import DISK, UKI
from tests.unit.snp_samples import FIELDS, REAL, real_report
from tests.unit.test_golden import LOG, console, falsified, items, manifest
from tests.unit.test_golden import machine as tpm_machine
from tests.unit.test_golden_snp import entry, tpm_boot

GENUINE = "MEASUREMENT, guest policy and VMPL as predicted, if the report is genuine"

COVERS = (
    "firmware, places of its SEV metadata, number and first registers of vCPUs (CPU signature, SEV_FEATURES)"
)


def write(folder: Path, *machines: GoldenMachine) -> str:
    path = folder / "golden.json"
    path.write_text(dump(replace(manifest(), machines=machines)))
    (folder / "log").write_bytes(LOG)
    (folder / "console").write_bytes(console(items()))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["verify", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def policies(machine: GoldenMachine, *recorded: str) -> GoldenMachine:
    """The machine with a policy that records these registers."""
    changed = (
        replace(item, policy=Policy.RECORD) if item.register in recorded else item
        for item in machine.policies
    )
    return replace(machine, policies=tuple(changed))


# ---- a TPM's registers


@pytest.mark.parametrize("source", ["--event-log", "--report"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_tpm_of_which_nothing_is_enforced_decides_nothing(
    source: str, form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = write(tmp_path, entry(DISK, tpm_boot()), entry(UKI))
    file = str(tmp_path / ("log" if source == "--event-log" else "console"))
    for name in ("snp-disk", "snp"):
        what = "nothing of this machine's TPM is enforced, so any boot would do; give --snp-report"
        said = run(capsys, golden, "--machine", name, source, file, *form)
        assert said == (2, "", f"goldsmith: {name}: {what}\n")


def test_such_a_machine_is_not_asked_over_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = write(tmp_path, entry(DISK, tpm_boot()))
    words = ["attest", "https://127.0.0.1:1", "--golden", str(golden), "--ak", str(tmp_path / "ak")]
    assert main(words) == 2
    what = "nothing of this machine's TPM is enforced, so any boot would do; give --snp-report"
    assert capsys.readouterr().err == f"goldsmith: snp-disk: {what}\n"


def test_other_manifests_that_enforce_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tpm_machine()
    recorded = policies(plain, *(item.register for item in plain.policies))
    log = ("--event-log", str(tmp_path / "log"))
    said = run(capsys, write(tmp_path, recorded), *log)
    what = "m: every register of its TPM is recorded only, so any boot would do; name another machine"
    assert said == (2, "", f"goldsmith: {what}\n")
    digest = HashAlgorithm.SHA256
    row = replace(plain.registers[1], register="kernel_image_sha256", algorithm=digest)
    trace = replace(plain.traces[0], register="kernel_image_sha256", steps=())
    policy = RegisterPolicy(register="kernel_image_sha256", policy=Policy.ENFORCE, covers="x")
    other = replace(plain, registers=(row,), traces=(trace,), policies=(policy,))
    what = "m: no register of a TPM is predicted, so there is nothing to hold it against"
    assert run(capsys, write(tmp_path, other), *log) == (2, "", f"goldsmith: {what}\n")


def test_a_log_without_what_is_enforced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Boot phases are userspace's, and not in the firmware's log."""
    plain = tpm_machine()
    names = {"PCR11": "PCR11:ready"}
    rows = (replace(row, register=names.get(row.register, row.register)) for row in plain.registers)
    traces = (replace(item, register=names.get(item.register, item.register)) for item in plain.traces)
    phased = replace(plain, registers=tuple(rows), traces=tuple(traces))
    golden = write(tmp_path, policies(phased, *({item.register for item in plain.policies} - {"PCR11"})))
    status, out, err = run(capsys, golden, "--event-log", str(tmp_path / "log"))
    assert (status, out) == (1, "")
    assert err == "goldsmith: m: nothing was compared that is enforced; give more of its boot\n"


def test_only_what_is_equal_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ("--event-log", str(tmp_path / "log"))
    status, all_of_it, _ = run(capsys, write(tmp_path, tpm_machine()), *log)
    lengths = {trace.register: len(trace.steps) for trace in tpm_machine().traces}
    events = sum(lengths.values())
    names = "sha1, sha256, sha384, sha512"
    assert (status, all_of_it) == (0, f"m: 24 registers ({names}) and {events} events as predicted\n")
    golden = write(tmp_path, policies(falsified("PCR4", 0), "PCR4"))
    status, out, _ = run(capsys, golden, *log)
    assert status == 0
    what = f"m: 20 registers ({names}) and {events - lengths['PCR4']} events as predicted"
    assert out == f"{what}; not so, which decides nothing: PCR4\n"
    status, out, err = run(capsys, write(tmp_path, falsified("PCR4", 0)), *log)
    assert (status, out) == (1, "")
    assert err.startswith("goldsmith: m: PCR4 differs at event 1 of ")


# ---- reports of guests with SEV-SNP


def changed(name: str, **fields: int | bytes) -> bytes:
    """A real report with other values in some fields; its signature is not over them."""
    data = bytearray(real_report(name))
    for field, value in fields.items():
        offset, size = FIELDS[field]
        data[offset : offset + size] = value.to_bytes(size, "little") if isinstance(value, int) else value
    return bytes(data)


def report_of(name: str, machine: GoldenMachine, folder: Path, **fields: int | bytes) -> str:
    digest = machine.value("LAUNCH_DIGEST", HashAlgorithm.SHA384)
    assert digest is not None
    path = folder / "report.bin"
    path.write_bytes(changed(name, **{"measurement": digest, "policy": 0x30000, "vmpl": 0, **fields}))
    return str(path)


@pytest.mark.parametrize("name", REAL)
def test_a_report_that_shows_a_predicted_launch(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = write(tmp_path, tpm_machine(), entry(UKI), entry(DISK, tpm_boot()))
    report = report_of(name, entry(DISK), tmp_path, report_data=b"r" * 64)
    status, out, err = run(capsys, golden, "--snp-report", report)
    assert (status, err) == (0, "")
    host_data = real_report(name)[0xC0:0xE0].hex()
    assert out.splitlines() == [
        f"snp-disk: {GENUINE}",
        "  signature     not checked: verify the report with the certificates of the host's chip",
        f"  covers        {COVERS}; nothing of what the firmware boots",
        "  not shown     PCR0, PCR4, PCR5, PCR7, PCR9, PCR11",
        "  guest policy  0x30000",
        "  VMPL          0",
        f"  REPORT_DATA   {b'r'.hex() * 64}",
        f"  HOST_DATA     {host_data}",
    ]
    status, out, err = run(capsys, golden, "--json", "--snp-report", report)
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document.pop("covers").endswith("; nothing of what the firmware boots")
    assert document.pop("not_shown")[0] == "PCR0"
    assert document == {
        "machine": "snp-disk",
        "machines": ["snp-disk"],
        "equal": True,
        "signature": "not checked",
        "enforced": [],
        "differences": [],
        "measurement": digest_of(entry(DISK)),
        "policy": "0x30000",
        "vmpl": 0,
        "report_data": b"r".hex() * 64,
        "host_data": host_data,
    }


def digest_of(machine: GoldenMachine) -> str:
    value = machine.value("LAUNCH_DIGEST", HashAlgorithm.SHA384)
    assert value is not None
    return value.hex()


def test_machines_that_a_report_cannot_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = entry(UKI)
    dev = replace(entry(replace(UKI, policy=0xB0000)), name="snp-dev")
    golden = write(tmp_path, dev, small, replace(small, name="snp-16g"))
    report = report_of("genoa-v5", small, tmp_path)
    status, out, _ = run(capsys, golden, "--snp-report", report)
    lines = out.splitlines()
    assert (status, lines[0]) == (0, f"snp, snp-16g: {GENUINE}")
    assert "  machines      2, which share digest and policy; the report cannot say which" in lines
    report = report_of("genoa-v5", small, tmp_path, policy=0xB0000)
    status, out, err = run(capsys, golden, "--snp-report", report)
    assert (status, out.splitlines()[0]) == (0, f"snp-dev: {GENUINE}")
    assert err == "the guest policy allows debugging: the host may read the guest's memory\n"


@pytest.mark.parametrize("name", ["milan-v2", "turin-v5"])
@pytest.mark.parametrize(
    ("fields", "words", "message"),
    [
        ({"vmpl": 1}, [], "snp: VMPL: it is 1, expected 0"),
        ({"vmpl": 0}, ["--vmpl", "2"], "snp: VMPL: it is 0, expected 2"),
        (
            {"vmpl": 0xFFFFFFFF},
            ["--vmpl", "3"],
            "snp: VMPL: it is 4294967295 (the host asked for the report),",
        ),
        (
            {"policy": 0xB0000},
            [],
            "report.bin: snp: guest policy: the machine has 0x30000, the report 0xb0000",
        ),
        (
            {"policy": 0xB0000},
            ["--machine", "snp"],
            "snp: guest policy: the machine has 0x30000, the report 0xb0000",
        ),
        ({"measurement": bytes(48)}, [], "report.bin: MEASUREMENT 0000"),
        ({"measurement": bytes(48)}, ["--machine", "snp"], "snp: LAUNCH_DIGEST: predicted "),
        ({"key_info": 7 << 2}, [], "report.bin: SIGNING_KEY is NONE, so no key has signed it"),
        ({"key_info": 2}, ["--machine", "snp"], "report.bin: MASK_CHIP_KEY is set, so no key has signed it"),
    ],
)
def test_reports_that_are_refused(
    name: str,
    fields: dict[str, int | bytes],
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    golden = write(tmp_path, entry(UKI))
    report = report_of(name, entry(UKI), tmp_path, **fields)
    status, out, err = run(capsys, golden, "--snp-report", report, *words)
    assert (status, out) == (1, "")
    assert err.startswith(f"goldsmith: {message}")


def test_a_difference_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = write(tmp_path, entry(UKI))
    report = report_of("milan-v3", entry(UKI), tmp_path, vmpl=1)
    status, out, _ = run(capsys, golden, "--json", "--snp-report", report)
    document = json.loads(out)
    assert (status, document["equal"], document["vmpl"]) == (1, False, 1)
    assert document["differences"] == ["VMPL: it is 1, expected 0"]
    status, out, _ = run(capsys, golden, "--json", "--vmpl", "1", "--snp-report", report)
    assert (status, json.loads(out)["equal"]) == (0, True)


def test_a_machine_with_stage0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its digest has another name, and what SEV measures of it stands in a part of its identity."""
    plain = entry(UKI)
    name = "stage0_measurement"
    found = replace(
        plain,
        name="genoa",
        identity=json.dumps({"sev": json.loads(plain.identity), "generation": "g"}),
        registers=(replace(plain.registers[0], register=name),),
        policies=(replace(plain.policies[0], register=name, covers="stage0"),),
        traces=tuple(
            replace(trace, register=name, steps=renamed(trace.steps, name)) for trace in plain.traces
        ),
        omitted=(),
    )
    golden = write(tmp_path, found)
    status, out, _ = run(capsys, golden, "--snp-report", report_of("genoa-v5", plain, tmp_path))
    assert (status, out.splitlines()[0]) == (0, f"genoa: {GENUINE}")
    assert "  covers        stage0" in out.splitlines()
    report = report_of("genoa-v5", plain, tmp_path, policy=0xB0000)
    status, _, err = run(capsys, golden, "--snp-report", report)
    assert (status, err.rpartition(": ")[2]) == (1, "the machine has 0x30000, the report 0xb0000\n")
    what = "nothing of this machine's TPM is enforced, so any boot would do; give --snp-report"
    said = run(capsys, golden, "--report", str(tmp_path / "console"))
    assert said == (2, "", f"goldsmith: genoa: {what}\n")


def renamed(steps: tuple[Step, ...], register: str) -> tuple[Step, ...]:
    return tuple(replace(step, register=register) for step in steps)


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = write(tmp_path, tpm_machine())
    log = str(tmp_path / "log")
    said = run(capsys, golden, "--vmpl", "0", "--event-log", log)
    assert said == (2, "", "goldsmith: verify: --vmpl is for --snp-report; leave it out\n")
    with pytest.raises(SystemExit) as ended:
        main(["verify", golden, "--vmpl", "4", "--snp-report", log])
    assert ended.value.code == 2
    assert "argument --vmpl: invalid choice: 4" in capsys.readouterr().err
    recorded = policies(entry(UKI), "LAUNCH_DIGEST")
    status, out, err = run(
        capsys, write(tmp_path, recorded), "--snp-report", report_of("milan-v2", recorded, tmp_path)
    )
    assert (status, out) == (2, "")
    what = "its launch digest is recorded only, so any would do; name another machine"
    assert err == f"goldsmith: snp: {what}\n"


# ---- explain and diff of such machines


def test_explain_takes_the_first_machine_that_has_the_register(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = write(tmp_path, tpm_machine(), entry(UKI), entry(DISK))
    capsys.readouterr()
    assert main(["explain", golden, "--register", "LAUNCH_DIGEST"]) == 0
    assert capsys.readouterr().out.startswith("i 1 on snp\n\nLAUNCH_DIGEST\n")
    assert main(["explain", golden, "--register", "PCR4"]) == 0
    assert capsys.readouterr().out.startswith("i 1 on m\n")
    assert main(["explain", golden, "--register", "LAUNCH_DIGEST", "--machine", "m"]) == 2
    assert capsys.readouterr().err == "goldsmith: m: no LAUNCH_DIGEST: the prediction does not cover it\n"
    assert main(["explain", golden, "--register", "PCR4", "--machine", "snp"]) == 2
    assert capsys.readouterr().err.startswith("goldsmith: snp: no PCR4: what firmware measures of a UKI")


def test_diff_of_words_ends_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tpm_machine()
    (word,) = plain.omitted
    others = [replace(plain, name=text, omitted=(replace(word, reason=text),)) for text in ("a", "b")]
    golden = write(tmp_path, *others)
    assert main(["diff", golden, golden]) == 0
    assert capsys.readouterr().out == "no register differs\n"
    assert main(["diff", golden, golden, "--machine", "a", "--with", "b"]) == 1
    what = "a and b: PCR1: no value in either, and they say of it 'a' and 'b'\n"
    assert capsys.readouterr().out == what
    assert main(["diff", golden, golden, "--machine", "a", "--with", "b", "--json"]) == 1
    assert [row["register"] for row in json.loads(capsys.readouterr().out)] == ["PCR1"]
