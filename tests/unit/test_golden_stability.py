"""The report on what moves a RIM, held against the measurer's own values and table of influences."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from recipes.errors import FormatError, MeasureError
from recipes.golden.stability import MAX_ROWS, Influence, Row, StabilityReport, Verdict, examine
from recipes.golden.stability_axes import KINDS, Axis, AxisKind, axis, axis_around, find_kind, matrix
from recipes.golden.stability_report import render, to_json
from recipes.golden.stability_values import numbers, sizes
from recipes.machine import KvmtoolMachine, KvmtoolNetwork
from recipes.measure.granules import BytesBlob
from recipes.vmm.kvmtool_parse import parse
from tests.vectors.kvmtool_inputs import generate, vectors

VECTORS = {vector.name: vector for vector in vectors()}
PLAIN = VECTORS["cpus-1"].argv
KERNEL = BytesBlob("kernel-a.img", generate("kernel-a.img"))
INITRD = BytesBlob("initrd-a.img", generate("initrd-a.img"))
BASE = parse(["lkvm", *PLAIN]).machine


def report_on(*axes: Axis, base: KvmtoolMachine = BASE, alone: bool = False) -> StabilityReport:
    return examine(base, KERNEL, INITRD, axes, alone=alone)


def rims(report: StabilityReport) -> dict[tuple[str, ...], bytes]:
    return {row.values: row.rim for row in report.rows}


def verdicts(influences: tuple[Influence, ...]) -> dict[str, Verdict]:
    return {item.axis.name: item.verdict for item in influences}


@cache
def default_report() -> StabilityReport:
    return examine(BASE, KERNEL, INITRD, matrix(BASE, {}))


# Which value of an axis each recorded run has, everything else being that of the plain one.
RECORDED = [
    ("vcpus", "1", "cpus-1"),
    ("vcpus", "4", "cpus-4"),
    ("vcpus", "9", "cpus-9"),
    ("memory", "64", "mem-64"),
    ("memory", "128M", "mem-128"),
    ("memory", "1024", "mem-1G"),
    ("memory", "2G", "mem-2048"),
    ("memory", "261123K", "mem-255M-odd"),
    ("disks", "2", "disks-2"),
    ("disks", "3", "disks-3"),
    ("disks", "4", "disks-4"),
    ("nics", "0", "no-net-no-virtio"),
    ("nics", "1", "net-virtio-word"),
    ("nics", "2", "balloon"),  # all virtio devices look alike
    ("nics", "3", "disks-2"),
    ("consoles", "virtio", "console-virtio"),
    ("consoles", "hv", "console-hv"),
    ("shares", "1", "9p"),
    ("vsock", "on", "vsock-3"),
    ("balloon", "on", "balloon"),
    ("rng", "on", "9p"),
    ("irqchips", "gicv3-its", "irqchip-auto"),
    ("kaslr-seed", "12345", "kaslr-seed"),
    ("kaslr-seed", "18364758544493064720", "kaslr-seed-big"),
    ("sve-vl", "256", "sve-vl-256"),
    ("sve-vl", "2048", "sve-vl-2048"),
    ("counter-frequency", "24000000", "cntfrq"),
]


@pytest.mark.parametrize(("name", "value", "vector"), RECORDED)
def test_each_value_gives_the_recorded_rim(name: str, value: str, vector: str) -> None:
    report = report_on(axis(name, value))
    assert [row.rim for row in report.rows] == [VECTORS[vector].rim]


@pytest.mark.parametrize(
    ("name", "value", "vector"),
    [("transports", "mmio-legacy", "mmio-transport-legacy"), ("transports", "pci-legacy", "pci-legacy")],
)
def test_transports_of_a_disk(name: str, value: str, vector: str) -> None:
    report = report_on(axis(name, value), axis("disks", "1"))
    assert report.rows[0].rim == VECTORS[vector].rim


def test_the_machine_of_the_command_line_is_in_the_matrix_around_it() -> None:
    report = default_report()
    assert rims(report)["1", "256M", "0", "1", "serial"] == VECTORS["cpus-1"].rim
    assert len(report.rows) == 3 * 2 * 5 * 3 * 2
    assert [axis.values for axis in report.axes] == [
        ("1", "2", "4"),
        ("256M", "512M"),
        ("0", "1", "2", "3", "4"),
        ("0", "1", "2"),
        ("serial", "virtio"),
    ]


def test_only_the_number_of_devices_counts() -> None:
    found = rims(default_report())
    for vcpus, memory in (("1", "256M"), ("2", "512M")):
        by_number: dict[int, set[bytes]] = {}
        for (cpus, size, disks, nics, console), rim in found.items():
            if (cpus, size, console) == (vcpus, memory, "serial"):
                by_number.setdefault(int(disks) + int(nics), set()).add(rim)
        assert all(len(rims) == 1 for rims in by_number.values())
        assert len(set.union(*by_number.values())) == 7
    assert found["1", "256M", "2", "1", "serial"] == VECTORS["disks-2"].rim
    assert found["1", "256M", "1", "2", "serial"] == VECTORS["disks-2"].rim


def test_every_axis_of_the_matrix_changes_the_rim() -> None:
    report = default_report()
    assert set(verdicts(report.influences).values()) == {Verdict.CHANGES}
    disks = report.influences[2]
    # Ten pairs of five numbers of disks, for each of 36 combinations of the others.
    assert (disks.compared, disks.equal) == (360, None)
    assert disks.different is not None
    assert disks.different.first.values == ("1", "256M", "0", "0", "serial")
    assert disks.different.second.values == ("1", "256M", "1", "0", "serial")


def test_every_other_option_is_changed_alone() -> None:
    found = verdicts(default_report().others)
    sometimes = {"transports", "profiles"}
    assert {name for name, verdict in found.items() if verdict is Verdict.SOMETIMES} == sometimes
    assert {verdict for name, verdict in found.items() if name not in sometimes} == {Verdict.CHANGES}
    names = {kind.name for kind in KINDS}
    assert found.keys() == names - {"vcpus", "memory", "disks", "nics", "consoles", "algorithms"}


def test_transports_that_look_alike() -> None:
    report = report_on(axis("transports", "pci,pci-legacy"), axis("disks", "0-2"))
    assert verdicts(report.influences) == {"transports": Verdict.NONE, "disks": Verdict.CHANGES}
    lines = render(report).splitlines()
    assert "disks  RIM" in lines
    assert "transports  pci, pci-legacy  no influence" in " ".join(lines)


def test_a_profile_matters_to_more_than_one_vcpu() -> None:
    report = report_on(axis("profiles", "kvmtool-eac5,kvmtool-eac5-tf-rmm"), axis("vcpus", "1,4"))
    assert verdicts(report.influences)["profiles"] is Verdict.SOMETIMES
    found = rims(report)
    assert found["kvmtool-eac5-tf-rmm", "4"] == VECTORS["cpus-4"].rim_runnable_recs_only
    assert found["kvmtool-eac5-tf-rmm", "1"] == found["kvmtool-eac5", "1"] == VECTORS["cpus-1"].rim
    text = render(report)
    profiles = "kvmtool-eac5 to kvmtool-eac5-tf-rmm"
    assert f"only sometimes: not {profiles} with vcpus 1, but {profiles} with vcpus 4" in text


def test_what_never_matters_is_replayed() -> None:
    text = "\n".join(default_report().unmeasured)
    # Spec section 4, the row "no effect".
    for word in ("MAC address", "tap device", "CID", "--realm-pv", "--metadata", "--disable-sve", "--debug"):
        assert word in text
    for word in ("legacy", "folders and tags", "content of disk images"):
        assert word in text


def test_disable_sve_is_not_tried_where_sve_is_asked_for() -> None:
    report = report_on(axis("vcpus", "1"), base=replace(BASE, disable_sve=False, sve_vl=128), alone=True)
    assert "--disable-sve" not in report.unmeasured


def test_launches_that_are_refused_stand_in_the_report() -> None:
    report = report_on(axis("memory", "2M,256M"), axis("disks", "0-5"), axis("vcpus", "1,17"))
    refused = [row for row in report.rows if row.refused]
    assert (len(report.rows), len(refused)) == (24, 19)
    assert verdicts(report.influences) == {
        "memory": Verdict.UNKNOWN,
        "disks": Verdict.CHANGES,
        "vcpus": Verdict.UNKNOWN,
    }
    text = render(report)
    assert "19 machines that cannot be launched" in text
    assert "not compared: -c 17: a realm has 1 to 16 vCPUs; give such a number" in text
    assert "  -d: 5 disks, kvmtool takes 4; remove 1\n" in text


def test_neither_initrd_nor_disk() -> None:
    argv = VECTORS["no-initrd-with-disk"].argv
    machine = parse(["lkvm", *argv]).machine
    report = examine(machine, KERNEL, None, [axis("disks", "0,1")], alone=False)
    first, second = report.rows
    assert first.refused.startswith("command line: neither initramfs nor disk")
    assert second.rim == VECTORS["no-initrd-with-disk"].rim


def test_a_matrix_without_a_possible_launch_is_an_error() -> None:
    with pytest.raises(MeasureError, match=r"^stability: no machine of the matrix can be launched: -c 17: "):
        report_on(axis("vcpus", "17"))


def test_a_matrix_that_is_too_large_is_refused_before_any_work() -> None:
    axes = [axis("vcpus", "1-16"), axis("memory", "256M"), axis("kaslr-seed", "0-999"), axis("disks", "0,1")]
    with pytest.raises(MeasureError) as error:
        report_on(*axes)
    assert str(error.value) == (
        "stability: 16 vcpus x 1 memory x 1000 kaslr-seed x 2 disks are 32000 machines, up to "
        f"{MAX_ROWS} are computed; give fewer values"
    )


def test_a_profile_without_a_device_tree_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"^kvmtool-rel0-islet: the device tree of this kvmtool"):
        report_on(axis("vcpus", "1"), base=replace(BASE, profile="kvmtool-rel0-islet", islet=False))


def test_a_kernel_that_is_none_ends_it() -> None:
    with pytest.raises(FormatError):
        examine(BASE, BytesBlob("Image.gz", b"\x1f\x8b\x08" + bytes(100)), INITRD, matrix(BASE, {}))


def test_both_algorithms_side_by_side() -> None:
    report = report_on(axis("algorithms", "sha256,sha512"), axis("nics", "1,2"))
    assert {(row.algorithm, len(row.rim)) for row in report.rows} == {("sha256", 32), ("sha512", 64)}
    document = to_json(report)
    assert [row["registers"][0]["algorithm"] for row in document["rows"]] == ["sha256"] * 2 + ["sha512"] * 2


def test_progress_is_told_for_each_machine() -> None:
    told: list[tuple[int, int]] = []
    examine(
        BASE,
        KERNEL,
        INITRD,
        [axis("disks", "0-2")],
        alone=False,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_notes_are_those_of_the_matrix_each_once() -> None:
    report = report_on(axis("vcpus", "1,2"), axis("disks", "0-2"), base=replace(BASE, islet=False))
    assert [note.partition(":")[0] for note in report.notes] == ["-c 2"]


def test_json_has_every_row() -> None:
    document = json.loads(json.dumps(to_json(default_report())))
    assert document["profile"] == "kvmtool-eac5"
    assert document["machine"]["memory"] == 256 << 20
    assert len(document["rows"]) == 180
    row = next(
        row
        for row in document["rows"]
        if row["values"] == {"vcpus": "4", "memory": "256M", "disks": "0", "nics": "1", "consoles": "serial"}
    )
    assert row["registers"] == [
        {
            "register": "RIM",
            "algorithm": "sha256",
            "value": VECTORS["cpus-4"].rim.hex(),
            "established": "oracle",
        }
    ]
    assert [item["verdict"] for item in document["influence"]] == ["changes the RIM"] * 5


def test_the_table_has_a_line_for_each_rim() -> None:
    lines = render(default_report()).splitlines()
    at = lines.index(next(line for line in lines if line.startswith("vcpus  memory  consoles  disks/nics")))
    assert len(lines[at + 1 :]) == 84
    assert f"1      256M    serial    1/2 2/1 3/0  {VECTORS['disks-2'].rim.hex()}" in lines
    assert "180 machines, 180 of them possible, 84 different RIMs" in lines
    assert "several of disks, nics at once can make up for each other; see the table" in lines[9]


def test_long_lists_of_equal_machines_are_cut() -> None:
    report = report_on(axis("disks", "0-4"), axis("nics", "0-4"), axis("shares", "0-4"))
    assert " and 13 more" in render(report)  # 19 ways to have six devices in three kinds of up to four


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("vcpus", "1,2,4", ("1", "2", "4")),
        ("disks", "0-3,2", ("0", "1", "2", "3")),
        ("memory", "256,1g,1024M,512K,0", ("256M", "1G", "512K", "0")),
        ("memory", "5B,2T", ("5B", "2048G")),
        ("rng", "on,off", ("on", "off")),
        ("vcpus", " 1 , 02", ("1", "2")),
    ],
)
def test_values(name: str, text: str, values: tuple[str, ...]) -> None:
    assert axis(name, text).values == values


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vcpus", "", "--vcpus '': a value is missing; write values with commas between"),
        ("vcpus", "1,,2", "--vcpus '1,,2': a value is missing; write values with commas between"),
        ("vcpus", "2-1", "--vcpus '2-1': neither a number nor a range; write for example 1,2,4 or 0-4"),
        ("vcpus", "-1", "--vcpus '-1': neither a number nor a range; write for example 1,2,4 or 0-4"),
        ("vcpus", "²", "--vcpus '²': neither a number nor a range; write for example 1,2,4 or 0-4"),
        ("disks", "0-99999999999", "--disks '0-99999999999': more than 1000 values; give fewer"),
        (
            "memory",
            "1X",
            "--memory '1X': not a size; write for example 256M or 1G (units B K M G T P, by default M)",
        ),
        ("consoles", "seriel", "--consoles 'seriel': not known; did you mean 'serial'?"),
        ("rng", "yes", "--rng 'yes': not known; known: off, on"),
        ("nisc", "1", "stability: no option 'nisc' to vary; did you mean 'nics'?"),
    ],
)
def test_values_that_are_none(name: str, text: str, message: str) -> None:
    with pytest.raises(MeasureError) as error:
        axis(name, text)
    assert str(error.value) == message


@pytest.mark.parametrize("found", KINDS, ids=lambda kind: kind.name)
def test_every_option_takes_its_values_and_gives_them_back(found: AxisKind) -> None:
    around = axis_around(found, BASE)
    assert found.value(BASE) in around.values
    assert found.apply(BASE, found.value(BASE)) is BASE
    assert found.words("x", ",".join(around.values)) == around.values
    for value in around.values:
        if found.name != "parameters":
            assert found.value(found.apply(BASE, value)) == value


def test_devices_that_are_there_stay() -> None:
    nics = find_kind("nics")
    own = KvmtoolNetwork(options="tapif=mine")
    machine = replace(BASE, networks=(own,))
    assert nics.apply(machine, "3").networks == (
        own,
        KvmtoolNetwork(options="tapif=tap1"),
        KvmtoolNetwork(options="tapif=tap2"),
    )
    assert nics.apply(machine, "0").networks == ()
    shares = find_kind("shares")
    assert shares.apply(replace(BASE, shares=("/a,a",)), "2").shares == ("/a,a", "/share1,share1")


def test_mpidrs_keep_the_number_of_vcpus() -> None:
    machine = replace(BASE, vcpus=2, mpidrs=(0, 0x100))
    assert matrix(machine, {})[0].values == ("2",)


def test_a_number_of_devices_that_nobody_has_is_a_refused_row() -> None:
    report = report_on(axis("nics", "1,99999999999"))
    assert report.rows[1] == Row(
        values=("99999999999",), algorithm="sha256", refused="-n: 99999999999 devices; give fewer"
    )


@pytest.mark.parametrize("found", KINDS, ids=lambda kind: kind.name)
def test_numbers_beyond_every_field_are_refused_rows(found: AxisKind) -> None:
    if found.words not in (numbers, sizes):
        return
    huge = "99999999999999999999" if found.words is numbers else "999999999999999999P"
    report = report_on(Axis(kind=found, values=(found.value(BASE), huge)))
    own, other = report.rows
    assert own.rim == VECTORS["cpus-1"].rim
    assert other.refused
