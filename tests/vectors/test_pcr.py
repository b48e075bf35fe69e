"""The replay against recorded boots: every event, every PCR, in all four banks."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from recipes.formats import eventlog
from recipes.measure import firmware, stub, tpm, userspace
from recipes.measure.trace import ALL_ALGORITHMS, HashAlgorithm, Trace
from tests.vectors import pcr_cases as cases
from tests.vectors.pcr_cases import AARCH64_CASE, CASES, X86_CASES


def check_events(name: str) -> None:
    """Every extending event of the log, in log order: register, type and digest in each bank."""
    case = cases.load(name)
    predicted = cases.sequence(case)
    observed = tpm.event_steps(case.log)
    shown = [(step.register, step.operation, step.digests[HashAlgorithm.SHA256].hex()) for step in observed]
    assert [
        (step.register, step.operation, step.digests[HashAlgorithm.SHA256].hex()) for step in predicted
    ] == shown
    for ours, theirs in zip(predicted, observed, strict=True):
        assert dict(ours.digests) == dict(theirs.digests), ours.description


def check_pcrs(name: str) -> None:
    """Every covered PCR as the TPM reported it, in each bank, none omitted."""
    case = cases.load(name)
    if name == AARCH64_CASE:
        traces = {trace.register: trace for trace in tpm.traces(cases.aarch64_steps(case))}
        traces |= {each: Trace(each, ()) for each in ("PCR12", "PCR13")}
    else:
        prediction = cases.predict(case)
        assert prediction.omitted == ()
        traces = {trace.register: trace for trace in prediction.traces}
    for index in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13):
        for algorithm in ALL_ALGORITHMS:
            value = tpm.fold(traces[tpm.register(index)], algorithm)
            assert value == case.pcr(algorithm, index), (index, algorithm)


def check_recorded_events(name: str) -> None:
    """The digests that were noted beside the log, in case a log and its reader are wrong together."""
    case = cases.load(name)
    noted = [
        (f"PCR{event['pcr']}", event["type"], event["sha256"])
        for event in case.record["events"]
        if event["type"] != "EV_NO_ACTION"
    ]
    assert [
        (step.register, step.operation, step.digests[HashAlgorithm.SHA256].hex())
        for step in cases.sequence(case)
    ] == noted


def check_replay(name: str) -> None:
    """The log replayed gives the TPM's PCRs; 10 belongs to IMA, and 11 and 15 grew in user space."""
    case = cases.load(name)
    values = tpm.replay(case.log)
    later = (10, 11, 15) if "userspace_phases" in case.record else (10,)
    for algorithm in ALL_ALGORITHMS:
        for index in (*range(18), 23):
            if index not in later:
                assert values[algorithm.value, index] == case.pcr(algorithm, index), index


def check_boot_variables(name: str) -> None:
    """BootOrder and the options it names, as the guest's efivarfs had them."""
    case = cases.load(name)
    made = dict(firmware.boot_variables(cases.machine(case), cases.model(case), cases.variables(case)))
    told = case.record["boot_vars"]
    order = bytes.fromhex(told["BootOrder"])
    names = {f"Boot{int.from_bytes(order[at : at + 2], 'little'):04X}" for at in range(0, len(order), 2)}
    assert {key: made[key].hex() for key in made} == {key: told[key] for key in {"BootOrder", *names}}


def check_combined_initrd_size(name: str) -> None:
    """Length of what the kernel is handed: the padded initrd and one archive per passed-on section."""
    case = cases.load(name)
    entry = json.loads((cases.PCR / "ukis.json").read_text())[case.uki]
    combined = stub.combine(stub.initrd_parts(cases.uki(case), (), ()))
    assert combined is not None
    assert combined.size == entry["stub_combined_initrd_size"]


def check_phases() -> None:
    """PCR 11 after each boot phase and PCR 15 after each identity, as systemd-pcrextend left them."""
    case = cases.load("q35-512m-1cpu-addons")
    prediction = cases.predict(case)
    steps = {step["step"]: step for step in case.record["userspace_phases"]}
    for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready"):
        value = prediction.value(f"PCR11:{phase}", HashAlgorithm.SHA256)
        assert value.hex() == steps[phase]["pcr11"], phase
    assert prediction.value("PCR11", HashAlgorithm.SHA256).hex() == steps["start"]["pcr11"]
    identities = (
        userspace.machine_id_step("0123456789abcdef0123456789abcdef"),
        userspace.file_system_step("/", ("squashfs", "", "", "", "", "")),
    )
    for count, name in ((1, "machine-id"), (2, "file-system")):
        value = tpm.fold(Trace("PCR15", identities[:count]), HashAlgorithm.SHA256)
        assert value.hex() == steps[name]["pcr15"]


@pytest.mark.parametrize("name", CASES)
def test_every_event_is_predicted(name: str) -> None:
    check_events(name)


@pytest.mark.parametrize("name", CASES)
def test_every_pcr_is_predicted(name: str) -> None:
    check_pcrs(name)


@pytest.mark.parametrize("name", CASES)
def test_noted_events_are_predicted(name: str) -> None:
    check_recorded_events(name)


@pytest.mark.parametrize("name", CASES)
def test_log_replays_to_the_tpm(name: str) -> None:
    check_replay(name)


@pytest.mark.parametrize("name", X86_CASES)
def test_boot_variables(name: str) -> None:
    check_boot_variables(name)


@pytest.mark.parametrize("name", ["q35-512m-1cpu", "q35-512m-1cpu-addons", AARCH64_CASE])
def test_combined_initrd_size(name: str) -> None:
    check_combined_initrd_size(name)


def test_phases() -> None:
    check_phases()


@pytest.mark.parametrize("name", ["ovmf-2025.02-8+deb13u1.OVMF_CODE_4M.secboot.fd"])
def test_patched_volume_depends_on_memory(name: str) -> None:
    # PEIFV digests of the two sizes, as the logs of boots with 512 MiB and 2 GiB had them.
    case = cases.load("q35-512m-1cpu-secureboot")
    blobs = {
        patch.memory: blob.content.digests[HashAlgorithm.SHA256].hex()
        for patch, blob in cases.prepared_firmware(case).patched
        if patch is not None
    }
    assert cases.stored_flash(case) == name
    assert {size: digest[:8] for size, digest in blobs.items()} == {1 << 29: "43100bdc", 1 << 31: "80815172"}


@pytest.mark.parametrize("case", json.loads((cases.HERE / "eventlogs/index.json").read_text())["cases"])
def test_cloud_logs_replay_to_their_tpm(case: dict[str, dict[str, dict[str, str]]]) -> None:
    data = gzip.decompress((cases.HERE / "eventlogs" / str(case["file"])).read_bytes())
    assert hashlib.sha256(data).hexdigest() == str(case["sha256"])
    values = tpm.replay(eventlog.parse(data, str(case["file"])))
    for bank, pcrs in case["pcrs"].items():
        for index, value in pcrs.items():
            assert values[bank, int(index)].hex() == value, (bank, index)
