from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from recipes.errors import ImageError, VerifyError
from recipes.formats.snp_report import read_report
from recipes.golden import manifest_reader
from recipes.golden.manifest import GoldenMachine, GoldenManifest, Policy, dump
from recipes.golden.sev import HOST_TPM, SnpEvidence, golden_snp, without_keys
from recipes.golden.table import render
from recipes.golden.unlock import Sealing, TpmPolicy
from recipes.golden.unlock_predict import unlock_policy
from recipes.golden.verify import compare, of_tpm
from recipes.golden.verify_snp import compare_report, measured_machine
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
    lines = [line.split() for line in render(with_snp(), colour=False).splitlines() if "LAUNCH" in line]
    values = [entry(machine).value("LAUNCH_DIGEST", HashAlgorithm.SHA384) for machine in (UKI, DISK)]
    assert [line[1] for line in lines] == [value.hex() for value in values if value]
    assert [line[-1] for line in lines] == ["2", "3"]


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
    assert measured_machine(machines, report, "r").name == "snp-disk"
    assert compare_report(machines[2], report).equal
    (first,) = compare_report(machines[1], report).differences
    assert first.message.startswith("LAUNCH_DIGEST: predicted ")
    assert first.message.endswith(f"the report has {report.measurement.hex()}")


def test_a_guest_that_may_be_debugged_measures_the_same_and_is_refused() -> None:
    found = entry(UKI)
    report = read_report(report_of(found, policy=0xB0000), "r")
    (only,) = compare_report(found, report).differences
    assert only.message == "guest policy: the machine has 0x30000, the report 0xb0000"


def test_reports_of_other_machines() -> None:
    machines = with_snp().machines
    report = read_report(report_of(machines[1], measurement=bytes(48)), "r")
    with pytest.raises(VerifyError) as caught:
        measured_machine(machines, report, "r")
    what = f"r: MEASUREMENT {bytes(48).hex()} is that of no machine (snp, snp-disk)"
    assert str(caught.value) == f"{what}; explain shows what each is made of"
    with pytest.raises(ImageError) as other:
        measured_machine(machines[:1], report, "r")
    assert str(other.value) == "r: no machine has a launch digest to hold it against; add one with sev"
    with pytest.raises(ImageError) as none:
        compare_report(machines[0], report)
    assert str(none.value) == "m: has no launch digest; name a machine with sev"
