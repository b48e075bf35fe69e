"""IGVM files that launch what firmware is launched as, and the digests that another program has for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.measure.igvm import matrix
from recipes.measure.trace import Established
from tests.unit import igvm_files as igvm
from tests.unit.igvm_launch import image, launch, predict
from tests.vectors import igvm_inputs
from tests.vectors.igvm_inputs import RECORDED

CASES = RECORDED["vectors"]


def name_of(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_firmware_is_that_of_the_digest(case: dict[str, Any]) -> None:
    assert hashlib.sha256(igvm_inputs.firmware(case)).hexdigest() == case["firmware_sha256"]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_digest(case: dict[str, Any]) -> None:
    prediction = predict(igvm_inputs.build(case), vcpus=case["vcpus"], features=int(case["features"], 16))
    assert prediction.digest.hex() == case["digest"]
    read_only = case["name"] in ("unmeasured pages", "pages of zeros")
    assert prediction.established is (Established.SPEC_ONLY if read_only else Established.ORACLE)


def test_vcpus_may_stand_anywhere() -> None:
    case = next(item for item in CASES if item["name"] == "four vCPUs")
    headers = igvm_inputs.headers(case)
    contexts = [item for item in headers if item.type == 0x304]
    rest = [item for item in headers if item.type != 0x304]
    data = igvm.build([igvm.platform(), *reversed(contexts), *rest])
    assert predict(data, vcpus=4, features=0x21).digest.hex() == case["digest"]


def test_other_platforms_do_not_count() -> None:
    case = CASES[0]
    other = (*igvm.pages(0, b"\x11" * 8192, mask=2), igvm.context(b"\x11" * 4096, mask=2))
    headers = [igvm.platform(), igvm.platform(0, mask=2), igvm.policy(0x30000), *other]
    data = igvm.build([*headers, *igvm_inputs.headers(case)])
    assert predict(data, vcpus=1).digest.hex() == case["digest"]


def test_vcpus_that_the_file_does_not_describe_start_as_after_a_reset() -> None:
    """The first virtual CPU of a machine with firmware starts so; see the recorded digest for one."""
    case = CASES[0]
    headers = [item for item in igvm_inputs.headers(case) if item.type != 0x304]
    prediction = predict(igvm.build([igvm.platform(), *headers]), vcpus=1, cpu=CPU_MODELS[case["cpu"]])
    assert prediction.digest.hex() == case["digest"]
    assert prediction.established is Established.SPEC_ONLY


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_command_line(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "F.igvm").write_bytes(igvm_inputs.build(case))
    monkeypatch.chdir(tmp_path)
    line = ["qemu-system-x86_64", "-machine", "q35,confidential-guest-support=sev0,igvm-cfg=igvm0"]
    line += ["-object", "sev-snp-guest,id=sev0", "-object", "igvm-cfg,id=igvm0,file=F.igvm"]
    line += ["-cpu", "EPYC-v4", "-smp", str(case["vcpus"])]
    assert main(["measure", "--json", "--", *line]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["registers"][0]["value"] == case["digest"]
    assert document["machine"]["features"] == int(case["features"], 16)
    assert [item["role"] for item in document["inputs"]] == ["igvm"]
    described = f"vmm=qemu,igvm=F.igvm,vcpus={case['vcpus']},cpu=EPYC-v4"
    assert main(["measure", "--json", "--machine", described]) == 0
    assert json.loads(capsys.readouterr().out)["registers"][0]["value"] == case["digest"]


def test_matrix() -> None:
    case = CASES[0]
    headers = [item for item in igvm_inputs.headers(case) if item.type != 0x304]
    start = launch(image(igvm.build([igvm.platform(), *headers])), vcpus=3)
    (entry,) = matrix(start, [1], [CPU_MODELS[case["cpu"]]])
    assert entry.digest.hex() == case["digest"]
