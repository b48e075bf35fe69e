"""Captures of ACPI files for stage0: written, read, found and refused."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError
from recipes.vmm.stage0_captures import Stage0Capture, dump_captures, find, load_captures, merge
from tests.unit import stage0_samples as samples

HOW = "goldsmith capture acpi -o FILE -- qemu-system-x86_64 ..."
GIVE = f"; give a file that was written by {HOW}"
MACHINE = samples.machine(devices=("virtio-net-pci",))
VERSIONED = replace(MACHINE, type="pc-q35-9.2")


def sample(**changes: Any) -> Stage0Capture:
    values: dict[str, Any] = {
        "qemu_version": "9.2.0",
        "package": "Debian 1:9.2.0",
        "aliases": ("q35",),
        "identity": VERSIONED.acpi_identity(),
        "stand_ins": ("a for b",),
        "table_loader": samples.acpi().table_loader,
        "rsdp": samples.RSDP,
        "tables": samples.TABLES,
    }
    return Stage0Capture(**values | changes)


CAPTURE = sample()
NEWER = sample(qemu_version="10.0.2", tables=b"newer")
SMALLER = sample(
    identity=replace(VERSIONED, memory=4_000_000 * 1024).acpi_identity(), further=(("etc/more", b"x"),)
)


def test_text_is_the_same_in_any_order_and_reads_back() -> None:
    text = dump_captures([CAPTURE, NEWER, SMALLER])
    assert text == dump_captures([SMALLER, NEWER, CAPTURE])
    assert set(load_captures(text, "c")) == {CAPTURE, NEWER, SMALLER}


def test_what_the_text_says() -> None:
    (entry,) = json.loads(dump_captures([CAPTURE]))["stage0"]
    assert (entry["qemu"], entry["package"], entry["aliases"]) == ("9.2.0", "Debian 1:9.2.0", ["q35"])
    assert entry["machine"]["type"] == "pc-q35-9.2"
    assert entry["machine"]["devices"] == ["virtio-net-pci"]
    assert not {"sev", "cmdline", "generation", "name"} & set(entry["machine"])
    assert [item["name"] for item in entry["files"]] == [
        "etc/table-loader",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
    ]
    assert zlib.decompress(base64.b64decode(entry["files"][1]["content"])) == samples.RSDP


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE,
        VERSIONED,
        replace(MACHINE, name="other", cmdline="other", sev=None),
    ],
    ids=["by its other name", "by its versioned name", "what no table depends on"],
)
def test_finding_the_capture_of_a_machine(machine: Any) -> None:
    assert find([SMALLER, CAPTURE], machine, qemu_version="9.2.0") is CAPTURE
    assert find([NEWER, CAPTURE], machine, qemu_version="9.2.0") is CAPTURE


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"vcpus": 3}, "vcpus 2, not 3"),
        ({"max_vcpus": 3}, "max_vcpus 2, not 3"),
        ({"memory": 8 << 30}, "memory 8192000000, not 8589934592"),
        ({"type": "pc-q35-9.1"}, "type pc-q35-9.2, not pc-q35-9.1"),
        ({"devices": ()}, "devices virtio-net-pci, not none"),
        ({"settings": (("smm", "on"),)}, "settings smm=off, not smm=on"),
        ({"amd": False}, "amd yes, not no"),
        ({"phys_bits": 39}, "phys_bits unknown, not 39"),
    ],
)
def test_another_machine_is_refused_by_what_differs(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(MeasureError) as caught:
        find([CAPTURE], replace(MACHINE, **changes), qemu_version="9.2.0")
    assert str(caught.value) == (
        f"sample: no ACPI tables of this machine are captured; capture them: {HOW}\n"
        f"    there: QEMU 9.2.0, pc-q35-9.2, kvm, 2 vCPUs, 8000000 KiB: {difference}"
    )


def test_the_nearest_captures_are_named_first_and_not_all_of_them() -> None:
    others = [
        sample(identity=replace(VERSIONED, vcpus=count, devices=()).acpi_identity()) for count in range(3, 12)
    ]
    with pytest.raises(MeasureError) as caught:
        find([*others, SMALLER], MACHINE, qemu_version="9.2.0")
    lines = str(caught.value).splitlines()
    assert lines[1] == (
        "    there: QEMU 9.2.0, pc-q35-9.2, kvm, 2 vCPUs, 4000000 KiB: memory 4096000000, not 8192000000"
    )
    assert len(lines) == 10
    assert lines[-1] == "    and 2 more"


def test_another_version_is_refused() -> None:
    with pytest.raises(MeasureError) as caught:
        find([CAPTURE, NEWER], MACHINE, qemu_version="9.1.0")
    assert str(caught.value) == (
        "sample: its ACPI tables are captured of QEMU 10.0.2, 9.2.0, not of 9.1.0; "
        f"capture with that QEMU: {HOW}"
    )


def test_a_new_capture_takes_the_place_of_the_old_one() -> None:
    again = replace(CAPTURE, tables=b"again")
    assert set(merge([CAPTURE, SMALLER], [again, NEWER])) == {again, SMALLER, NEWER}
    with pytest.raises(MeasureError) as caught:
        dump_captures([CAPTURE, again])
    assert str(caught.value) == (
        "captures: two of QEMU 9.2.0, pc-q35-9.2, kvm, 2 vCPUs, 8000000 KiB; keep one"
    )


def change(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(entry: dict[str, Any]) -> None:
        entry[key] = value

    return apply


def change_machine(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(entry: dict[str, Any]) -> None:
        entry["machine"][key] = value

    return apply


def no_such(key: str) -> str:
    return f"c: stage0 1: machine: {key!r} is no such value of a machine; capture again"


def change_file(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(entry: dict[str, Any]) -> None:
        entry["files"][1][key] = value

    return apply


FILES = (
    "'files' starts with etc/table-loader, etc/acpi/rsdp and etc/acpi/tables, and has each name once; "
    "capture again"
)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("qemu", 7), f"c: stage0 1: 'qemu' is not a string{GIVE}"),
        (change("package", "\x1b"), f"c: stage0 1: 'package' holds a character that is not printable{GIVE}"),
        (change("aliases", [1]), f"c: stage0 1: 'aliases' holds something that is no printable text{GIVE}"),
        (change("machine", "x"), f"c: stage0 1: machine: not a JSON object{GIVE}"),
        (change("machine", {}), "c: stage0 1: machine: 'accelerator' is missing; capture again"),
        (change_machine("a", 1), "c: stage0 1: machine: 'a' is unknown; remove it or use a newer version"),
        (change_machine("devices", [["x"]]), no_such("devices")),
        (change_machine("devices", "x"), no_such("devices")),
        (change_machine("settings", [["smm"]]), no_such("settings")),
        (change_machine("settings", {}), no_such("settings")),
        (change_machine("type", "\x1b"), no_such("type")),
        (change_machine("accelerator", None), no_such("accelerator")),
        (change_machine("amd", 1), no_such("amd")),
        (change_machine("memory", True), no_such("memory")),
        (change_machine("vcpus", 0), no_such("vcpus")),
        (change_machine("max_vcpus", 1 << 64), no_such("max_vcpus")),
        (change_machine("phys_bits", "40"), no_such("phys_bits")),
        (change("extra", 7), "c: stage0 1: 'extra' is unknown; remove it or use a newer version"),
        (change("files", []), f"c: stage0 1: {FILES}"),
        (change_file("name", "etc/acpi/tables"), f"c: stage0 1: {FILES}"),
        (
            change_file("content", "!"),
            (
                "c: stage0 1: files 2: 'content' is no base64 of a zlib stream: Only base64 data is allowed"
                f"{GIVE}"
            ),
        ),
        (
            change_file("sha256", "00" * 32),
            "c: stage0 1: files 2: 'content' does not have its digest; capture again",
        ),
    ],
)
def test_bad_captures(edit: Callable[[dict[str, Any]], None], message: str) -> None:
    document = json.loads(dump_captures([CAPTURE]))
    edit(document["stage0"][0])
    with pytest.raises(FormatError) as caught:
        load_captures(json.dumps(document), "c")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"c: no JSON: Expecting value: line 1 column 1 (char 0){GIVE}"),
        ('{"schema": 2}', "c: schema 2; this version reads schema 1"),
        ("[]", f"c: not a JSON object{GIVE}"),
        (
            '{"schema": ' + "7" * 5000 + "}",
            f"c: no JSON: a number has 5000 digits, at most 100 are read{GIVE}",
        ),
        (
            '{"schema": 1, "captures": []}',
            (
                "c: captures for UEFI firmware, which sets the chipset up before it reads the tables; "
                f"capture for stage0: {HOW}"
            ),
        ),
        ('{"schema": 1}', f"c: 'stage0' is missing{GIVE}"),
        ('{"schema": 1, "stage0": {}}', f"c: 'stage0' is not a list{GIVE}"),
    ],
)
def test_bad_documents(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        load_captures(text, "c")
    assert str(caught.value) == message


def test_two_captures_of_one_machine_are_refused() -> None:
    document = json.loads(dump_captures([CAPTURE]))
    document["stage0"] *= 2
    with pytest.raises(FormatError) as caught:
        load_captures(json.dumps(document), "c")
    assert str(caught.value) == "c: two captures are of the same QEMU and machine; capture again"


TEXT = dump_captures([CAPTURE, SMALLER])


@settings(max_examples=150)
@given(st.integers(0, len(TEXT) - 1), st.sampled_from('"{}[],:0x\\ ÿ'), st.integers(0, 40))
def test_mutations_give_captures_or_a_format_error(at: int, character: str, removed: int) -> None:
    with contextlib.suppress(FormatError):
        found = load_captures(TEXT[:at] + character + TEXT[at + removed :], "c")
        assert all(str(item) for item in found)
        # What is read can always be compared with a machine, and never fails otherwise.
        with contextlib.suppress(MeasureError):
            find(found, MACHINE, qemu_version="9.2.0")
