from __future__ import annotations

import base64
import contextlib
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError, MeasureError
from recipes.machine import Accelerator, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.captures import AcpiCapture, dump_captures, find, load_captures
from tests.support import VECTORS

MACHINE = QemuMachine(
    name="small",
    type="pc-q35-7.2",
    accelerator=Accelerator.TCG,
    cpu="qemu64,-cx16",
    vcpus=1,
    memory=512 << 20,
    firmware=UefiFirmware(package="ovmf", code="CODE.fd", vars="VARS.fd"),
    tpm=TpmInterface.TIS,
)
RECORDED = {
    name: base64.b64decode(text)
    for name, text in json.loads(
        gzip.decompress((VECTORS / "pcr" / "q35-512m-1cpu.fwcfg.json.gz").read_bytes())
    ).items()
}
CODE = bytes(range(32))
CAPTURE = AcpiCapture(
    qemu_version="7.2.22",
    identity=MACHINE.identity(),
    code_sha256=CODE,
    table_loader=RECORDED["etc/table-loader"],
    rsdp=RECORDED["etc/acpi/rsdp"],
    tables=RECORDED["etc/acpi/tables"],
)
OTHERS = (
    replace(CAPTURE, qemu_version="8.0.0", tables=b"x"),
    replace(
        CAPTURE, identity=replace(MACHINE, vcpus=2).identity(), firmware_words=((0x6E50, b"\x08\x06\0\0"),)
    ),
    replace(CAPTURE, code_sha256=bytes(32), firmware_words=()),
)


def test_text_is_the_same_in_any_order_and_reads_back() -> None:
    text = dump_captures([CAPTURE, *OTHERS])
    assert text == dump_captures([*reversed(OTHERS), CAPTURE])
    assert set(load_captures(text, "c")) == {CAPTURE, *OTHERS}
    assert len(text) < 40_000


def test_what_the_text_says() -> None:
    (entry,) = json.loads(dump_captures([CAPTURE]))["captures"]
    assert entry["qemu"] == "7.2.22"
    assert entry["machine"]["firmware"]["code"] == "CODE.fd"
    assert entry["firmware"] == "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    assert entry["firmware_words"] is None
    # sha256sum of the three files a booted guest read
    record = json.loads((VECTORS / "pcr" / "q35-512m-1cpu.json").read_text())
    measured = [event["sha256"] for event in record["events"] if event["pcr"] == 1]
    assert [entry["sha256"][name] for name in ("table_loader", "rsdp", "tables")] == [
        measured[0],
        measured[1],
        measured[3],
    ]


def test_finding_the_capture_of_a_machine() -> None:
    assert find([CAPTURE], MACHINE, code_sha256=CODE) is CAPTURE
    assert find([CAPTURE], replace(MACHINE, name="other"), code_sha256=CODE) is CAPTURE
    assert find([CAPTURE], replace(MACHINE, memory=1 << 30), code_sha256=CODE) is None
    assert find([CAPTURE], MACHINE, code_sha256=bytes(32)) is None
    assert find([CAPTURE], MACHINE, code_sha256=CODE, qemu_version="8.0.0") is None
    both = [CAPTURE, OTHERS[0]]
    assert find(both, MACHINE, code_sha256=CODE, qemu_version="8.0.0") is OTHERS[0]
    with pytest.raises(MeasureError) as caught:
        find(both, MACHINE, code_sha256=CODE)
    assert str(caught.value) == ("small: ACPI tables of QEMU 7.2.22, 8.0.0 are known; say which version runs")


def test_two_captures_of_one_machine_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"^captures: two of QEMU 7\.2\.22 for the machine \{"):
        dump_captures([CAPTURE, replace(CAPTURE, tables=b"")])
    document = json.loads(dump_captures([CAPTURE]))
    document["captures"] *= 2
    with pytest.raises(FormatError) as caught:
        load_captures(json.dumps(document), "c")
    assert str(caught.value) == (
        "c: two captures are of the same QEMU version, machine and firmware; run the update again"
    )


def change(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(entry: dict[str, Any]) -> None:
        entry[key] = value

    return apply


WORD = "not an offset such as 0x6e50 and eight hexadecimal digits"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("qemu", 7), "c: captures 1: 'qemu' is not a string"),
        (change("extra", 7), "c: captures 1: 'extra' is unknown; remove it or use a newer version"),
        (change("machine", "x"), "c: captures 1: machine: not a JSON object"),
        (change("firmware", "00"), "c: captures 1: 'firmware' is not 64 lower-case hexadecimal digits"),
        (change("sha256", {}), "c: captures 1: sha256: 'table_loader' is missing"),
        (
            change("rsdp", "!"),
            "c: captures 1: 'rsdp' is no base64 of a zlib stream: Only base64 data is allowed",
        ),
        (
            change("rsdp", "eJwDAAAAAAE="),
            "c: captures 1: 'rsdp' does not have its digest; run the update again",
        ),
        (
            change("rsdp", "eJwD"),
            "c: captures 1: 'rsdp' is no whole zlib stream of at most 16777216 bytes",
        ),
        (change("firmware_words", 1), "c: captures 1: 'firmware_words' is not a list"),
        (
            change("firmware_words", [["0x1", "00000000"]]),
            f"c: captures 1: 'firmware_words' holds ['0x1', '00000000'], {WORD}",
        ),
        (
            change("firmware_words", [["0x4", 1]]),
            f"c: captures 1: 'firmware_words' holds ['0x4', 1], {WORD}",
        ),
        (
            change("firmware_words", [["0x8", "00000000"], ["0x4", "00000000"]]),
            "c: captures 1: 'firmware_words': the offsets do not ascend",
        ),
    ],
)
def test_bad_captures(edit: Callable[[dict[str, Any]], None], message: str) -> None:
    document = json.loads(dump_captures([CAPTURE]))
    edit(document["captures"][0])
    with pytest.raises(FormatError) as caught:
        load_captures(json.dumps(document), "c")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c: no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "c: not a JSON object"),
        ("{}", "c: 'schema' is missing"),
        ('{"schema":true}', "c: 'schema' is not a whole number from 0 to 2**64-1"),
        ('{"schema":2}', "c: schema 2; this version reads schema 1"),
        ('{"schema":1,"schema":1}', "c: no JSON: a key is written twice in one object"),
        ('{"schema":1,"captures":{}}', "c: 'captures' is not a list"),
        ('{"schema":1,"captures":[7]}', "c: captures 1: not a JSON object"),
        ('{"schema":1,"captures":[],"x":0}', "c: 'x' is unknown; remove it or use a newer version"),
    ],
)
def test_bad_documents(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        load_captures(text, "c")
    assert str(caught.value) == message


def test_a_deeply_nested_document() -> None:
    with pytest.raises(FormatError, match=r"^c: no JSON: "):
        load_captures("[" * 200_000, "c")


def test_a_stream_that_inflates_without_end_is_cut_off() -> None:
    import zlib

    document = json.loads(dump_captures([CAPTURE]))
    document["captures"][0]["tables"] = base64.b64encode(zlib.compress(bytes((16 << 20) + 1))).decode()
    with pytest.raises(FormatError) as caught:
        load_captures(json.dumps(document), "c")
    assert str(caught.value) == ("c: captures 1: 'tables' is no whole zlib stream of at most 16777216 bytes")


SMALL = dump_captures(
    [replace(CAPTURE, table_loader=b"a", rsdp=b"b", tables=b"c", firmware_words=((4, b"abcd"),))]
)


@given(st.integers(0, len(SMALL) - 1), st.sampled_from('{}[]",:0z\\ '), st.integers(0, 3))
@settings(max_examples=150)
def test_mutations_give_captures_or_a_format_error(at: int, character: str, removed: int) -> None:
    with contextlib.suppress(FormatError):
        load_captures(SMALL[:at] + character + SMALL[at + removed :], "c")
