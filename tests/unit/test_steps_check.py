"""What a check says of machines that it does not boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.schema import load_image
from recipes.steps import check
from tests.unit.test_schema import RECIPE, write

KVM = """\
  - {name: k, vmm: qemu, machine: pc-q35-7.2, accel: kvm, cpu: qemu64, firmware: ovmf, vcpus: 1,
     memory: 512MiB, tpm: tis}
"""
SNP = """\
  - {name: s, vmm: qemu, machine: pc-q35-10.0, accel: kvm, cpu: EPYC, firmware: ovmf, vcpus: 1,
     memory: 1GiB, tpm: crb, sev: {boot: disk}}
"""


def test_machines_that_are_not_booted_stand_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = load_image(write(tmp_path, RECIPE + KVM + SNP), tmp_path)
    monkeypatch.setattr(check, "OUT", tmp_path)
    monkeypatch.setattr(check, "_expected", lambda image, names: [])
    monkeypatch.setattr(check, "_attempt_all", lambda image, expected: [])
    (tmp_path / "one").mkdir()
    record = tmp_path / "one" / "check.json"
    assert check.check(image, []) is None
    left = {item["name"]: item["reason"] for item in json.loads(record.read_text())["not_booted"]}
    assert list(left) == ["k", "s"]
    assert left["k"] == "it needs KVM; name it by --machine on a host that has it"
    assert left["s"].startswith("it needs a host with SEV-SNP, which no check has")
    assert all(f"{name}: {reason}" in "".join(capsys.readouterr()) for name, reason in [("k", left["k"])])
    # Who names machines knows what he leaves out.
    assert check.check(image, ["m"]) is None
    assert "not_booted" not in json.loads(record.read_text())
