"""``goldsmith measure`` and ``explain`` for machines with SEV, as a user calls them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.formats.p384 import SigningKey
from recipes.measure.id_block import IdAuth, IdBlock, pack_key
from recipes.measure.sev import SevFirmware, firmware_digest
from tests.unit import sev_firmware as fw

LINE = [
    *("qemu-system-x86_64", "-machine", "q35,confidential-guest-support=sev0", "-cpu", "EPYC-Milan"),
    *("-object", "sev-snp-guest,id=sev0,kernel-hashes=on", "-smp", "2", "-bios", "F"),
]
DIRECT = [*LINE, "-kernel", "K", "-append", "x"]
HOST = ["--host", "sev-features=0x1"]
# The header of a kernel, with magic and version of the boot protocol.
KERNEL = bytes(0x202) + b"HdrS" + (0x20F).to_bytes(2, "little") + bytes(8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "F").write_bytes(fw.firmware())
    (tmp_path / "N").write_bytes(fw.firmware(sections=fw.SECTIONS[:-1]))
    (tmp_path / "Z").write_bytes(bytes(8192))
    (tmp_path / "K").write_bytes(KERNEL)
    (tmp_path / "L").write_bytes(KERNEL + b"another")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def goldsmith(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main(words) == status
    found = capsys.readouterr()
    return found.out, found.err


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(goldsmith(capsys, "measure", "--json", *words)[0])


def test_every_input_is_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    document = measured(capsys, *HOST, "--", *DIRECT)
    assert document["profile"] == "sev-snp-qemu"
    assert document["machine"]["cpu"] == {"family": 25, "model": 1, "stepping": 1}
    assert document["machine"]["features"] == 1
    assert [(item["role"], item["name"], item["size"]) for item in document["inputs"]] == [
        ("firmware", "F", 0x8000),
        ("kernel", "K", 0x210),
    ]
    (row,) = document["registers"]
    assert (row["algorithm"], row["established"]) == ("sha384", "oracle")
    assert document["trace"][0]["steps"][-1]["after"] == row["value"]
    assert document["notes"] == []


def test_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = goldsmith(capsys, "measure", "-v", "--", *DIRECT, "-m", "4G")
    assert out.splitlines()[0] == "profile sev-snp-qemu"
    assert out.splitlines()[2].startswith("LAUNCH_DIGEST  sha384  ")
    assert err.splitlines()[0] == "no influence: -m 4G"
    assert err.splitlines()[1].startswith("note: SEV_FEATURES 0x1 assumed; ")


def test_described_machine_is_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    by_line = measured(capsys, *HOST, "--", *DIRECT)
    text = "vmm=qemu,firmware=F,vcpus=2,cpu=25/1/1,kernel=K,append=x"
    described = measured(capsys, *HOST, "--machine", text)
    assert described["registers"] == by_line["registers"]
    elsewhere = measured(capsys, *HOST, "--machine", "vmm=ec2,firmware=F,vcpus=2,kernel=K,append=x")
    assert elsewhere["registers"] != by_line["registers"]


def test_firmware_only(capsys: pytest.CaptureFixture[str]) -> None:
    expected = firmware_digest(SevFirmware.of("F", [fw.firmware()])).hex()
    (row,) = measured(capsys, "--firmware-only", "--", *LINE)["registers"]
    assert (row["register"], row["value"]) == ("LAUNCH_DIGEST:firmware", expected)
    out, err = goldsmith(capsys, "measure", "-v", "--firmware-only", "--", *LINE, "-m", "4G")
    assert out == f"LAUNCH_DIGEST:firmware  sha384  {expected}\n"
    assert err.splitlines()[0] == "no influence: -m 4G"
    assert err.splitlines()[1].startswith("note: SEV_FEATURES 0x1 assumed; ")
    (note,) = measured(capsys, "--firmware-only", "--", *LINE)["notes"]
    assert note.startswith("SEV_FEATURES 0x1 assumed; ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"kernel",
        bytes(0x1000),
        KERNEL[:0x207],
        KERNEL.replace(b"HdrS", b"HdrT"),
        KERNEL.replace(b"HdrS\x0f", b"HdrS\x05"),
    ],
)
def test_what_is_no_kernel(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "K").write_bytes(content)
    document = measured(capsys, *HOST, "--", *DIRECT)
    what = "is no Linux kernel with boot protocol 2.06 or newer; QEMU would not measure it so"
    assert document["notes"] == [f"-kernel K: {what}"]
    assert document["registers"][0]["established"] == "spec-only"
    unhashed = [word.replace(",kernel-hashes=on", "") for word in DIRECT]
    document = measured(capsys, *HOST, "--", *unhashed)
    assert [note.partition(",")[0] for note in document["notes"]] == ["kernel"]
    assert document["registers"][0]["established"] == "oracle"


def test_the_oldest_kernel(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "K").write_bytes(KERNEL.replace(b"HdrS\x0f", b"HdrS\x06"))
    document = measured(capsys, *HOST, "--", *DIRECT)
    assert (document["notes"], document["registers"][0]["established"]) == ([], "oracle")


def test_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--matrix-vcpus", "2,1", "--matrix-cpus", "EPYC-Milan,25/17/1", *HOST, "--", *DIRECT)
    document = measured(capsys, *words)
    rows = document["matrix"]
    shapes = [(row["cpu"], row["vcpus"], row["signature"]) for row in rows]
    assert shapes == [
        ("EPYC-Milan", 2, "0xa00f11"),
        ("EPYC-Milan", 1, "0xa00f11"),
        ("25/17/1", 2, "0xa10f11"),
        ("25/17/1", 1, "0xa10f11"),
    ]
    assert rows[0]["value"] == document["registers"][0]["value"]
    assert len({row["value"] for row in rows}) == 4


def test_id_block(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {name: SigningKey.from_scalar(number, name) for name, number in (("id", 5), ("author", 7))}
    for name, key in keys.items():
        (folder / name).write_bytes(key.pem)
    document = measured(capsys, *HOST, "--id-key", "id", "--author-key", "author", "--", *LINE)
    found = document["id_block"]
    block = IdBlock.unpack(base64.b64decode(found["id-block"]))
    auth = IdAuth.unpack(base64.b64decode(found["id-auth"]))
    assert block.digest.hex() == document["registers"][0]["value"]
    assert (block.version, block.policy, block.guest_svn) == (1, 0x30000, 0)
    assert auth.id_key == pack_key(keys["id"].public)
    assert auth.author_key == pack_key(keys["author"].public)
    alone = measured(capsys, *HOST, "--id-key", "id", "--", *LINE)["id_block"]
    assert alone["author_key_digest"] == "00" * 48
    assert IdAuth.unpack(base64.b64decode(alone["id-auth"])).author_key_algorithm == 0


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = goldsmith(capsys, "explain", "--", *DIRECT)
    assert "    1  NORMAL 0xffff8000 x 8 firmware\n" in out
    assert "  NORMAL 0x810000 table of kernel hashes\n" in out
    assert "  input: K, command line" in out
    assert "  VMSA 0xfffffffff000 vCPU 1\n" in out
    out, _ = goldsmith(capsys, "explain", "--json", "--machine", "vmm=gce,firmware=F,vcpus=1")
    assert json.loads(out)["trace"][0]["steps"][1]["operation"] == "UNMEASURED"


def test_what_if(capsys: pytest.CaptureFixture[str]) -> None:
    other = [word.replace("K", "L") if word == "K" else word for word in DIRECT]
    out, _ = goldsmith(capsys, "explain", "--", *DIRECT, "--", *other, status=1)
    assert "LAUNCH_DIGEST: first differs at step 7, NORMAL 0x810000 table of kernel hashes; input: L" in out
    out, _ = goldsmith(capsys, "explain", "--json", "--", *DIRECT, "--", *DIRECT)
    assert json.loads(out)["equal"] is True


WRONG = {
    "no section": (
        ["-bios", "N", "-kernel", "K"],
        "N: its SEV metadata has no SNP_KERNEL_HASHES section; use a build of",
    ),
    "zeros": (["-bios", "Z"], "Z: offset 0x1fd0: no table of OVMF's ends here (GUID "),
    "missing": (["-bios", "Q"], "Q: there is no such file; check the path"),
    "no pages": (["-bios", "K"], "K: 528 bytes, firmware is made of whole pages of 4096"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_files(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = WRONG[name]
    out, err = goldsmith(capsys, "measure", "--", *LINE[:-2], *words, status=2)
    assert out == ""
    assert err.startswith(f"goldsmith: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure", "--machine", "vmm=ec2", "--", *LINE], "--machine stands for a command line"),
        (
            ["measure", "--author-key", "K", "--", *LINE],
            "--author-key signs an ID key; give --id-key as well",
        ),
        (["measure", "--id-key", "K", "--", *LINE], "K: no PEM file of an unencrypted private key; make one"),
        (["measure", "--dtb", "K", "--", *LINE], "measure: --dtb is not for machines with SEV; leave it out"),
        (["measure", "--matrix-vcpus", "1,0", "--", *LINE], "--matrix-vcpus 1,0: '0' is no number of vCPUs"),
        (["measure", "--matrix-cpus", "x", "--", *LINE], "--matrix-cpus x: no such model of a CPU with SEV"),
        *(
            (
                ["measure", "--firmware-only", *option, "--", *LINE],
                f"measure: {option[0]} needs the whole launch; leave out --firmware-only",
            )
            for option in (
                ["--matrix-vcpus", "1"],
                ["--matrix-cpus", "EPYC"],
                ["--id-key", "K"],
            )
        ),
        (
            ["measure", "--firmware-only", "--machine", "vmm=qemu,mode=sev,firmware=F,vcpus=1"],
            "measure: --firmware-only is for sev-snp, and this machine has sev; leave it out",
        ),
        (["measure", "--firmware-only", "--", "lkvm", "run"], "--firmware-only is for machines with SEV"),
        (["explain", "--register", "RIM", "--", *LINE], "--register RIM is not for command lines with SEV"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = goldsmith(capsys, *words, status=2)
    assert (out, message in err) == ("", True), err
