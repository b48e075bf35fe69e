from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.machine import Accelerator, QemuMachine, TpmInterface, UefiFirmware
from recipes.vmm.models import DATA, find_firmware, known_firmware, load_firmware
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
LEARNT: dict[str, Any] = json.loads((VECTORS / "pcr" / "firmware.json").read_text())
BOOTED = ("q35-512m-1cpu", "q35-512m-1cpu-secureboot", "q35-512m-1cpu-ovmf2022")


def recorded(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((VECTORS / "pcr" / f"{name}.json").read_text())
    return result


@pytest.mark.parametrize("case", BOOTED)
def test_facts_agree_with_a_recorded_boot(case: str) -> None:
    record = recorded(case)
    firmware = record["firmware"]
    facts = find_firmware(known_firmware(), bytes.fromhex(firmware["code_sha256"]))
    assert facts is not None
    assert firmware["package"].startswith(facts.package)
    assert (facts.file, facts.crtm_version) == (firmware["code_file"], firmware["crtm_version"])
    events = [event["type"] for event in record["events"]]
    assert facts.measures_acpi == ("EV_PLATFORM_CONFIG_FLAGS" in events)
    assert facts.measures_smbios == ("EV_EFI_HANDOFF_TABLES" in events)
    made = [name for name in record["boot_vars"] if name[4:].isdigit()]
    assert len(facts.boot_options) == len(made)
    for name, option in zip(made, facts.boot_options, strict=True):
        data = bytes.fromhex(record["boot_vars"][name])
        assert int.from_bytes(data[:4], "little") == option.attributes
        text = (option.description + "\0").encode("utf-16-le")
        assert data[6:].startswith(text)
        if option.volume and option.file:
            path = b"\4\7\x14\0" + option.volume.bytes_le + b"\4\6\x14\0" + option.file.bytes_le
            assert data[6 + len(text) :] == path + b"\x7f\xff\4\0"


@pytest.mark.parametrize("name", [name for name in sorted(LEARNT) if name.startswith("ovmf")])
def test_words_are_those_of_the_dumps(name: str) -> None:
    facts = find_firmware(known_firmware(), bytes.fromhex(LEARNT[name]["code_sha256"]))
    assert facts is not None
    assert facts.name == name
    for key, words in LEARNT[name]["peifv_runtime_patch"].items():
        chipset, _, memory = key.partition("-")
        machine = replace(
            MACHINE,
            type={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}[chipset],
            memory=int(memory[:-1] or 512) << 20 if memory else 4 << 30,
        )
        found = facts.words_for(machine)
        assert found == tuple((int(offset, 16), bytes.fromhex(word)) for offset, word in words)


def test_words_of_builds_that_look_at_the_processors_are_not_taken_for_other_machines() -> None:
    by_file = {facts.file: facts for facts in known_firmware() if "2025" in facts.package}
    secure, plain = by_file["OVMF_CODE_4M.secboot.fd"], by_file["OVMF_CODE_4M.fd"]
    for changed in (
        replace(MACHINE, vcpus=2),
        replace(MACHINE, cpu="EPYC"),
        replace(MACHINE, memory=1 << 30),
        replace(MACHINE, type="pc-i440fx-7.2"),
    ):
        assert secure.words_for(changed) is None
        assert plain.words_for(changed) is not None
    assert secure.words_for(replace(MACHINE, tpm=TpmInterface.CRB)) is not None


def test_established_labels_are_per_place() -> None:
    facts = next(facts for facts in known_firmware() if "secboot" in facts.file)
    assert ("qemu 7.2 tcg pc-q35-7.2", "PCR0", "learnt") in facts.established
    assert ("qemu 7.2 tcg pc-q35-7.2", "PCR7", "booted") in facts.established
    assert {place for place, _, _ in facts.established} == {"qemu 7.2 tcg pc-q35-7.2"}


def test_labels_name_places_of_recorded_boots() -> None:
    """The unversioned types of the records are those of the QEMU that ran."""
    types = {"q35": "pc-q35", "pc": "pc-i440fx"}
    found = set()
    for path in sorted((VECTORS / "pcr").glob("*cpu*.json")):
        record = json.loads(path.read_text())
        if path.name.endswith(".inputs.json") or path.name.startswith("aarch64"):
            continue
        version = ".".join(record["qemu"]["version"].split(".")[:2])
        words = record["qemu"]["cmdline"].split()
        kind = types[words[words.index("-machine") + 1].partition(",")[0]]
        found.add((record["firmware"]["code_sha256"], f"qemu {version} tcg {kind}-{version}"))
    told = {
        (facts.code_sha256.hex(), place) for facts in known_firmware() for place, _, _ in facts.established
    }
    assert told == found


def test_an_unknown_build_has_no_facts() -> None:
    assert find_firmware(known_firmware(), bytes(32)) is None


def test_guids_and_layout() -> None:
    facts = known_firmware()[0]
    assert facts.boot_options[0].volume == uuid.UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
    assert [known.layout.pciexbar for known in known_firmware()] == [0xB0000000, 0xE0000000, 0xE0000000]


def edit(*path: str | int, value: object) -> Callable[[Any], None]:
    def apply(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return apply


F = ("firmware", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(*F, "smm", value=1), "f: firmware 1: 'smm' is neither true nor false"),
        (edit(*F, "x", value=1), "f: firmware 1: 'x' is unknown; remove it or use a newer version"),
        (
            edit(*F, "secure_boot_variable", value="off"),
            "f: firmware 1: 'secure_boot_variable' is 'off'; use one of absent, present",
        ),
        (
            edit(*F, "layout", "pciexbar", value="B0000000"),
            "f: firmware 1: layout: 'pciexbar' is not 16 lower-case hexadecimal digits",
        ),
        (
            edit(*F, "boot_options", 0, "attributes", value=-1),
            "f: firmware 1: boot_options 1: 'attributes' is not a whole number from 0 to 2**64-1",
        ),
        (
            edit(*F, "boot_options", 0, "application", "file", value="x"),
            "f: firmware 1: boot_options 1: application: 'file' is no GUID in lower case with hyphens: 'x'",
        ),
        (
            edit(*F, "patches", 0, "chipset", value="virt"),
            "f: firmware 1: patches 1: 'chipset' is 'virt'; use one of pc, q35",
        ),
        (
            edit(*F, "established", "qemu 7.2 tcg pc-q35-7.2", "PCR0", value="sure"),
            (
                "f: firmware 1: established: qemu 7.2 tcg pc-q35-7.2: "
                "'PCR0' is 'sure'; use one of booted, learnt, oracle, spec-only"
            ),
        ),
        (
            edit("firmware", value=[json.loads(DATA.read_text())["firmware"][0]] * 2),
            "f: two builds have the same code_sha256; keep one",
        ),
    ],
)
def test_bad_facts(change: Callable[[Any], None], message: str) -> None:
    document = json.loads(DATA.read_text())
    change(document)
    with pytest.raises(FormatError) as caught:
        load_firmware(json.dumps(document), "f")
    assert str(caught.value) == message


TEXT = json.dumps({"schema": 1, "firmware": json.loads(DATA.read_text())["firmware"][1:2]})


@given(st.integers(0, len(TEXT) - 1), st.sampled_from('{}[]",:0z\\ '), st.integers(0, 5))
@settings(max_examples=150)
def test_mutations_give_facts_or_a_format_error(at: int, character: str, removed: int) -> None:
    with contextlib.suppress(FormatError):
        load_firmware(TEXT[:at] + character + TEXT[at + removed :], "f")
