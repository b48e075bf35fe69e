"""``goldsmith explain`` on kvmtool's command lines as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.formats.fdt_reader import read_fdt
from recipes.formats.fdt_source import to_dts
from tests.vectors.kvmtool_inputs import generate, vectors

VECTORS = {vector.name: vector for vector in vectors()}
PLAIN = ["lkvm", *VECTORS["cpus-1"].argv]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the command lines, in the working directory."""
    for name in ("kernel-a.img", "kernel-b.img", "initrd-a.img", "disk.img", "one.img"):
        (tmp_path / name).write_bytes(generate(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["explain", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def line(name: str) -> list[str]:
    return ["lkvm", *VECTORS[name].argv]


def test_the_steps_of_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    vector = VECTORS["demo-islet"]
    status, out, err = run(capsys, "--", *line("demo-islet"))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "profile kvmtool-eac5"
    assert f"  = sha256 {vector.rim.hex()}" in lines
    steps = [text.split(maxsplit=1)[1] for text in lines if text[:5].strip().isdigit()]
    # The recorded sequence, of which initramfs and device tree are neighbours.
    assert steps == [
        "REALM_CREATE",
        "DATA_CREATE 0x80000000 x 245 kernel",
        "RTT_INIT_RIPAS 0x800f5000 x 75 kernel bss: 75 x 4 KiB",
        "DATA_CREATE 0x8fd85000 x 123 initramfs",
        "DATA_CREATE 0x8fe00000 x 16 device tree",
        "REC_CREATE vCPU 0",
    ]
    assert f"       after  {vector.rim_after_realm_create.hex()}" in lines
    assert '\t\tbootargs = " console=ttyS0 root=/dev/vda rw "; /* --console serial */' in lines


def test_the_device_tree_is_the_recorded_one(capsys: pytest.CaptureFixture[str]) -> None:
    vector = VECTORS["everything"]
    _, out, _ = run(capsys, "--json", "--", *line("everything"))
    document = json.loads(out)
    assert vector.dtb is not None
    without = "\n".join(text.partition(" /*")[0] for text in document["device_tree"].splitlines())
    assert without + "\n" == to_dts(read_fdt(vector.dtb, "recorded"), origins=False)
    assert document["trace"][0]["steps"][-1]["after"] == vector.rim.hex()


def test_every_node_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--", *PLAIN, "-c", "2", "--rng", "--pmu")
    lines = out.splitlines()
    for text in ("\t\tcpu@1 { /* -c 2 */", "\tpmu { /* --pmu */"):
        assert text in lines
    (interrupts,) = [text for text in lines if "/* --rng, default network device */" in text]
    assert interrupts.strip().startswith("<0x800 ")


def test_a_what_if_names_step_node_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--", *line("disks-2"), "--", *line("disks-3"))
    assert status == 1
    assert out.splitlines() == [
        f"before  kvmtool-eac5  sha256  {VECTORS['disks-2'].rim.hex()}",
        f"after   kvmtool-eac5  sha256  {VECTORS['disks-3'].rim.hex()}",
        "",
        "RIM: first differs at step 5, DATA_CREATE 0x8fe00000 x 16 device tree; input: device tree",
        *[text for text in out.splitlines() if " of 65536 bytes" in text],
        "1 of 6 steps differs",
        "",
        "options that differ",
        "  -d: 2 disks -> 3 disks",
        "",
        "device tree",
        "  /pci interrupt-map: changed, by -d: 2 disks -> 3 disks",
        "    - interrupt-map = <0x0 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x4 0x4>,",
        "    -     <0x800 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x5 0x4>,",
        "    -     <0x1000 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x6 0x4>;",
        "    + interrupt-map = <0x0 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x4 0x4>,",
        "    +     <0x800 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x5 0x4>,",
        "    +     <0x1000 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x6 0x4>,",
        "    +     <0x1800 0x0 0x0 0x1 0x1 0x0 0x0 0x0 0x7 0x4>;",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("vsock-3", "vsock-12344"),
        ("balloon", "9p"),
        ("cpus-1", "realm-pv-64"),
        ("cpus-1", "metadata-ignored"),
        ("cpus-1", "net-virtio-word"),
        ("vsock-3", "pci-legacy"),
    ],
)
def test_a_what_if_that_changes_nothing(first: str, second: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--", *line(first), "--", *line(second))
    assert VECTORS[first].rim == VECTORS[second].rim
    assert status == 0
    assert "the RIM is the same, and so is every step" in out
    assert "\ndevice tree\n" not in out


def test_a_what_if_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--json", "--", *PLAIN, "--", *line("kernel-b-no-bss"))
    document = json.loads(out)
    assert (status, document["equal"]) == (1, False)
    assert document["after"]["registers"][0]["value"] == VECTORS["kernel-b-no-bss"].rim.hex()
    assert [item["input"] for item in document["inputs"]] == ["kernel"]


def test_the_same_line_twice(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--", *PLAIN, "--", *PLAIN)
    assert status == 0
    assert out.endswith("so is every step; names of files and the content of disks are in no register\n")


def test_doubts_about_either_side_are_words_not_data(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--", *PLAIN, "--", *line("sha512-tfrmm-cpus2"))
    assert status == 1
    assert err.startswith("note: -c 2: the measurer counts every REC")
    assert "note:" not in out


def test_the_register_of_a_command_line_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    named = run(capsys, "--register", "RIM", "--", *PLAIN)
    assert named == run(capsys, "--", *PLAIN)
    assert named[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "explain: give golden.json, or a command line behind --"),
        (
            ["--", *PLAIN, "--", *PLAIN, "--", *PLAIN],
            "explain: 3 command lines; two can be held side by side",
        ),
        (["--", *PLAIN, "--", *PLAIN, "-k", "missing"], "missing: there is no such file; check the path"),
        (["--", *PLAIN, "--", *PLAIN, "-c", "17"], "-c 17: more than 16 vCPUs"),
        (
            ["--register", "REM7", "--", *PLAIN],
            "explain: --register REM7 is not what a command line decides; leave it out",
        ),
        (
            ["--register", "RIM", "--register", "PCR4", "--", *PLAIN, "--", *PLAIN],
            "explain: --register PCR4 is not what a command line decides; leave it out",
        ),
        (
            ["--machine", "foo", "--", *PLAIN],
            "explain: --machine is for golden.json, a command line is one machine; leave it out",
        ),
        *(
            (
                ["golden.json", option, "x=y"],
                f"explain: {option} is for a command line, golden.json says it itself; leave it out",
            )
            for option in ("--profile", "--host", "--dtb")
        ),
        (
            ["--dtb", "disk.img", "--", *PLAIN, "--", *PLAIN],
            "explain: --dtb: a captured device tree holds for one command line, not for two; leave it out",
        ),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"goldsmith: {message}")
