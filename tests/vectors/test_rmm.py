"""Realm registers after each call, and RTT entries of ranges, as other programs computed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.machine import RecPolicy
from recipes.measure.granules import BytesBlob
from recipes.measure.realm_launch import (
    CreateRec,
    InitRipas,
    Operation,
    PopulateData,
    PopulateUnmeasured,
    RealmCreate,
    Replayer,
)
from recipes.measure.ripas import block_sizes, split_blocks
from recipes.measure.rmm import Realm, RealmParams, RecParams, RmmVersion
from recipes.measure.trace import HashAlgorithm

RMM = Path(__file__).parent / "rmm"
VECTORS: dict[str, Any] = {
    f"{vector['rmm']} {vector['algo']} {vector['name']}": vector
    for vector in json.loads((RMM / "tfrmm_measurement.json").read_text())["vectors"]
}
RIM_VECTORS = [name for name, vector in VECTORS.items() if vector["steps"][0]["op"] == "realm_create"]
BLOCKS = json.loads((RMM / "ripas_blocks.json").read_text())["cases"]
PARAMS = ("flags", "s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs")


def params(step: dict[str, Any]) -> RealmParams:
    return RealmParams(**{name: step[name] for name in PARAMS})


def rec(step: dict[str, Any]) -> RecParams:
    return RecParams(flags=step["flags"], pc=step["pc"], gprs=tuple(step["gprs"]))


def granule(content: dict[str, Any]) -> bytes:
    if "hex" in content:
        return bytes.fromhex(content["hex"]).ljust(4096, b"\0")
    if "fill" in content:
        return bytes([content["fill"]]) * 4096
    return bytes((content["inc"] + index) & 0xFF for index in range(4096))


def call(realm: Realm, step: dict[str, Any], *, bulk: bool) -> bytes:
    """Makes the step's call and gives the register it extends; ``bulk`` takes the way of many granules."""
    index: int = step.get("index", 0)
    match step["op"]:
        case "realm_create":
            realm.realm_create(params(step))
        case "init_ripas" if bulk:
            realm.rtt_init_ripas_many(step["base"], step["top"], step["top"] - step["base"])
        case "init_ripas":
            realm.rtt_init_ripas(step["base"], step["top"])
        case "data" if not step["flags"]:
            realm.data_create_unmeasured(step["ipa"])
        case "data" if bulk:
            realm.data_create_many(step["ipa"], realm.algorithm.digest(granule(step["content"])))
        case "data":
            realm.data_create(step["ipa"], granule(step["content"]))
        case "rec":
            realm.rec_create(rec(step))
        case "rem_extend":
            realm.rem_extend(index, bytes.fromhex(step["value_hex"]))
        case unknown:
            raise ValueError(unknown)
    return realm.rems[index - 1] if index else realm.rim


def check_calls(name: str, *, bulk: bool = False) -> None:
    """Every register after every call of a sequence."""
    vector = VECTORS[name]
    realm = Realm(HashAlgorithm(vector["algo"]), RmmVersion(vector["rmm"]))
    for number, step in enumerate(vector["steps"]):
        assert call(realm, step, bulk=bulk).hex() == step["after"], (number, step["op"])


def operation(step: dict[str, Any]) -> Operation:
    match step["op"]:
        case "realm_create":
            return RealmCreate(params=params(step), source="")
        case "init_ripas":
            base, top = step["base"], step["top"]
            return InitRipas(base=base, top=top, source="", blocks=(top - base,))
        case "data" if step["flags"]:
            content = granule(step["content"])
            return PopulateData(address=step["ipa"], blob=BytesBlob("data", content), source="")
        case "data":
            return PopulateUnmeasured(address=step["ipa"], size=4096, source="")
        case "rec":
            return CreateRec(rec=rec(step), source="", policy=RecPolicy.RUNNABLE)
        case unknown:
            raise ValueError(unknown)


def check_replay(name: str) -> None:
    """The launch made of the same calls: the RIM, and the register that each step of the trace tells."""
    vector = VECTORS[name]
    replayer = Replayer(HashAlgorithm(vector["algo"]), RmmVersion(vector["rmm"]))
    operations = [operation(step) for step in vector["steps"]]
    for _ in range(2):  # and again from memory
        replay = replayer.replay(operations)
        registers = [step.after.hex() for step in replay.trace.steps]
        assert registers == [step["after"] for step in vector["steps"]]
        assert replay.rim.hex() == vector["steps"][-1]["after"]


def check_blocks(case: dict[str, Any]) -> None:
    base, s2sz = int(case["base"], 16), case["s2sz"]
    top = base + int(case["size"], 16)
    assert len(block_sizes(s2sz)) == case["levels"]
    runs = split_blocks(base, top, block_sizes(s2sz))
    assert [[hex(run.block), run.count] for run in runs] == case["blocks"]
    assert [run.base for run in runs] + [top] == [base] + [run.top for run in runs]


@pytest.mark.parametrize("name", VECTORS)
def test_every_call_one_by_one(name: str) -> None:
    check_calls(name)


@pytest.mark.parametrize("name", VECTORS)
def test_every_call_in_bulk(name: str) -> None:
    check_calls(name, bulk=True)


@pytest.mark.parametrize("name", RIM_VECTORS)
def test_every_launch(name: str) -> None:
    check_replay(name)


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: "{base}+{size} s2sz {s2sz}".format(**case))
def test_blocks(case: dict[str, Any]) -> None:
    check_blocks(case)


def test_nothing_is_left_out() -> None:
    found = {(vector["rmm"], vector["algo"]) for vector in VECTORS.values()}
    assert found == {
        ("rmm-1.0", "sha256"),
        ("rmm-1.0", "sha512"),
        ("rmm-2.0", "sha256"),
        ("rmm-2.0", "sha384"),
        ("rmm-2.0", "sha512"),
    }
    assert len(VECTORS) == 43
    assert len(BLOCKS) == 12
