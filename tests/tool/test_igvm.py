"""Launch digests of IGVM files, judged by sev-snp-measure on firmware that is launched alike."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import require_tool
from tests.unit.igvm_launch import predict
from tests.vectors import igvm_inputs
from tests.vectors.igvm_inputs import RECORDED
from tests.vectors.sev_inputs import content

pytestmark = pytest.mark.tool


@pytest.mark.parametrize("case", RECORDED["vectors"], ids=lambda case: str(case["name"]))
def test_digests(case: dict[str, Any], tmp_path: Path) -> None:
    program = require_tool("sev-snp-measure")
    (tmp_path / "F").write_bytes(igvm_inputs.firmware(case))
    words = ["--mode", "snp", "--vcpus", str(case["vcpus"]), "--vcpu-type", case["cpu"], "--ovmf", "F"]
    words += ["--guest-features", case["features"], "--vmm-type", case["vmm"]]
    if case["kernel"]:
        for name in ("kernel", "initrd"):
            (tmp_path / name).write_bytes(content(name))
        words += ["--kernel", "kernel", "--initrd", "initrd", "--append", RECORDED["append"]]
    done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    features = int(case["features"], 16)
    prediction = predict(igvm_inputs.build(case), vcpus=case["vcpus"], features=features)
    assert prediction.digest.hex() == done.stdout.strip() == case["digest"]
