from __future__ import annotations

import gzip
import struct
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import eventlog
from recipes.formats.devicepath import device_path, file_path
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, LoadOption, variable_data
from recipes.formats.eventlog import (
    Algorithm,
    Event,
    EventLog,
    EventType,
    algorithm,
    describe,
    pack,
    parse,
    spec_id_event,
    startup_locality_event,
)
from tests.support import VECTORS

FUZZ = settings(max_examples=100)
SHA1, SHA256 = algorithm("sha1"), algorithm("sha256")
REAL = gzip.decompress((VECTORS / "eventlogs" / "glinux-alex.bin.gz").read_bytes())


def record(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<II20sI", pcr, kind, digest, len(data)) + data


def record2(pcr: int, kind: int, digests: list[tuple[int, bytes]], data: bytes) -> bytes:
    packed = b"".join(struct.pack("<H", number) + digest for number, digest in digests)
    return struct.pack("<III", pcr, kind, len(digests)) + packed + struct.pack("<I", len(data)) + data


def spec_id(*algorithms: tuple[int, int], tail: bytes = b"\0", count: int | None = None) -> bytes:
    number = len(algorithms) if count is None else count
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, number)
    return head + b"".join(struct.pack("<HH", *item) for item in algorithms) + tail


def header(*algorithms: tuple[int, int], tail: bytes = b"\0", count: int | None = None) -> bytes:
    return record(0, 3, bytes(20), spec_id(*algorithms, tail=tail, count=count))


ONE, TWO = bytes([1] * 20), bytes([2] * 32)
BOTH = header((4, 20), (0xB, 32))
SEPARATOR = record2(7, 4, [(4, ONE), (0xB, TWO)], b"\0\0\0\0")


def test_struct_sizes() -> None:
    assert eventlog.TcgPcClientPcrEvent.SIZE == 32
    assert eventlog.TcgPcrEvent2.SIZE == 12
    assert eventlog.SpecIdHeader.SIZE == 28
    assert eventlog.SpecIdAlgorithm.SIZE == 4


def test_crypto_agile_log() -> None:
    log = parse(BOTH + SEPARATOR, "log")
    assert log.algorithms == (Algorithm(4, "sha1", 20), Algorithm(0xB, "sha256", 32))
    assert log.startup_locality == 0
    assert log.events[0].digests == {"sha1": bytes(20)}
    want = Event(7, EventType.EV_SEPARATOR, {"sha1": ONE, "sha256": TWO}, b"\0\0\0\0", len(BOTH))
    assert log.events[1:] == (want,)
    assert log.events[1].type_name == "EV_SEPARATOR"


def test_legacy_log() -> None:
    data = record(4, 0xD, ONE, b"abc") + record(23, 0xABCD, ONE[::-1], b"")
    log = parse(data, "log")
    assert log.algorithms == (SHA1,)
    assert log.events == (Event(4, 0xD, {"sha1": ONE}, b"abc"), Event(23, 0xABCD, {"sha1": ONE}, b"", 35))
    assert log.events[1].type_name == "0x0000abcd"
    assert pack(log) == data


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
@pytest.mark.parametrize("count", [1, 3, 4096])
def test_padding_ends_a_log(filler: bytes, count: int) -> None:
    assert parse(BOTH + SEPARATOR + filler * count, "log") == parse(BOTH + SEPARATOR, "log")
    legacy = record(0, 3, ONE, b"\xff\0")
    assert parse(legacy + filler * count, "log") == parse(legacy, "log")


@pytest.mark.parametrize("data", [b"", bytes(100), b"\xff" * 100])
def test_a_log_of_padding_is_empty(data: bytes) -> None:
    assert parse(data, "log") == EventLog((SHA1,), ())


def test_algorithms_by_size_from_the_spec_id_event() -> None:
    data = header((0x12, 32), (0xAB, 5), tail=b"\x02xy") + record2(
        1, 1, [(0xAB, b"12345"), (0x12, TWO)], b"z"
    )
    log = parse(data, "log")
    assert log.algorithms == (Algorithm(0x12, "sm3_256", 32), Algorithm(0xAB, "0x00ab", 5))
    assert log.events[1].digests == {"0x00ab": b"12345", "sm3_256": TWO}
    assert pack(log) == data


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality(locality: int) -> None:
    event = record2(0, 3, [(4, bytes(20)), (0xB, bytes(32))], b"StartupLocality\0" + bytes([locality]))
    log = parse(BOTH + event + SEPARATOR, "log")
    assert log.startup_locality == locality
    algorithms = (SHA1, SHA256)
    made = EventLog(algorithms, (spec_id_event(algorithms), startup_locality_event(locality, algorithms)))
    assert pack(made) == BOTH + event


def test_a_no_action_event_may_name_any_pcr() -> None:
    event = record2(0xFFFFFFFF, 3, [(4, ONE), (0xB, TWO)], b"x")
    assert parse(BOTH + event, "log").events[1].pcr == 0xFFFFFFFF


LOCALITY = b"StartupLocality\0"
NONE = [(4, bytes(20)), (0xB, bytes(32))]
SPEC = " [TCG PFP 1.06 section 10.2]"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            BOTH[:31],
            "log: offset 0x0: TcgPcClientPcrEvent needs 32 bytes, 31 are left; the data is truncated",
        ),
        (
            BOTH[:-1] + b"\1",
            "log: offset 0x20: Spec ID event has 1 bytes behind its algorithms, expected 2" + SPEC,
        ),
        (
            header((4, 20), tail=b""),
            "log: offset 0x20: Spec ID event has 0 bytes behind its algorithms, expected 1" + SPEC,
        ),
        (
            header((4, 20), count=2**32 - 1),
            "log: offset 0x20: Spec ID event says 4294967295 algorithms in 5 bytes; the data is truncated"
            + SPEC,
        ),
        (
            header(),
            "log: offset 0x20: Spec ID event says 0 algorithms in 1 bytes; the data is truncated" + SPEC,
        ),
        (
            header((4, 20), (0xB, 31)),
            "log: offset 0x40: Spec ID event gives sha256 digests of 31 bytes, expected 32" + SPEC,
        ),
        (
            header((0xAB, 0)),
            "log: offset 0x3c: Spec ID event gives 0x00ab digests of 0 bytes, expected some" + SPEC,
        ),
        (
            header((4, 20), (4, 20)),
            "log: offset 0x20: Spec ID event names one of 2 algorithms twice",
        ),
        (
            BOTH + record2(24, 4, [(4, ONE), (0xB, TWO)], b"a"),
            "log: offset 0x45: PCR index is 24, expected 0 to 23" + SPEC,
        ),
        (record(24, 4, ONE, b"a"), "log: offset 0x0: PCR index is 24, expected 0 to 23" + SPEC),
        (
            BOTH + record2(1, 4, [(4, ONE)], b"a"),
            "log: offset 0x45: event has 1 digests, the Spec ID event announced 2" + SPEC,
        ),
        (
            BOTH + record2(1, 4, [(4, ONE), (0xC, TWO)], b"a"),
            "log: offset 0x67: digest algorithm 0x000c is not in the Spec ID event" + SPEC,
        ),
        (
            BOTH + record2(1, 4, [(4, ONE), (4, ONE)], b"a"),
            "log: offset 0x67: digest algorithm 0x0004 comes twice" + SPEC,
        ),
        (
            BOTH + SEPARATOR[:-1] + b"",
            "log: offset 0x8d: event data of 4 bytes, 3 are left; the log is truncated" + SPEC,
        ),
        (
            BOTH + struct.pack("<III", 1, 4, 2) + b"\4\0" + ONE[:19],
            "log: offset 0x53: 20 bytes are needed, 19 are left; the log is truncated" + SPEC,
        ),
        (
            BOTH + SEPARATOR + b"\1",
            "log: offset 0x91: TcgPcrEvent2 needs 12 bytes, 1 are left; the data is truncated",
        ),
        (
            record(1, 4, ONE, b"")[:-4] + b"\xfe\xff\xff\xff",
            "log: offset 0x20: event data of 4294967294 bytes, 0 are left; the log is truncated" + SPEC,
        ),
        (
            BOTH + record2(0, 3, NONE, LOCALITY + b"\1"),
            "log: offset 0x45: startup locality is 01, expected 00, 03 or 04 [TCG PFP 1.06 section 10.4.5.3]",
        ),
        (
            BOTH + record2(0, 3, NONE, LOCALITY) + b"\1",
            "log: offset 0x9d: TcgPcrEvent2 needs 12 bytes, 1 are left; the data is truncated",
        ),
        (
            BOTH + record2(0, 3, NONE, LOCALITY),
            (
                "log: offset 0x45: startup locality is empty, expected 00, 03 or 04"
                " [TCG PFP 1.06 section 10.4.5.3]"
            ),
        ),
        (
            BOTH + 2 * record2(0, 3, NONE, LOCALITY + b"\3"),
            "log: offset 0x9e: the log has two StartupLocality events, a TPM starts once" + SPEC,
        ),
        (b"\1" * (2**22 + 1), "log: event log of 4194305 bytes, at most 4194304 are read"),
    ],
)
def test_bad_logs(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        parse(data, "log")
    assert str(error.value) == message


def test_logs_that_do_not_pack() -> None:
    start = spec_id_event([SHA1, SHA256])
    with pytest.raises(FormatError) as error:
        pack(EventLog((SHA1, SHA256), (start, Event(1, 4, {"sha1": ONE}, b""))))
    assert str(error.value) == (
        "event log: EV_SEPARATOR has digests ['sha1'], the log's are ['sha1', 'sha256']"
    )
    with pytest.raises(FormatError) as error:
        pack(EventLog((SHA1,), (Event(1, 4, {"sha1": b"short"}, b""),)))
    assert str(error.value) == "event log: EV_SEPARATOR has a sha1 digest of 5 bytes, expected 20"
    with pytest.raises(FormatError) as error:
        algorithm("md5")
    assert str(error.value) == (
        "event log: unknown algorithm 'md5'; known are sha1, sha256, sha384, sha512, sm3_256, sha3_256,"
        " sha3_384, sha3_512"
    )


def events(algorithms: tuple[Algorithm, ...]) -> st.SearchStrategy[Event]:
    digests = st.fixed_dictionaries(
        {item.name: st.binary(min_size=item.size, max_size=item.size) for item in algorithms}
    )
    kinds = st.one_of(st.sampled_from(list(EventType)), st.integers(1, 2**32 - 1)).map(int)
    return st.builds(Event, st.integers(0, 23), kinds, digests, st.binary(min_size=1, max_size=30))


@FUZZ
@given(st.data(), st.lists(st.sampled_from(eventlog._KNOWN), min_size=1, max_size=4, unique=True))
def test_round_trip(data: st.DataObject, algorithms: list[Algorithm]) -> None:
    made = data.draw(st.lists(events(tuple(algorithms)), max_size=4))
    log = EventLog(tuple(algorithms), (spec_id_event(algorithms), *made))
    packed = pack(log)
    read = parse(packed, "log")
    assert pack(read) == packed
    assert read.algorithms == log.algorithms
    assert [(e.pcr, e.type, e.digests, e.data) for e in read.events[1:]] == [
        (e.pcr, e.type, e.digests, e.data) for e in made
    ]


EV = EventType
OPTION = LoadOption(1, "a\x1b", device_path(file_path("\\x"))).pack()
IMAGE = struct.pack("<QQQQ", 1, 4096, 0, len(device_path(file_path("\\x")))) + device_path(file_path("\\x"))


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (EV.EV_NO_ACTION, spec_id((4, 20)), "Spec ID Event03"),
        (EV.EV_NO_ACTION, LOCALITY + b"\3", "StartupLocality 3"),
        (EV.EV_SEPARATOR, bytes(4), "00000000"),
        (EV.EV_SEPARATOR, b"\1\0\0\0", "00000001 (an error was measured)"),
        (EV.EV_S_CRTM_VERSION, "1.0+a".encode("utf-16-le") + b"\0\0", "1.0+a"),
        (EV.EV_S_CRTM_VERSION, b"\0\0", ""),
        (EV.EV_S_CRTM_VERSION, UUID(int=1 << 120).bytes_le, "01000000-0000-0000-0000-000000000000"),
        (EV.EV_IPL, b".linux\0", ".linux"),
        (EV.EV_IPL, "root=/dev/vda1\0".encode("utf-16-le"), "root=/dev/vda1"),
        (EV.EV_IPL, b"grub_cmd \x1b[2J", "677275625f636d64201b5b324a"),
        (EV.EV_IPL, b"a\nb", "a\\nb"),
        (EV.EV_IPL, bytes(40), ""),
        (EV.EV_IPL, b"\x80" * 40, "80" * 32 + "… (40 bytes)"),
        (EV.EV_IPL, b"x" * 1000, "x" * 199 + "…"),
        (EV.EV_EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (EV.EV_EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 5) + b"initr", "0x8f3b22ec initr"),
        (EV.EV_EVENT_TAG, struct.pack("<II", 1, 99) + b"a", "010000006300000061"),
        (EV.EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 0x820000, 0xE0000), "0x820000 + 0xe0000"),
        (EV.EV_EFI_PLATFORM_FIRMWARE_BLOB, b"abc", "616263"),
        (EV.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\2FV" + struct.pack("<QQ", 1, 2), "FV 0x1 + 0x2"),
        (EV.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\x09FV", "094656"),
        (EV.EV_POST_CODE, b"ACPI DATA", "ACPI DATA"),
        (EV.EV_POST_CODE, struct.pack("<QQ", 0xFF, 2), "0xff + 0x2"),
        (
            EV.EV_EFI_VARIABLE_DRIVER_CONFIG,
            variable_data("SecureBoot", EFI_GLOBAL_VARIABLE, b"\1"),
            "SecureBoot 01",
        ),
        (EV.EV_EFI_VARIABLE_DRIVER_CONFIG, variable_data("\x1b", EFI_GLOBAL_VARIABLE, b""), "\\x1b empty"),
        (EV.EV_EFI_VARIABLE_AUTHORITY, variable_data("db", UUID(int=1), bytes(33)), "db 33 bytes"),
        (
            EV.EV_EFI_VARIABLE_BOOT,
            variable_data("Boot0001", EFI_GLOBAL_VARIABLE, OPTION),
            "Boot0001 a\\x1b \\x",
        ),
        (EV.EV_EFI_BOOT_SERVICES_APPLICATION, IMAGE, "\\x (4096 bytes)"),
        (EV.EV_EFI_BOOT_SERVICES_APPLICATION, struct.pack("<QQQQ", 1, 9, 0, 0), "no device path (9 bytes)"),
        (EV.EV_EFI_BOOT_SERVICES_APPLICATION, b"HDD", "HDD"),
        (
            EV.EV_EFI_GPT_EVENT,
            b"EFI PART" + bytes(48) + UUID(int=7).bytes_le + bytes(20) + struct.pack("<Q", 3),
            "disk 00000000-0000-0000-0000-000000000007, 3 partitions",
        ),
        (EV.EV_EFI_GPT_EVENT, b"EFI PART", "4546492050415254"),
        (0xABCD, b"text", "text"),
    ],
)
def test_describe(kind: int, data: bytes, text: str) -> None:
    assert describe(Event(0, kind, {}, data)) == text


@FUZZ
@given(
    st.one_of(st.sampled_from([int(kind) for kind in EventType]), st.integers(0, 2**32 - 1)),
    st.binary(max_size=120),
    st.sampled_from([b"", LOCALITY, IMAGE, variable_data("Boot0001", EFI_GLOBAL_VARIABLE, OPTION)]),
)
def test_describe_never_fails(kind: int, data: bytes, start: bytes) -> None:
    for value in (start + data, start[: len(data)], data):
        text = describe(Event(0, kind, {}, value))
        assert text.isprintable()
        assert len(text) <= 200


@FUZZ
@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), max_size=4),
)
def test_fuzz(data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(REAL)
    for at, value in changes:
        mutated[at] = value
    cut = changes[0][0] if changes else 0
    for bad in (data, BOTH + data, bytes(mutated), REAL[:cut]):
        try:
            log = parse(bad, "log")
        except FormatError:
            continue
        assert len(pack(log)) <= len(bad)
        assert all(describe(event).isprintable() for event in log.events)
