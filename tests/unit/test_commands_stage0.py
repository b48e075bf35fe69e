"""``goldsmith measure``, ``explain`` and ``capture`` for machines with stage0, as a user calls them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.__main__ import main
from recipes.hats import command_line
from recipes.vmm.stage0_captures import dump_captures
from recipes.vmm.stage0_parse import parse
from tests.unit import sev_firmware as fw
from tests.unit import stage0_samples as samples
from tests.unit.bzimages import bzimage
from tests.unit.test_vmm_stage0_captures import sample

GENERATION = ["--stage0", "oak-d6f890b7"]
CAPTURED = ["--acpi", "C", "--qemu-version", "9.2.0"]
GENOA = ["--host", "family=25", "--host", "model=17", "--host", "stepping=1"]
LINE = [
    *("qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-nodefaults", "-nographic", "-smp", "2"),
    *("-m", "8000000K", "-machine", "q35,acpi=on,confidential-guest-support=sev0", "-serial", "stdio"),
    *("-object", "sev-snp-guest,id=sev0", "-device", "virtio-net-pci,netdev=n"),
    *("-bios", "F", "-kernel", "K", "-initrd", "I", "-append", " a.b=1 quiet"),
]
INSECURE = [
    *("qemu-system-x86_64", "-enable-kvm", "-cpu", "host", "-nodefaults", "-m", "8000000K"),
    *("-machine", "microvm,acpi=on,pcie=on", "-bios", "F", "-kernel", "K"),
]
# As HATs publishes it for machines with SEV-SNP and 8000000 KiB (tests/vectors/snp/snp.json).
MEMORY_MAP = "11103720aab9f4eff4b68b7573b6968e3947e5d7552ace7cebacdbdb448b68fe"
FIELDS = [
    *("stage0_measurement", "kernel_image_sha256", "kernel_setup_data_sha256", "init_ram_fs_sha256"),
    *("memory_map_sha256", "acpi_table_sha256", "kernel_cmd_line_regex", "system_image_sha256"),
    "container_binary_sha256",
]


def changed(option: str, value: str, line: list[str] | None = None) -> list[str]:
    words = list(line or LINE)
    words[words.index(option) + 1] = value
    return words


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "F").write_bytes(fw.firmware(size=0x10000))
    (tmp_path / "K").write_bytes(bzimage())
    (tmp_path / "I").write_bytes(b"initrd")
    (tmp_path / "Z").write_bytes(bytes(9000))
    (tmp_path / "U").write_bytes(b"{}\xff")
    (tmp_path / "S").write_bytes(b"system")
    captures = [
        sample(
            identity=replace(parse(line, tables_only=True).machine, type="pc-q35-9.2").acpi_identity(), **more
        )
        for line, more in (
            (LINE, {}),
            (changed("-smp", "4"), {"tables": samples.TABLES.replace(b"DSDT", b"SSDT")}),
        )
    ]
    (tmp_path / "C").write_text(dump_captures(captures), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def goldsmith(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main(words) == status
    found = capsys.readouterr()
    return found.out, found.err


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(goldsmith(capsys, "measure", "--json", *GENERATION, *words)[0])


def test_all_nine_fields_and_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    later = ["--system-image", "S", "--runtime-bundle", "I"]
    document = measured(capsys, *CAPTURED, *GENOA, *later, "--", *LINE)
    assert document["profile"] == "stage0-oak-d6f890b7-sev-snp"
    assert [row["register"] for row in document["registers"]] == FIELDS
    assert document["omitted"] == []
    rows = {row["register"]: row for row in document["registers"]}
    assert rows["memory_map_sha256"]["value"] == MEMORY_MAP
    assert rows["memory_map_sha256"]["log"] == "E820 table digest"
    assert rows["init_ram_fs_sha256"]["value"] == hashlib.sha256(b"initrd").hexdigest()
    assert rows["container_binary_sha256"]["value"] == hashlib.sha256(b"initrd").hexdigest()
    assert rows["system_image_sha256"]["value"] == hashlib.sha256(b"system").hexdigest()
    files = samples.acpi().table_loader + samples.RSDP + samples.TABLES
    assert rows["acpi_table_sha256"]["value"] == hashlib.sha256(files).hexdigest()
    assert rows["kernel_cmd_line_regex"]["value"] == r"^ a\.b=1 quiet$"
    assert (rows["stage0_measurement"]["algorithm"], len(rows["stage0_measurement"]["value"])) == (
        "sha384",
        96,
    )
    event = bytes.fromhex(document["event"]["content"])
    assert document["event"]["sha256"] == hashlib.sha256(event).hexdigest()
    assert bytes.fromhex(MEMORY_MAP) in event
    assert event.endswith(b" a.b=1 quiet")
    assert document["acpi_capture"]["qemu"] == "9.2.0"
    assert document["acpi_capture"]["machine"]["type"] == "pc-q35-9.2"
    assert (
        "ACPI tables of QEMU 9.2.0, pc-q35-9.2, kvm, 2 vCPUs, 8000000 KiB (Debian 1:9.2.0)"
        in document["notes"]
    )


def test_a_port_that_is_yet_to_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of commands.txt: no launch has this text, but all match the expression."""
    start = " a.b=1 quiet -- --launcher-addr=vsock://2:"
    assert command_line.PORT_WORD == "PORT"
    document = measured(
        capsys, "--acpi", "C", "--qemu-version", "9.2.0", *GENOA, "--", *changed("-append", f"{start}PORT")
    )
    rows = {row["register"]: row for row in document["registers"]}
    expression = rows["kernel_cmd_line_regex"]["value"]
    assert rows["kernel_cmd_line_regex"]["established"] == "spec-only"
    assert re.fullmatch(expression, f"{start}1061704823")
    assert not re.fullmatch(expression, f"{start}PORT")
    assert not re.fullmatch(expression, f"{start}10 x")
    assert document["event"] is None
    what = "-append: PORT stands for the vsock port that HATs' launcher draws at each start"
    note = f"{what}: the expression takes any number there, and the event is left out"
    assert note in document["notes"]
    drawn = measured(
        capsys, "--acpi", "C", "--qemu-version", "9.2.0", *GENOA, "--", *changed("-append", f"{start}17")
    )
    assert drawn["event"] is not None
    assert note not in drawn["notes"]
    words = [*GENERATION, *GENOA, "--register", "memory_map_sha256", "--"]
    assert note in goldsmith(capsys, "explain", *words, *changed("-append", f"{start}PORT"))[1]


def test_launch_digest_is_that_of_the_same_machine_without_stage0(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(capsys, *GENOA, "--", *LINE)["registers"]
    words = ["measure", "--json", *GENOA, "--", *LINE]
    (row,) = json.loads(goldsmith(capsys, *words)[0])["registers"]
    assert rows[0]["value"] == row["value"]


def test_what_is_not_known_is_left_out_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = goldsmith(capsys, "measure", "-v", *GENERATION, "--", *INSECURE)
    assert out.splitlines()[0] == "profile stage0-oak-d6f890b7-insecure"
    assert "stage0_measurement" not in out
    assert "event" not in out
    assert "omitted: stage0_measurement: no SEV-SNP; its policy says insecure {}\n" in err
    how = "goldsmith capture acpi -o FILE -- QEMU COMMAND LINE, then --acpi FILE --qemu-version VERSION"
    assert (
        f"omitted: acpi_table_sha256: QEMU makes the tables, and none are given; capture them: {how}\n" in err
    )
    assert "omitted: system_image_sha256: no command line names the file; give --system-image" in err


def test_explain_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*GENERATION, *CAPTURED, *GENOA, "--register", "memory_map_sha256"]
    out = goldsmith(capsys, "explain", *words, "--", *LINE)[0]
    assert "E820_ACPI 0x3ff00000 to 0x40000000" in out
    assert out.endswith(f"= sha256 {MEMORY_MAP}\n")
    document = json.loads(goldsmith(capsys, "explain", "--json", *words, "--", *LINE)[0])
    assert [trace["register"] for trace in document["trace"]] == ["memory_map_sha256"]


def test_explain_two_that_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    out = goldsmith(capsys, "explain", *GENERATION, *GENOA, "--", *LINE, "--", *changed("-bios", "./F"))[0]
    assert out.startswith("the same: stage0_measurement, kernel_image_sha256,")
    what = "capture the tables of both machines, and give --acpi and --qemu-version"
    assert f"not known: acpi_table_sha256; {what}\n" in out


def test_explain_names_the_range_of_memory_that_moved(capsys: pytest.CaptureFixture[str]) -> None:
    other = changed("-m", "9G")
    out = goldsmith(capsys, "explain", *GENERATION, *GENOA, "--", *LINE, "--", *other, status=1)[0]
    assert "  - E820_RAM 0x100000000 to 0x268480000 (-m, above 4 GiB)\n" in out
    assert "  + E820_RAM 0x100000000 to 0x2c0000000 (-m, above 4 GiB)\n" in out
    assert out.count("\n  + ") == 1
    assert "what differs\n  -m: 8192000000 -> 9663676416\n" in out


def test_explain_names_the_table_that_moved(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", *GENERATION, *CAPTURED, *GENOA, "--", *LINE, "--", *changed("-smp", "4")]
    out = goldsmith(capsys, *words, status=1)[0]
    assert "  DSDT in etc/acpi/tables: only in the first\n" in out
    assert "  SSDT in etc/acpi/tables: only in the second\n" in out
    assert "FACS" not in out
    assert "  -smp: 2 -> 4\n" in out
    words.insert(1, "--json")
    document = json.loads(goldsmith(capsys, *words, status=1)[0])
    assert [item["field"] for item in document["fields"]] == ["stage0_measurement", "acpi_table_sha256"]
    assert not document["equal"]


def test_explain_names_files_and_options(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "L").write_bytes(bzimage(body=100))
    other = changed("-kernel", "L", changed("-initrd", "S", changed("-append", "x")))
    other = [word for word in other if "sev" not in word and word not in ("-object", "-machine")]
    other += ["-machine", "q35"]
    words = [*GENERATION, *GENOA, "--host", "vendor=amd"]
    out = goldsmith(capsys, "explain", *words, "--", *LINE, "--", *other, status=1)[0]
    for cause in (
        "-kernel: K -> L",
        "-initrd: I -> S",
        "-append: ' a.b=1 quiet' -> 'x'",
        "SEV-SNP: on -> off",
    ):
        assert f"  {cause}\n" in out
    assert "  after   none\n" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["measure", *GENERATION],
            "measure: no command line; write it behind --, for example -- qemu-system-x86_64 ...",
        ),
        (
            ["measure", "--stage0", "x", "--", *LINE],
            "stage0 x: no such generation is modelled; known: oak-d6f890b7, oak-55607dd8",
        ),
        (
            ["measure", "--acpi", "C", "--", *LINE],
            "measure: --acpi is for machines with stage0, which --stage0 GENERATION says; leave it out",
        ),
        (
            ["measure", *GENERATION, "--firmware-only", "--", *LINE],
            "measure: --firmware-only is not for machines with stage0; leave it out",
        ),
        (
            ["measure", *GENERATION, *GENOA, "--qemu-version", "9", "--", *LINE],
            "--qemu-version 9: picks a capture; give captures by --acpi FILE",
        ),
        (
            ["measure", *GENERATION, *GENOA, "--acpi", "C", "--", *LINE],
            (
                "--acpi C: tables are another QEMU's, so say which runs the machine: "
                "qemu-system-x86_64 --version, then --qemu-version VERSION; captured of: 9.2.0"
            ),
        ),
        (
            ["explain", *GENERATION, *GENOA, "--acpi", "C", "--", *LINE, "--", *LINE],
            (
                "--acpi C: tables are another QEMU's, so say which runs the machine: "
                "qemu-system-x86_64 --version, then --qemu-version VERSION; captured of: 9.2.0"
            ),
        ),
        (
            ["measure", *GENERATION, *GENOA, "--acpi", "C", "--qemu-version", "9.2.1", "--", *LINE],
            (
                "command line: its ACPI tables are captured of QEMU 9.2.0, not of 9.2.1; "
                "capture with that QEMU: goldsmith capture acpi -o FILE -- qemu-system-x86_64 ..."
            ),
        ),
        (
            ["measure", *GENERATION, *GENOA, "--acpi", "X", "--", *LINE],
            "X: there is no such file; check the path",
        ),
        (
            ["measure", *GENERATION, *GENOA, "--acpi", "U", "--", *LINE],
            "U: offset 0x2: no UTF-8 text; give a file of captures",
        ),
        (
            ["measure", *GENERATION, *GENOA, "--", *changed("-kernel", "X")],
            "X: there is no such file; check the path",
        ),
        (
            ["measure", *GENERATION, "--", *INSECURE[:-2]],
            "-kernel: missing; stage0 boots a kernel that QEMU hands it; give a bzImage",
        ),
        (["measure", *GENERATION, "--", *INSECURE[:-4]], "-bios: missing; give the file of stage0"),
        (
            ["explain", *GENERATION, "--", *LINE, "--", *LINE, "--", *LINE],
            "explain: 3 command lines; two can be held side by side",
        ),
        (
            ["explain", *GENERATION, *GENOA, "--register", "x", "--", *LINE],
            (
                "explain: --register x: not among init_ram_fs_sha256, kernel_cmd_line_regex, "
                "kernel_image_sha256, kernel_setup_data_sha256, memory_map_sha256, stage0_measurement"
            ),
        ),
        (
            ["explain", "golden.json", *GENERATION],
            "explain: --stage0 is for a command line, golden.json says it itself; leave it out",
        ),
        (
            ["capture", "acpi"],
            (
                "capture: no command line; write it behind --: "
                "goldsmith capture acpi [options] -- qemu-system-x86_64 ..."
            ),
        ),
        (
            ["capture", "acpi", "--", "lkvm", "run"],
            "lkvm: the first word is no QEMU for x86; start with qemu-system-x86_64",
        ),
        (
            ["capture", "acpi", "-o", "N/x.json", "--", "./qemu-kvm", *LINE[1:]],
            "N/x.json: there is no folder N; make it first",
        ),
        (
            ["capture", "acpi", "-o", "U", "--", "./qemu-kvm", *LINE[1:]],
            "U: offset 0x2: no UTF-8 text; give a file of captures",
        ),
        (
            ["capture", "acpi", "--", "./qemu-kvm", *LINE[1:]],
            "./qemu-kvm: not found\n    $ ./qemu-kvm",
        ),
    ],
)
def test_wrong_use(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    out, err = goldsmith(capsys, *words, status=2)
    notes, _, found = err.rpartition("goldsmith: " + message.splitlines()[0])
    assert (out, found) == ("", "".join(f"\n{line}" for line in message.splitlines()[1:]) + "\n")
    assert all(line.startswith("note: ") for line in notes.splitlines())


def test_a_machine_that_is_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    err = goldsmith(capsys, "measure", *GENERATION, *GENOA, *CAPTURED, "--", *changed("-smp", "3"), status=2)[
        1
    ]
    assert "no ACPI tables of this machine are captured" in err
    assert (
        "\n    there: QEMU 9.2.0, pc-q35-9.2, kvm, 2 vCPUs, 8000000 KiB: max_vcpus 2, not 3; vcpus 2, not 3\n"
        in err
    )


@pytest.mark.parametrize("words", [["capture", "--help"], ["capture", "acpi", "--help"]])
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "acpi" in out
