"""``goldsmith measure`` and ``explain`` of IGVM files, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.machine.sev import SevVmm
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.measure.vmsa import RESET_EIP, vmsa_page
from tests.unit import igvm_files as igvm

VMSA = vmsa_page(SevVmm.QEMU, eip=RESET_EIP, signature=CPU_MODELS["EPYC-v4"].eax, features=0x21)
PAGES = b"\x01" * 4096 + b"\x02" * 4096


def described(name: str, more: str = "") -> str:
    return f"vmm=qemu,igvm={name},vcpus=1,cpu=EPYC-v4{more}"


def line(name: str, *more: str) -> list[str]:
    words = ["qemu-system-x86_64", "-machine", "q35,confidential-guest-support=s,igvm-cfg=i"]
    words += ["-object", "sev-snp-guest,id=s", "-object", f"igvm-cfg,id=i,file={name}"]
    return [*words, "-cpu", "EPYC-v4", *more]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, second in (("A", b"\x02"), ("B", b"\x03")):
        pages = igvm.pages(0x1000, PAGES[:4096] + second * 4096)
        headers = [igvm.platform(), igvm.policy(0xB0000), *pages, igvm.context(VMSA)]
        (tmp_path / name).write_bytes(igvm.build(headers))
    (tmp_path / "K").write_bytes(b"kernel")
    (tmp_path / "bad").write_bytes(b"IGVM" + bytes(60))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--json", "--matrix-vcpus", "1,2", "--machine", described("A")]) == 0
    document: Any = json.loads(capsys.readouterr().out)
    assert (document["machine"]["features"], document["machine"]["policy"]) == (0x21, 0xB0000)
    assert document["registers"][0]["established"] == "oracle"
    assert document["matrix"][0]["value"] == document["registers"][0]["value"]
    assert document["notes"] == []
    (step, vcpu) = document["trace"][0]["steps"]
    assert (step["source"], vcpu["source"]) == ("A directives 0 to 1", "A directive 2")


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--", *line("A")]) == 0
    text = capsys.readouterr().out
    assert "NORMAL 0x1000 x 2 page data" in text
    assert "input: A directives 0 to 1  [QEMU 10.1 backends/igvm.c]" in text


def test_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--", *line("A"), "--", *line("B")]) == 1
    text = capsys.readouterr().out
    assert "first differs at step 1, NORMAL 0x1000 x 2 page data; input: B directives 0 to 1" in text
    assert "the first page that differs is at 0x2000, directive 1" in text
    assert "igvm-cfg: A, " in text
    assert main(["explain", "--json", "--", *line("A"), "--", *line("A")]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True


def test_notes(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("id=s", "id=s,policy=0x30000") for word in line("A", "-kernel", "K")]
    assert main(["measure", "--", *words]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: policy 0xb0000 of A is in force, not 0x30000",
        "note: kernel, initrd and command line are not measured; only what is in the IGVM file is",
    ]


BAD = {
    ("measure", "--host", "sev-features=1", "--machine", described("A")): (
        "--host sev-features=0x1: the VMSA in A has 0x21, and KVM takes them from there; leave it out"
    ),
    ("measure", "--firmware-only", "--machine", described("A")): (
        "measure: --firmware-only: an IGVM file is the whole launch, virtual CPUs and all; leave it out"
    ),
    ("measure", "--machine", described("bad")): (
        "bad: offset 0x4: format version 0 is not known; known: 1, 2"
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.items(), ids=[str(n) for n in range(len(BAD))])
def test_refused(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(words)) != 0
    assert message in capsys.readouterr().err
