from __future__ import annotations

import hashlib
from typing import Any

import pytest

from recipes.errors import MeasureError
from recipes.formats.tpm2 import Alg, PcrSelection
from recipes.formats.tpm2_public import ENDORSEMENT_POLICY
from recipes.measure.tpm_policy import (
    RH_ENDORSEMENT,
    Operation,
    PcrValue,
    PolicySession,
    RollbackLimit,
    pcr_digest,
    pcr_selections,
)
from recipes.measure.trace import HashAlgorithm
from tests.unit.tpm2_vectors import RECORD, field, pcr_values

SHA1, SHA256, SHA384 = HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384
POLICIES = RECORD["policies"]
OPERATIONS = {"ule": Operation.UNSIGNED_LE, "eq": Operation.EQ}


def replayed(row: dict[str, Any]) -> bytes:
    session = PolicySession(HashAlgorithm(row["session"]))
    match row["command"]:
        case "pcr":
            return session.policy_pcr(pcr_values(row["pcrs"]))
        case "authorize":
            return session.policy_authorize(field("external-rsa", "name"), bytes.fromhex(row["reference"]))
        case "or":
            return session.policy_or([bytes.fromhex(each) for each in row["branches"]])
        case "nv":
            name = bytes.fromhex(RECORD["counter"]["written"])
            operand = bytes.fromhex(row["operand"])
            return session.policy_nv(name, operand, OPERATIONS[row["operation"]], row["offset"])
        case "secret":
            return session.policy_secret(RH_ENDORSEMENT)
        case "authvalue":
            return session.policy_auth_value()
        case "unseal":
            return session.policy_command_code(0x15E)
    raise ValueError(row["command"])


@pytest.mark.parametrize("row", POLICIES, ids=[f"{row['command']}-{row['session']}" for row in POLICIES])
def test_digests_of_a_tpm(row: dict[str, Any]) -> None:
    assert replayed(row).hex() == row["digest"]


def test_every_command_is_in_the_record() -> None:
    commands = {(row["command"], row["session"]) for row in POLICIES}
    assert len(commands) == 14
    assert len({row["digest"] for row in POLICIES}) == len(POLICIES)


def test_policy_of_endorsement_keys() -> None:
    assert PolicySession().policy_secret(RH_ENDORSEMENT) == ENDORSEMENT_POLICY


def test_the_formula_of_policy_pcr() -> None:
    value = PcrValue(SHA256, 11, bytes(range(32)))
    selection = bytes.fromhex("00000001000b03000800")
    values = hashlib.sha256(value.value).digest()
    expected = hashlib.sha256(bytes(32) + bytes.fromhex("0000017f") + selection + values).digest()
    session = PolicySession()
    assert session.policy_pcr([value]) == session.digest == expected
    again = hashlib.sha256(expected + bytes.fromhex("0000017f") + selection + values).digest()
    assert session.policy_pcr([value]) == again
    assert PolicySession(digest=expected).policy_pcr([value]) == again


def test_policy_authorize_forgets_what_was_before() -> None:
    name = field("external-rsa", "name")
    session = PolicySession()
    session.policy_auth_value()
    assert session.policy_authorize(name) == PolicySession().policy_authorize(name)
    assert PolicySession().policy_authorize(name, b"x") != session.digest


def test_policy_or_keeps_the_session_in_a_branch() -> None:
    first, second = (bytes([number]) * 32 for number in (1, 2))
    fresh = PolicySession().policy_or([first, second])
    assert PolicySession(digest=first).policy_or([first, second]) == fresh
    assert PolicySession(digest=second).policy_or([first, second]) == fresh
    assert PolicySession().policy_or([second, first]) != fresh
    with pytest.raises(MeasureError) as caught:
        PolicySession(digest=bytes([3]) * 32).policy_or([first, second])
    expected = (
        f"PolicyOR: the session stands at {'03' * 32}, which is no branch; start a new session, or list it"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize("branches", [[], [bytes(32)], [bytes(32)] * 9, [bytes(32), bytes(48)]])
def test_policy_or_takes_two_to_eight(branches: list[bytes]) -> None:
    with pytest.raises(MeasureError, match=r"PolicyOR: branches of .* bytes, expected 2 to 8 of 32"):
        PolicySession().policy_or(branches)


def test_selections_of_values() -> None:
    values = [
        PcrValue(SHA384, 11, bytes(48)),
        PcrValue(SHA256, 7, b"\7" * 32),
        PcrValue(SHA256, 4, b"\4" * 32),
    ]
    assert pcr_selections(values) == (PcrSelection(Alg.SHA384, (11,)), PcrSelection(Alg.SHA256, (4, 7)))
    expected = hashlib.sha384(bytes(48) + b"\4" * 32 + b"\7" * 32).digest()
    assert pcr_digest(values, SHA384) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "PCR values: there are none, so they bind nothing; name at least one register"),
        ([PcrValue(SHA256, 24, bytes(32))], "PCR 24: there is no such register; use 0 to 23"),
        ([PcrValue(SHA256, -1, bytes(32))], "PCR -1: there is no such register; use 0 to 23"),
        ([PcrValue(SHA256, 7, bytes(32))] * 2, "PCR7 sha256: there twice; give one value for it"),
        (
            [PcrValue(SHA384, 7, bytes(32))],
            "PCR7 sha384: value of 32 bytes, expected 48; take it from that bank",
        ),
    ],
)
def test_values_that_bind_nothing(values: list[PcrValue], message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        PolicySession().policy_pcr(values)
    assert str(caught.value) == message
    with pytest.raises(MeasureError) as caught:
        pcr_digest(values, SHA256)
    assert str(caught.value) == message


def test_sessions_and_operands_are_checked() -> None:
    with pytest.raises(MeasureError) as caught:
        PolicySession(SHA384, bytes(32))
    expected = "policy session: digest of 32 bytes, expected 48; take that of a sha384 session"
    assert str(caught.value) == expected
    for operand, offset in ((b"", 0), (b"x", 65536), (b"x", -1)):
        with pytest.raises(MeasureError, match=r"compare at least one byte, at 0 to 65535"):
            PolicySession().policy_nv(b"", operand, Operation.EQ, offset)


@pytest.mark.parametrize("release", [0, -1, 1 << 64])
def test_releases_that_no_counter_shows(release: int) -> None:
    with pytest.raises(MeasureError) as caught:
        RollbackLimit(counter_name=bytes(34), release=release).operand()
    assert str(caught.value) == f"release {release}: no NV counter shows it; use 1 to 2**64-1"
