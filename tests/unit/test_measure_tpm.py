from __future__ import annotations

import hashlib

import pytest

from recipes.errors import MeasureError
from recipes.formats.eventlog import Event, EventLog, EventType, algorithm
from recipes.measure import tpm
from recipes.measure.tpm import PcrBank
from recipes.measure.trace import ALL_ALGORITHMS, HashAlgorithm, Measured, Step, Trace, measured

SHA1, SHA256 = algorithm("sha1"), algorithm("sha256")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def step(digest: bytes, count: int = 1) -> Step:
    return Step(
        register="PCR4",
        operation="EV_IPL",
        digests={HashAlgorithm.SHA256: digest},
        size=1,
        source="x",
        count=count,
    )


@pytest.mark.parametrize("index", range(24))
@pytest.mark.parametrize("kind", ALL_ALGORITHMS)
def test_bank_starts_as_after_startup(index: int, kind: HashAlgorithm) -> None:
    expected = (b"\xff" if index in (17, 18, 19, 20, 21, 22) else b"\0") * kind.size
    assert PcrBank(kind).value(index) == expected


def test_bank_extends_one_register() -> None:
    bank = PcrBank(HashAlgorithm.SHA256)
    bank.extend(11, sha256(b"a"))
    bank.extend(11, sha256(b"b"))
    assert bank.value(11) == sha256(sha256(bytes(32) + sha256(b"a")) + sha256(b"b"))
    assert bank.value(12) == bytes(32)


def test_startup_locality_is_in_pcr_0_alone() -> None:
    bank = PcrBank(HashAlgorithm.SHA1, startup_locality=3)
    assert bank.value(0) == bytes(19) + b"\x03"
    assert bank.value(1) == bytes(20)


@pytest.mark.parametrize("index", [-1, 24])
def test_bank_refuses_other_registers(index: int) -> None:
    bank = PcrBank(HashAlgorithm.SHA256)
    message = f"PCR {index}: there is no such register; use 0 to 23"
    for use in (lambda: bank.value(index), lambda: bank.extend(index, bytes(32))):
        with pytest.raises(MeasureError) as caught:
            use()
        assert str(caught.value) == message


def test_bank_refuses_digest_of_another_bank() -> None:
    with pytest.raises(MeasureError) as caught:
        PcrBank(HashAlgorithm.SHA256).extend(7, bytes(20))
    expected = "PCR7: sha256 digest of 20 bytes, expected 32; take the digest of the bank that is extended"
    assert str(caught.value) == expected


def test_fold_counts_equal_operations() -> None:
    digest = sha256(b"x")
    once = Trace("PCR4", (step(digest),) * 3)
    assert tpm.fold(Trace("PCR4", (step(digest, count=3),)), HashAlgorithm.SHA256) == tpm.fold(
        once, HashAlgorithm.SHA256
    )


def test_fold_of_nothing_is_the_initial_value() -> None:
    assert tpm.fold(Trace("PCR8", ()), HashAlgorithm.SHA384) == bytes(48)
    assert tpm.fold(Trace("PCR17", ()), HashAlgorithm.SHA1, b"\xff" * 20) == b"\xff" * 20


def test_fold_of_initial_value() -> None:
    value = tpm.fold(Trace("PCR0", (step(bytes(32)),)), HashAlgorithm.SHA256, bytes(31) + b"\x04")
    assert value == sha256(bytes(31) + b"\x04" + bytes(32))


def test_fold_names_the_missing_bank() -> None:
    with pytest.raises(MeasureError) as caught:
        tpm.fold(Trace("PCR4", (step(bytes(32)),)), HashAlgorithm.SHA1)
    assert str(caught.value) == "PCR4: EV_IPL of x has no sha1 digest; fold one of its banks"


def test_traces_group_in_register_order() -> None:
    steps = [
        tpm.event(index, EventType.EV_IPL, measured(bytes([index])), source=str(number))
        for number, index in enumerate((11, 4, 2, 11))
    ]
    found = tpm.traces(steps)
    assert [trace.register for trace in found] == ["PCR2", "PCR4", "PCR11"]
    assert [item.source for item in found[2].steps] == ["0", "3"]


def log(*events: Event, locality: int = 0) -> EventLog:
    return EventLog((SHA1, SHA256), events, locality)


def event(pcr: int, kind: int, data: bytes) -> Event:
    digests = {"sha1": hashlib.sha1(data).digest(), "sha256": sha256(data)}
    return Event(pcr, kind, digests, data, 0x20)


def test_replay_leaves_out_events_without_action() -> None:
    values = tpm.replay(
        log(event(0, EventType.EV_NO_ACTION, b"note"), event(0, EventType.EV_POST_CODE, b"a"))
    )
    assert values["sha256", 0] == sha256(bytes(32) + sha256(b"a"))
    assert values["sha1", 0] == hashlib.sha1(bytes(20) + hashlib.sha1(b"a").digest()).digest()
    assert sorted({bank for bank, _ in values}) == ["sha1", "sha256"]
    assert values["sha256", 22] == b"\xff" * 32


def test_replay_starts_at_the_locality() -> None:
    values = tpm.replay(log(event(0, EventType.EV_POST_CODE, b"a"), locality=3))
    assert values["sha256", 0] == sha256(bytes(31) + b"\x03" + sha256(b"a"))
    assert values["sha256", 1] == bytes(32)


def test_replay_refuses_events_without_a_bank() -> None:
    broken = Event(4, EventType.EV_IPL, {"sha1": bytes(20)}, b"")
    with pytest.raises(MeasureError, match="PCR4: sha256 digest of 0 bytes, expected 32"):
        tpm.replay(log(broken))


def test_event_steps_keep_order_and_digests() -> None:
    steps = tpm.event_steps(
        log(
            event(0, EventType.EV_NO_ACTION, b"note"),
            event(4, EventType.EV_EFI_ACTION, b"act"),
            event(7, 0x77, b""),
        )
    )
    assert [(item.register, item.operation) for item in steps] == [
        ("PCR4", "EV_EFI_ACTION"),
        ("PCR7", "0x00000077"),
    ]
    assert steps[0].digests[HashAlgorithm.SHA256] == sha256(b"act")
    assert (steps[0].source, steps[0].size) == ("event log offset 0x20", 3)


def test_extend_command_is_the_specified_bytes() -> None:
    # TPM_ST_SESSIONS, size, TPM_CC_PCR_Extend, handle, 9 bytes of session with TPM_RS_PW, one SHA-256 digest.
    expected = (
        "8002 00000041 00000182 0000000b 00000009 40000009 0000 00 0000 00000001 000b" + "ab" * 32
    ).replace(" ", "")
    assert tpm.pcr_extend_command(11, b"\xab" * 32, HashAlgorithm.SHA256).hex() == expected


@pytest.mark.parametrize(
    ("kind", "number"),
    [(HashAlgorithm.SHA1, "0004"), (HashAlgorithm.SHA384, "000c"), (HashAlgorithm.SHA512, "000d")],
)
def test_extend_command_of_other_banks(kind: HashAlgorithm, number: str) -> None:
    command = tpm.pcr_extend_command(15, bytes(kind.size), kind)
    assert int.from_bytes(command[2:6], "big") == len(command)
    assert command.hex().endswith(f"00000001{number}" + "00" * kind.size)


def test_extend_command_refuses_what_a_tpm_refuses() -> None:
    with pytest.raises(MeasureError, match="PCR11: sha256 digest of 20 bytes, expected 32"):
        tpm.pcr_extend_command(11, bytes(20), HashAlgorithm.SHA256)
    with pytest.raises(MeasureError, match="PCR 24: there is no such register"):
        tpm.pcr_extend_command(24, bytes(32), HashAlgorithm.SHA256)


@pytest.mark.parametrize("size", [0, 5, (1 << 20) - 1, 1 << 20])
def test_measured_parts_are_one_message(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    found = measured(data[: size // 3], memoryview(data)[size // 3 :])
    expected = {each: hashlib.new(each.value, data).digest() for each in ALL_ALGORITHMS}
    assert found == Measured(expected, size)
