from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from recipes.errors import ImageError, VerifyError
from recipes.formats.snp_report import SnpReport, read_report
from recipes.golden import manifest as golden_manifest
from recipes.golden import manifest_reader
from recipes.golden.diff import moved_registers
from recipes.golden.manifest import GoldenMachine, GoldenManifest, Policy, Wildcard, dump
from recipes.golden.sev import HOST_TPM, NO_TPM_BOOT, SnpEvidence, golden_snp, without_keys
from recipes.golden.table import render
from recipes.golden.unlock import Sealing, TpmPolicy
from recipes.golden.unlock_predict import unlock_policy
from recipes.golden.verify import compare, of_tpm
from recipes.golden.verify_snp import (
    check_signed,
    compare_report,
    guest_policy,
    measured_machines,
    not_shown,
)
from recipes.golden.wildcards import problems
from recipes.machine import SnpMachine
from recipes.measure.boot import Omitted, Prediction
from recipes.measure.sev import HashedFile, SevLaunch, replay
from recipes.measure.trace import HashAlgorithm
from tests.support import ROOT
from tests.unit.snp_machines import DISK, UKI
from tests.unit.snp_samples import unsigned_report
from tests.unit.test_golden import machine as tpm_machine
from tests.unit.test_golden import manifest, observation
from tests.vectors.sev_inputs import AMDSEV, SNP, firmware


def entry(machine: SnpMachine, boot: Prediction | None = None) -> GoldenMachine:
    kernel = HashedFile(name="i.efi", size=7, sha256=bytes(32)) if machine.kernel_hashes else None
    launch = SevLaunch(
        machine=machine.measured("" if kernel else None),
        firmware=firmware(AMDSEV),
        kernel=kernel,
        linux=False,
    )
    found = SnpEvidence(launch=launch, prediction=replay(launch), boot=boot)
    return golden_snp(machine, found, firmware_version="1", launch="run.sh")


def test_the_digest_is_another_program_s() -> None:
    shape = {"vmm": "QEMU", "mode": "snp", "vcpu_type": "EPYC-Milan", "vcpus": 4, "guest_features": "0x1"}
    shape |= {"kernel": False}
    (recorded,) = {item["digest"] for item in SNP["vectors"] if shape.items() <= item.items()}
    value = entry(DISK).value("LAUNCH_DIGEST", HashAlgorithm.SHA384)
    assert value is not None
    assert value.hex() == recorded


def tpm_boot() -> Prediction:
    """The traces of a recorded boot."""
    return Prediction(tpm_machine().traces, (Omitted("PCR1", "not known"),), ())


def test_a_machine_with_kernel_hashes_has_its_launch_digest_alone() -> None:
    found = entry(UKI)
    assert [row.register for row in found.registers] == ["LAUNCH_DIGEST"]
    identity = json.loads(found.identity)
    assert identity["firmware"] == {
        "file": AMDSEV,
        "package": "ovmf-amdsev",
        "recipe": "ovmf-amdsev",
        "sha256": "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f",
        "version": "1",
    }
    assert (identity["boot"], identity["cmdline"], identity["policy"]) == ("uki", "", 0x30000)
    assert "hashes of kernel" in found.policies[0].covers


def test_the_host_s_tpm_stands_beside_the_digest_for_the_record() -> None:
    found = entry(DISK, tpm_boot())
    assert found.policies[0].policy is Policy.MACHINE
    assert found.policies[0].covers.endswith("; nothing of what the firmware boots")
    assert {item.policy for item in found.policies[1:]} == {Policy.RECORD}
    assert all(item.covers.endswith("; the TPM is the host's") for item in found.policies[1:])
    assert {row.established.value for row in found.registers[1:]} == {"spec-only"}
    assert [item.register for item in found.omitted] == ["PCR1"]


def with_snp() -> GoldenManifest:
    plain = manifest()
    return replace(plain, machines=(*plain.machines, entry(UKI), entry(DISK, tpm_boot())))


def test_manifests_are_read_back_and_fit_the_schema() -> None:
    text = dump(with_snp())
    assert dump(manifest_reader.load(text, "golden.json")) == text
    schema = json.loads((ROOT / "recipes" / "golden" / "manifest.schema.json").read_text())
    jsonschema.validate(json.loads(text), schema)


def test_the_table_shows_digests_beside_registers() -> None:
    shown = render(with_snp(), colour=False).splitlines()
    lines = [line.split() for line in shown if "LAUNCH" in line]
    values = [entry(machine).value("LAUNCH_DIGEST", HashAlgorithm.SHA384) for machine in (UKI, DISK)]
    assert [line[1] for line in lines] == [value.hex() for value in values if value]
    assert [line[-1] for line in lines] == ["2", "3"]
    # Each under the name of its hash algorithm.
    heads = [index for index, line in enumerate(shown) if line.split()[:1] == ["register"]]
    assert [shown[index].split()[1] for index in heads] == ["sha256", "sha384"]
    assert shown[heads[1] + 1].split()[:2] == lines[0][:2]


def test_a_boot_report_is_held_against_the_tpm_alone() -> None:
    found = of_tpm(entry(DISK, tpm_boot()))
    assert all(row.register.startswith("PCR") for row in found.registers)
    assert compare(found, observation()).equal
    plain = tpm_machine()
    assert of_tpm(plain) is plain


def test_no_key_is_sealed_to_a_tpm_of_the_host() -> None:
    policy = unlock_policy("data", TpmPolicy(sealing=Sealing.LITERAL, pcrs=(11,)), ())
    (only,) = without_keys(policy, [entry(UKI)]).machines
    assert (only.machine, only.digest, only.reason) == ("snp", None, HOST_TPM)


def report_of(machine: GoldenMachine, **changes: int | bytes) -> bytes:
    digest = machine.value("LAUNCH_DIGEST", HashAlgorithm.SHA384)
    assert digest is not None
    return unsigned_report(**{"measurement": digest, "policy": 0x30000, **changes})


def test_a_report_is_of_the_machine_that_it_shows() -> None:
    machines = with_snp().machines
    report = read_report(report_of(machines[2]), "r")
    assert [machine.name for machine in measured_machines(machines, report, "r")] == ["snp-disk"]
    assert not_shown(machines[2])[:2] == ("PCR0", "PCR4")
    assert not_shown(machines[1]) == ()
    assert compare_report(machines[2], report).equal
    (first,) = compare_report(machines[1], report).differences
    assert first.message.startswith("LAUNCH_DIGEST: predicted ")
    assert first.message.endswith(f"the report has {report.measurement.hex()}")


def test_a_guest_that_may_be_debugged_measures_the_same_and_is_refused() -> None:
    found = entry(UKI)
    report = read_report(report_of(found, policy=0xB0000), "r")
    (only,) = compare_report(found, report).differences
    assert only.message == "guest policy: the machine has 0x30000, the report 0xb0000"


def test_machines_that_share_a_digest_are_told_apart_by_their_policy_alone() -> None:
    large = replace(entry(UKI), name="snp-16g")
    dev = replace(entry(replace(UKI, policy=0xB0000)), name="snp-dev")
    machines = (entry(UKI), large, dev)
    assert guest_policy(dev) == 0xB0000
    for policy, names in ((0x30000, ["snp", "snp-16g"]), (0xB0000, ["snp-dev"])):
        report = read_report(report_of(dev, policy=policy), "r")
        assert [machine.name for machine in measured_machines(machines, report, "r")] == names
    with pytest.raises(VerifyError) as caught:
        measured_machines(machines[:2], report, "r")
    assert str(caught.value) == "r: snp: guest policy: the machine has 0x30000, the report 0xb0000"


def test_a_report_of_another_privilege_level() -> None:
    found = entry(UKI)
    report = read_report(report_of(found, vmpl=2), "r")
    assert compare_report(found, report, vmpl=2).equal
    (only,) = compare_report(found, report).differences
    assert only.message == "VMPL: it is 2, expected 0"
    (host,) = compare_report(found, read_report(report_of(found, vmpl=0xFFFFFFFF), "r")).differences
    assert host.message == "VMPL: it is 4294967295 (the host asked for the report), expected 0"


@pytest.mark.parametrize(
    ("bits", "field"), [(7 << 2, "SIGNING_KEY is NONE"), (1 << 1, "MASK_CHIP_KEY is set")]
)
def test_reports_that_nobody_can_verify(bits: int, field: str) -> None:
    with pytest.raises(VerifyError) as caught:
        check_signed(read_report(report_of(entry(UKI), key_info=bits), "r"), "r")
    what = "so no key has signed it and nobody can verify it; the host has to let its chip's key sign"
    assert str(caught.value) == f"r: {field}, {what}"


ORDER = int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
"""Of the base point. Spec: SP 800-186 section 3.2.1.4."""
ABOVE = "not below the order of P-384"


@pytest.mark.parametrize(
    ("r", "s", "field"),
    [
        (0, 0, "R of its signature is 0"),
        (1, 0, "S of its signature is 0"),
        (ORDER, 1, f"R of its signature is {ABOVE}"),
        (1, (1 << 576) - 1, f"S of its signature is {ABOVE}"),
    ],
)
def test_signatures_that_no_key_has_made(r: int, s: int, field: str) -> None:
    def signed(r: int, s: int) -> SnpReport:
        data = report_of(entry(UKI), key_info=1 << 2)
        return read_report(
            data[:0x2A0] + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368), "r"
        )

    check_signed(signed(1, ORDER - 1), "r")
    with pytest.raises(VerifyError) as caught:
        check_signed(signed(r, s), "r")
    what = "so no key has signed it and nobody can verify it; take the report as the processor gave it"
    assert str(caught.value) == f"r: {field}, {what}"


def test_reports_of_other_machines() -> None:
    machines = with_snp().machines
    report = read_report(report_of(machines[1], measurement=bytes(48)), "r")
    with pytest.raises(VerifyError) as caught:
        measured_machines(machines, report, "r")
    what = f"r: MEASUREMENT {bytes(48).hex()} is that of no machine (snp, snp-disk)"
    assert str(caught.value) == f"{what}; explain shows what each is made of"
    with pytest.raises(ImageError) as other:
        measured_machines(machines[:1], report, "r")
    what = "r: no machine of this golden.json has the launch digest of a guest with SEV-SNP"
    assert str(other.value) == f"{what}; give that of the image that was launched"
    with pytest.raises(ImageError) as none:
        compare_report(machines[0], report)
    assert str(none.value) == "m: has no launch digest; name a machine with SEV-SNP"


def test_the_machine_for_tests_of_hats_has_no_launch_digest() -> None:
    missing = golden_manifest.Omitted(register="stage0_measurement", reason="nothing vouches for it")
    plain = replace(tpm_machine(), omitted=(missing,))
    report = read_report(report_of(entry(UKI)), "r")
    with pytest.raises(ImageError) as all_of_them:
        measured_machines([plain], report, "r")
    assert str(all_of_them.value) == "r: no machine has a launch digest (m: nothing vouches for it)"
    with pytest.raises(ImageError) as named:
        compare_report(plain, report)
    what = "m: has no launch digest (nothing vouches for it); name a machine with SEV-SNP"
    assert str(named.value) == what


def test_a_tpm_beside_kernel_hashes_has_no_registers_and_the_manifest_says_why() -> None:
    found = {item.register: item.reason for item in entry(UKI).omitted}
    assert {"PCR0", "PCR4", "PCR7", "PCR9", "PCR11", "PCR12"} <= found.keys()
    assert set(found.values()) == {NO_TPM_BOOT}
    assert entry(replace(UKI, tpm=None)).omitted == ()
    wildcard = Wildcard(register="PCR5", event="EV_EFI_GPT_EVENT", reason="x")
    assert list(problems([wildcard], [tpm_machine(), entry(UKI)])) == []
    assert list(problems([wildcard], [replace(tpm_machine(), registers=(), traces=())])) != []


def test_the_table_says_once_why_registers_are_missing() -> None:
    (line,) = [line for line in render(with_snp(), colour=False).splitlines() if "not modelled" in line]
    assert line.startswith("      PCR0, PCR1, PCR2, ")


def test_diff_sees_another_guest_policy() -> None:
    (only,) = moved_registers(entry(UKI), entry(replace(UKI, policy=0xB0000)))
    assert str(only) == "guest policy: 0x30000 and 0xb0000; reports show it beside the launch digest"
