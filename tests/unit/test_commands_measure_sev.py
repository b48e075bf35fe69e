"""``goldsmith measure`` and ``explain`` for machines with SEV, as a user calls them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.formats.ovmf_footer import Area
from recipes.formats.p384 import SigningKey
from recipes.machine.sev import SevVmm
from recipes.measure.id_block import IdAuth, IdBlock, pack_key
from recipes.measure.kernel_hashes import KernelHashes
from recipes.measure.sev import SevFirmware, firmware_digest
from recipes.measure.vmsa import RESET_EIP, vmsa_page
from tests.unit import sev_firmware as fw

LINE = [
    *("qemu-system-x86_64", "-machine", "q35,confidential-guest-support=sev0", "-cpu", "EPYC-Milan"),
    *("-object", "sev-snp-guest,id=sev0,kernel-hashes=on", "-smp", "2", "-bios", "F"),
]
DIRECT = [*LINE, "-kernel", "K", "-append", "x"]
HOST = ["--host", "sev-features=0x1"]
FIRMWARE = fw.firmware(size=0x10000)
# A kernel: one sector of setup code, magic and version of the boot protocol, loaded above 1 MiB.
KERNEL = bytes(0x1F1) + b"\1" + bytes(0x10) + b"HdrS\x0f\2" + bytes(9) + b"\1" + bytes(0x400 - 0x212)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "F").write_bytes(FIRMWARE)
    (tmp_path / "N").write_bytes(fw.firmware(size=0x10000, sections=fw.SECTIONS[:-1]))
    (tmp_path / "Z").write_bytes(bytes(0x10000))
    (tmp_path / "S").write_bytes(bytes(0x7000))
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
        ("firmware", "F", 0x10000),
        ("kernel", "K", 0x400),
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
    expected = firmware_digest(SevFirmware.of("F", [FIRMWARE])).hex()
    (row,) = measured(capsys, "--firmware-only", "--", *LINE)["registers"]
    assert (row["register"], row["value"]) == ("LAUNCH_DIGEST:firmware", expected)
    assert row["established"] == "oracle"
    out, err = goldsmith(capsys, "measure", "-v", "--firmware-only", "--", *LINE, "-m", "4G")
    assert out == f"LAUNCH_DIGEST:firmware  sha384  {expected}  oracle\n"
    assert err == "no influence: -m 4G\n"
    assert measured(capsys, "--firmware-only", "--", *LINE)["notes"] == []


@pytest.mark.parametrize(
    "content",
    [bytes(0x1000), b"MZ" + bytes(0x1000), KERNEL.replace(b"HdrS", b"HdrT")],
)
def test_what_is_no_kernel(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "K").write_bytes(content)
    document = measured(capsys, *HOST, "--", *DIRECT)
    what = "no Linux kernel to QEMU, such as a UKI; it hashes the file as it is"
    assert document["notes"] == [f"-kernel K: {what}, and the firmware has to be able to start it"]
    table = document["trace"][0]["steps"][6]["digests"]
    assert table == hashed_page(content)
    assert document["registers"][0]["established"] == "spec-only"
    unhashed = [word.replace(",kernel-hashes=on", "") for word in DIRECT]
    document = measured(capsys, *HOST, "--", *unhashed)
    assert [note.partition(",")[0] for note in document["notes"]] == ["kernel"]
    assert document["registers"][0]["established"] == "oracle"


@pytest.mark.parametrize("hashed", [True, False])
def test_an_initrd_beside_what_is_no_linux_kernel(
    hashed: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*DIRECT, "-initrd", "S"]
    line = line if hashed else [word.replace(",kernel-hashes=on", "") for word in line]
    what = "QEMU does not start with one beside a kernel that is no Linux kernel to it"
    note = f"-initrd S: {what}; leave it out, or put it into the UKI"
    assert note not in measured(capsys, *HOST, "--", *line)["notes"]
    (folder / "K").write_bytes(b"MZ" + bytes(0x1000))
    assert measured(capsys, *HOST, "--", *line)["notes"][-1] == note
    elsewhere = "vmm=ec2,firmware=F,vcpus=2,kernel=K,initrd=S"
    assert note not in measured(capsys, *HOST, "--machine", elsewhere)["notes"]


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    words = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for key in ("svsm=FILE", "vars-size=BYTES", "kernel-hashes=on|off", "legacy-vm-type=on|off", "policy=N"):
        assert f"{key} (" in words


def hashed_page(kernel: bytes) -> dict[str, str]:
    hashes = KernelHashes.of(hashlib.sha256(kernel).digest(), None, "x")
    return {"sha384": hashlib.sha384(hashes.page(Area(*fw.HASHES_AREA), "F")).hexdigest()}


UNBOOTABLE = {
    b"": "K: 0 bytes are no kernel; the file is truncated, copy it again",
    b"kernel": "K: 6 bytes are no kernel; the file is truncated, copy it again",
    KERNEL[:0x207]: "K: 519 bytes are no kernel; the file is truncated, copy it again",
    KERNEL[:0x238]: (
        "K: offset 0x1f1: a setup part of 1024 bytes in a file of 568; the kernel is truncated, copy it again"
    ),
    bytes(0x300): (
        "K: a setup part of 2560 bytes in a file of 768; "
        "QEMU takes it for no kernel, give a bzImage (vmlinuz)"
    ),
    KERNEL.replace(b"HdrS\x0f", b"HdrS\x05"): (
        "K: offset 0x206: boot protocol 2.05, a kernel before Linux 2.6.22; give one with 2.06 or newer"
    ),
    KERNEL[:0x211] + bytes(0x800): ("K: offset 0x211: a zImage, which is loaded below 1 MiB; give a bzImage"),
    b"\x7fELF" + bytes(0x1000): (
        "K: an ELF file, QEMU would boot it by another path; give a bzImage (vmlinuz)"
    ),
}


@pytest.mark.parametrize("content", UNBOOTABLE, ids=range(len(UNBOOTABLE)))
def test_what_qemu_does_not_boot(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "K").write_bytes(content)
    assert goldsmith(capsys, "measure", "--", *DIRECT, status=2) == (
        "",
        f"goldsmith: {UNBOOTABLE[content]}\n",
    )
    # Nobody but QEMU looks into it.
    document = measured(capsys, *HOST, "--machine", "vmm=ec2,firmware=F,vcpus=2,kernel=K")
    assert document["registers"][0]["established"] == "spec-only"
    assert document["notes"] == ["vmm ec2: its hosts boot no kernel directly, so none measures this digest"]


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


def test_matrix_without_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    described = "vmm=ec2,firmware=F,vcpus=1"
    rows = measured(capsys, *HOST, "--matrix-vcpus", "1,2", "--machine", described)["matrix"]
    assert [(row["cpu"], row["signature"], row["vcpus"]) for row in rows] == [
        ("ec2", None, 1),
        ("ec2", None, 2),
    ]
    alone = measured(capsys, *HOST, "--machine", "vmm=ec2,firmware=F,vcpus=2")["registers"]
    assert rows[1]["value"] == alone[0]["value"]
    rows = measured(capsys, *HOST, "--matrix-vcpus", "2", "--", *LINE)["matrix"]
    assert [(row["cpu"], row["signature"]) for row in rows] == [("25/1/1", "0xa00f11")]


def test_vm_type_by_line_and_description(capsys: pytest.CaptureFixture[str]) -> None:
    values = {}
    for legacy in ("on", "off"):
        guest = f"sev-guest,id=sev0,policy=5,legacy-vm-type={legacy}"
        document = measured(capsys, "--host", "sev-features=0", "--", *LINE[:6], guest, *LINE[7:])
        text = f"vmm=qemu,mode=sev-es,firmware=F,vcpus=2,cpu=EPYC-Milan,legacy-vm-type={legacy}"
        described = measured(capsys, "--host", "sev-features=0", "--machine", text)
        assert described["registers"] == document["registers"]
        assert document["machine"]["legacy_vm_type"] is (legacy == "on")
        assert document["notes"] == []
        values[legacy] = document["registers"][0]
    assert [row["established"] for row in values.values()] == ["spec-only", "oracle"]
    # Spec: Linux 6.12 sev_es_sync_vmsa(); the pages are all that comes behind the firmware.
    pages = [
        bytearray(vmsa_page(SevVmm.QEMU, eip=eip, signature=0xA00F11, features=0))
        for eip in (RESET_EIP, fw.AP_EIP)
    ]
    for page in pages:
        page[0x408:0x412] = bytes(10)
    expected = hashlib.sha256(FIRMWARE + b"".join(pages)).hexdigest()
    assert values["on"]["value"] == expected != values["off"]["value"]


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
    assert "    1  NORMAL 0xffff0000 x 16 firmware\n" in out
    entries = {"kernel": KERNEL, "initrd": b"", "command line": b"x\0"}
    words = ", ".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in entries.items())
    assert f"  NORMAL 0x810000 table of kernel hashes: {words}\n" in out
    assert "  input: K, command line" in out
    assert "  VMSA 0xfffffffff000 vCPU 1\n" in out
    out, _ = goldsmith(capsys, "explain", "--json", "--machine", "vmm=gce,firmware=F,vcpus=1")
    assert json.loads(out)["trace"][0]["steps"][1]["operation"] == "UNMEASURED"


def test_what_if(capsys: pytest.CaptureFixture[str]) -> None:
    other = [word.replace("K", "L") if word == "K" else word for word in DIRECT]
    out, _ = goldsmith(capsys, "explain", "--", *DIRECT, "--", *other, status=1)
    moved = f"table of kernel hashes: kernel {hashlib.sha256(KERNEL + b'another').hexdigest()}, initrd "
    assert f"LAUNCH_DIGEST: first differs at step 7, NORMAL 0x810000 {moved}" in out
    assert "; input: L, command line; before: table of kernel hashes: kernel " in out
    out, _ = goldsmith(capsys, "explain", "--json", "--", *DIRECT, "--", *DIRECT)
    assert json.loads(out)["equal"] is True


WRONG = {
    "no section": (
        ["-bios", "N", "-kernel", "K"],
        "N: its SEV metadata has no SNP_KERNEL_HASHES section; use a build of",
    ),
    "zeros": (["-bios", "Z"], "Z: offset 0xffd0: no table of OVMF's ends here (GUID "),
    "missing": (["-bios", "Q"], "Q: there is no such file; check the path"),
    "no pages": (["-pflash", "K"], "K: 1024 bytes, firmware is made of whole pages of 4096"),
    "an odd size": (
        ["-bios", "S"],
        "-bios S: 28672 bytes, and QEMU takes multiples of 64 KiB; give the file as it was built",
    ),
    "too much flash": (
        ["-drive", "if=pflash,format=raw,file=F", "-drive", "if=pflash,format=raw,file=B"],
        "-drive if=pflash: 8.1 MiB in all, and QEMU takes 8 MiB; give the firmware by -bios",
    ),
    **{
        f"{name} {option[0]}": ([*option, f"I.{name}"], f"I.{name}: a disk image ({name}), which is not what")
        for name in ("qcow2", "VMDK", "VHDX", "VHD", "LUKS", "QED", "VDI", "Parallels")
        for option in (["-bios"], ["-pflash"])
    },
    "an image in a drive": (
        ["-drive", "if=pflash,file=I.qcow2"],
        (
            "I.qcow2: a disk image (qcow2), which is not what the machine has in memory; "
            "convert it by qemu-img convert -O raw, or write format=raw where QEMU is to take it as it is"
        ),
    ),
    "an image beside it": (
        ["-drive", "if=pflash,file=F", "-drive", "if=pflash,file=I.VHDX"],
        "I.VHDX: a disk image (VHDX), which is not what",
    ),
    "an image, said to be none": (
        ["-drive", "if=pflash,format=raw,file=I.qcow2"],
        "I.qcow2: offset 0xffd0: no table of OVMF's ends here",
    ),
}


# What disk images begin with, as the specification of each has it.
IMAGES = {
    "qcow2": b"QFI\xfb\0\0\0\3",
    "VMDK": b"KDMV\1",
    "VHDX": b"vhdxfile",
    "VHD": b"conectix",
    "LUKS": b"LUKS\xba\xbe\0\2",
    "QED": b"QED\0",
    "VDI": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe",
    "Parallels": b"WithoutFreeSpace",
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_files(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = WRONG[name]
    (folder / "B").write_bytes(bytes(8 << 20))
    for kind, magic in IMAGES.items():
        (folder / f"I.{kind}").write_bytes(magic.ljust(0x10000, b"\0"))
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
        (
            ["measure", "--matrix-vcpus", "2,1,2", "--", *LINE],
            "measure: --matrix-vcpus 2,1,2: 2 is given twice; write it once",
        ),
        (
            ["measure", "--matrix-cpus", "EPYC,EPYC", "--", *LINE],
            "measure: --matrix-cpus EPYC,EPYC: EPYC is given twice; write it once",
        ),
        (
            ["measure"],
            (
                "measure: no command line; write it behind --, such as -- qemu-system-x86_64 ... or "
                "-- lkvm run ..., or describe a machine with SEV by --machine\n"
            ),
        ),
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
        (
            ["measure", "--matrix-cpus", "EPYC", "--machine", "vmm=gce,firmware=F,vcpus=1"],
            "--matrix-cpus: vmm=gce measures no CPU signature, so all of them have one digest; leave it out",
        ),
        (
            ["measure", "--id-key", "K", "--machine", "vmm=qemu,mode=sev,firmware=F,vcpus=1"],
            "measure: --id-key: an ID block is for sev-snp, this machine has sev; leave it out",
        ),
        (
            ["explain", "--", "qemu-system-x86_64", "-machine", "q35"],
            "explain: qemu-system-x86_64: a QEMU command line without SEV is not explained; give golden",
        ),
        (
            ["explain", "--", *LINE, "--", "qemu-system-x86_64", "-machine", "q35"],
            "explain: one command line has SEV and the other has not; give two of a kind",
        ),
        (
            ["explain", "--", "qemu-system-x86_64", "-object", "tdx-guest,id=t"],
            "-object tdx-guest,id=t: TDX is not modelled yet; give a machine with SEV",
        ),
        (
            ["measure", "--", "kvm", "-object", '{"qom-type":"sev-guest","id":"s"}'],
            "-machine: missing; write -machine q35,confidential-guest-support=ID",
        ),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = goldsmith(capsys, *words, status=2)
    assert (out, message in err) == ("", True), err
