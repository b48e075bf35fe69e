"""Launch digests, judged by sev-snp-measure: the recorded shapes, and others of every run."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from tests.support import require_tool
from tests.vectors.sev_inputs import RECORDED, write_inputs

pytestmark = pytest.mark.tool
CPUS = ("EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")


def theirs(folder: Path, *words: str) -> str:
    program = require_tool("sev-snp-measure")
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("sev"))


def shapes() -> list[dict[str, Any]]:
    """A few of any kind; the same ones in every run."""
    choice = random.Random(6)
    return [
        {
            "vcpus": choice.randrange(1, 40),
            "cpu": choice.choice(CPUS),
            "features": hex(choice.randrange(0x400)),
            "kernel": choice.random() < 0.5,
            "vmm": choice.choice(["QEMU", "QEMU", "ec2", "gce"]),
        }
        for _ in range(6)
    ]


@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_digests(
    shape: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    direct = ["--kernel", "kernel", "--append", "a b"] if shape["kernel"] else []
    words = ["--mode", "snp", "--vcpus", str(shape["vcpus"]), "--vcpu-type", shape["cpu"], "--ovmf", "small"]
    words += ["--guest-features", shape["features"], "--vmm-type", shape["vmm"]]
    expected = theirs(folder, *words, *direct)
    text = (
        f"vmm={shape['vmm'].lower()},firmware=small,vcpus={shape['vcpus']},sev-features={shape['features']}"
    )
    text += ",kernel=kernel,append=a b" if direct else ""
    text += "" if shape["vmm"] == "ec2" else f",cpu={shape['cpu']}"  # ec2 measures no CPU signature
    monkeypatch.chdir(folder)
    assert main(["measure", "--machine", text]) == 0
    assert f"LAUNCH_DIGEST  sha384  {expected}  " in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["svsm", "sev", "sev-es"])
def test_recorded_digests_are_the_programs_own(mode: str, folder: Path) -> None:
    case = next(item for item in RECORDED["vectors"] if item["mode"] == mode and not item["kernel"])
    name = {"svsm": "snp:svsm", "sev-es": "seves"}.get(mode, mode)
    words = ["--mode", name, "--vcpus", str(case["vcpus"]), "--vcpu-type", case["cpu"]]
    words += ["--ovmf", case["firmware"]]
    words += ["--svsm", "svsm", "--vars-size", str(case["vars_size"])] if mode == "svsm" else []
    assert theirs(folder, *words) == case["digest"]
