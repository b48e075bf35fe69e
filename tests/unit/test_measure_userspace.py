from __future__ import annotations

import contextlib
import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.eventlog import EventType
from recipes.measure import tpm, userspace
from recipes.measure.trace import HashAlgorithm, Trace, measured
from recipes.measure.userspace import LogDigest, MeasureLogRecord

# A record in the form that systemd 257 writes; the digest is that of the string.
DIGEST = {"hashAlg": "sha256", "digest": hashlib.sha256(b"sysinit").hexdigest()}
RECORD = {
    "pcr": 11,
    "digests": [DIGEST],
    "content_type": "systemd",
    "content": {
        "string": "sysinit",
        "bootId": "0123456789abcdef0123456789abcdef",
        "timestamp": 1,
        "eventType": "phase",
    },
}


def sequence(*records: object) -> bytes:
    return b"".join(b"\x1e" + json.dumps(record).encode() + b"\n" for record in records)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_phases_grow_one_after_the_other() -> None:
    boot = Trace("PCR11", (tpm.event(11, EventType.EV_IPL, measured(b"x"), source="x"),))
    value = sha256(bytes(32) + sha256(b"x"))
    for trace, phase in zip(
        userspace.phase_traces(boot), ("enter-initrd", "leave-initrd", "sysinit", "ready"), strict=True
    ):
        value = sha256(value + sha256(phase.encode()))
        assert trace.register == f"PCR11:{phase}"
        assert tpm.fold(trace, HashAlgorithm.SHA256) == value


def test_identities_are_strings() -> None:
    step = userspace.file_system_step("/var", ("ext4", "u", "l", "pu", "pt", "pl"))
    assert step.digests[HashAlgorithm.SHA256] == sha256(b"file-system:/var:ext4:u:l:pu:pt:pl")
    step = userspace.machine_id_step("ab" * 16)
    assert (step.register, step.digests[HashAlgorithm.SHA256]) == (
        "PCR15",
        sha256(b"machine-id:" + b"ab" * 16),
    )


def test_log_records() -> None:
    other = {"pcr": 15, "digests": [{"hashAlg": "sm3_256", "digest": "AB" * 32}, DIGEST]}
    assert userspace.parse_measure_log(sequence(RECORD, other), "log") == (
        MeasureLogRecord(11, (LogDigest("sha256", sha256(b"sysinit")),), "sysinit", "phase"),
        MeasureLogRecord(
            15, (LogDigest("sm3_256", b"\xab" * 32), LogDigest("sha256", sha256(b"sysinit"))), "", ""
        ),
    )


def test_empty_log() -> None:
    assert userspace.parse_measure_log(b"", "log") == ()


SPEC = " [systemd 257 src/shared/tpm2-util.c tpm2_userspace_log]"
RFC = " [RFC 7464 section 2.2]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", f"offset 0x0: starts with 7b, expected 1e; this is not a JSON text sequence{RFC}"),
        (b"\x1e\xff\n", "offset 0x1: record is not UTF-8 [RFC 8259 section 8.1]"),
        (b"\x1e[" + b"9" * 5000, f"offset 0x1: record is not JSON{RFC}"),
        (sequence([]), f"offset 0x1: record is list, expected an object{SPEC}"),
        (
            sequence(RECORD, 7),
            f"offset {len(sequence(RECORD)) + 1:#x}: record is 7, expected an object{SPEC}",
        ),
        (sequence(RECORD | {"pcr": 24}), f"offset 0x1: record has pcr 24, expected 0 to 23{SPEC}"),
        (sequence(RECORD | {"pcr": True}), f"offset 0x1: record has pcr True, expected 0 to 23{SPEC}"),
        (sequence(RECORD | {"digests": []}), f"offset 0x1: record has no list of digests{SPEC}"),
        (
            sequence(RECORD | {"content": "x\x1b"}),
            f"offset 0x1: content is 'x\\x1b', expected an object{SPEC}",
        ),
        (
            sequence(RECORD | {"content": {"string": 7}}),
            f"offset 0x1: string is 7, expected a string{SPEC}",
        ),
        (
            sequence(RECORD | {"digests": [{"hashAlg": "sha1"}]}),
            f"offset 0x1: digest is dict, expected hashAlg and digest{SPEC}",
        ),
        (
            sequence(RECORD | {"digests": [{"hashAlg": "sha1", "digest": "xy"}]}),
            "offset 0x1: 'sha1' digest 'xy' is not hexadecimal",
        ),
        (
            sequence(RECORD | {"digests": [{"hashAlg": "sha1", "digest": "aa"}]}),
            "offset 0x1: sha1 digest of 1 bytes, expected 20",
        ),
        (b"\x1e" + b"[" * 60000, "offset 0x1: record is nested too deeply"),
        (b"\x1e" + b" " * 65537, "offset 0x1: record of 65537 bytes, at most 65536 are read"),
        (b"\x1e" * 4194305, "measurement log of 4194305 bytes, at most 4194304 are read"),
    ],
    ids=lambda value: None if isinstance(value, str) else "bytes",
)
def test_bad_logs(text: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        userspace.parse_measure_log(text, "log")
    assert str(caught.value) == f"log: {message}"


@settings(max_examples=150)
@given(st.binary(max_size=80), st.integers(0, 2**32))
def test_only_format_errors_come_out(noise: bytes, seed: int) -> None:
    text = bytearray(sequence(RECORD, RECORD))
    chance = random.Random(seed)
    for byte in noise[:8]:
        text[chance.randrange(len(text))] = byte
    for data in (noise, b"\x1e" + noise, bytes(text)):
        with contextlib.suppress(FormatError):
            userspace.parse_measure_log(data, "log")
