from __future__ import annotations

import gzip
import io
import uuid
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import gpt
from recipes.formats.gpt import Partition, PartitionPlan, PartitionTable, event_data, grow, lay_out, read
from tests.support import VECTORS
from tests.unit.boot_images import patched

FUZZ = settings(max_examples=75)
DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
ONE = uuid.UUID("aaaaaaaa-0000-0000-0000-000000000001")
TWO = uuid.UUID("aaaaaaaa-0000-0000-0000-000000000002")
SECTORS = 4096
ENTRIES = 1024


def partition(number: int = 1, first: int = 2048, last: int = 2055, **changes: object) -> Partition:
    made = Partition(
        number=number,
        name="root",
        type_guid=gpt.TYPE_ROOT_X86_64,
        guid=uuid.UUID(int=number),
        first_lba=first,
        last_lba=last,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def table(*partitions: Partition, sectors: int = SECTORS) -> PartitionTable:
    return PartitionTable(DISK, sectors, partitions or (partition(),))


def disk(made: PartitionTable) -> bytes:
    middle = (made.sectors - gpt.PRIMARY_SECTORS - gpt.BACKUP_SECTORS) * 512
    return made.primary() + bytes(middle) + made.backup()


def sealed(image: bytes) -> bytes:
    """The disk with the checksums of both tables made right again."""
    for lba in (1, len(image) // 512 - 1):
        start = int.from_bytes(image[lba * 512 + 72 : lba * 512 + 80], "little") * 512
        image = patched(image, lba * 512 + 88, zlib.crc32(image[start : start + 16384]).to_bytes(4, "little"))
        header = image[lba * 512 : lba * 512 + 92]
        image = patched(
            image, lba * 512 + 16, zlib.crc32(patched(header, 16, bytes(4))).to_bytes(4, "little")
        )
    return image


def test_struct_sizes() -> None:
    # UEFI 2.10 tables 5.2, 5.3, 5.5 and 5.6.
    assert [each.SIZE for each in (gpt.MbrRecord, gpt.Mbr, gpt.GptHeader, gpt.GptEntry)] == [16, 512, 92, 128]


@pytest.mark.parametrize("case", ["q35-512m-1cpu", "q35-512m-1cpu-addons", "aarch64-virt-1024m-1cpu"])
def test_event_data_is_what_firmware_logged(case: str) -> None:
    """The table that sgdisk wrote, made again by us from what the event log says about it."""
    log = gzip.decompress((VECTORS / "pcr" / f"{case}.eventlog.gz").read_bytes())
    start = log.index(b"EFI PART")
    logged = log[start : start + int.from_bytes(log[start - 4 : start], "little")]
    count = int.from_bytes(logged[92:100], "little")
    partitions = []
    for number in range(1, count + 1):
        entry = logged[100 + (number - 1) * 128 :][:128]
        partitions.append(
            Partition(
                number=number,
                name=entry[56:].decode("utf-16-le").rstrip("\0"),
                type_guid=uuid.UUID(bytes_le=entry[:16]),
                guid=uuid.UUID(bytes_le=entry[16:32]),
                first_lba=int.from_bytes(entry[32:40], "little"),
                last_lba=int.from_bytes(entry[40:48], "little"),
            )
        )
    sectors = int.from_bytes(logged[32:40], "little") + 1
    made = PartitionTable(uuid.UUID(bytes_le=logged[56:72]), sectors, tuple(partitions))
    assert event_data(io.BytesIO(made.primary()), "disk") == logged


@pytest.mark.parametrize(
    ("sectors", "ending", "length"),
    [
        # Head, sector | cylinder high bits, cylinder of the last sector with 255 heads of 63 sectors.
        (63 * 255, "fe3f00", 63 * 255 - 1),
        (63 * 255 + 1, "000101", 63 * 255),
        (131072, "282008", 131071),
        (1024 * 255 * 63, "feffff", 1024 * 255 * 63 - 1),
        (1024 * 255 * 63 + 1, "ffffff", 1024 * 255 * 63),
        (1 << 33, "ffffff", 0xFFFFFFFF),
    ],
)
def test_protective_mbr(sectors: int, ending: str, length: int) -> None:
    mbr = table(sectors=sectors).primary()[:512]
    record = "00000200ee" + ending + "01000000" + length.to_bytes(4, "little").hex()
    assert mbr == bytes(446) + bytes.fromhex(record) + bytes(48) + b"\x55\xaa"


def test_lay_out() -> None:
    plans = [
        PartitionPlan(name="esp", type_guid=gpt.TYPE_ESP, guid=ONE, size=1000),
        PartitionPlan(
            name="root", type_guid=gpt.TYPE_ROOT_X86_64, guid=TWO, size=1 << 20, attributes=1 << 60
        ),
    ]
    made = lay_out(DISK, plans)
    assert [(each.number, each.first_lba, each.last_lba) for each in made.partitions] == [
        (1, 2048, 2049),
        (2, 4096, 6143),
    ]
    assert made.sectors == 8192
    assert (made.partitions[0].offset, made.partitions[0].size) == (1 << 20, 1024)
    assert made.partitions[1].attributes == 1 << 60
    assert lay_out(DISK, plans, sectors=6177).sectors == 6177
    with pytest.raises(FormatError) as caught:
        lay_out(DISK, plans, sectors=6176)
    assert str(caught.value) == (
        "partition table: partition 2: sectors 4096 to 6143 are not within the usable ones, 34 to 6142 "
        "[UEFI 2.10 section 5.3]"
    )
    with pytest.raises(FormatError) as caught:
        lay_out(DISK, [replace(plans[0], size=0)])
    assert str(caught.value) == "partition 'esp': size is 0 bytes; give it at least one sector"


def test_grow_moves_the_backup() -> None:
    made = table()
    grown = grow(made, 8192)
    assert grown.partitions == made.partitions
    image = grown.primary() + bytes((8192 - 34 - 33) * 512) + grown.backup()
    assert read(io.BytesIO(image), "disk") == grown
    with pytest.raises(FormatError) as caught:
        grow(grown, 8191)
    assert (
        str(caught.value)
        == "partition table: 8191 sectors are fewer than the 8192 it has; a table only grows"
    )


def test_places_keep_their_numbers() -> None:
    made = table(partition(1), partition(14, 2056, 2057), partition(128, 34, 34))
    found = read(io.BytesIO(disk(made)), "disk")
    assert found == made
    data = event_data(io.BytesIO(disk(made)), "disk")
    assert len(data) == 92 + 8 + 3 * 128
    assert data[92:100] == b"\3" + bytes(7)


def test_longer_file_than_disk() -> None:
    assert read(io.BytesIO(disk(table()) + bytes(4096)), "disk").sectors == SECTORS


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        ((partition(name="x" * 37),), "partition 1: name '" + "x" * 37 + "' has 37 UTF-16 units; at most 36"),
        ((partition(name="\U0001f600" * 19),), None),
        (
            (partition(name="a\0b"),),
            "partition 1: name 'a\\x00b' has 3 UTF-16 units; at most 36 and no NUL fit",
        ),
        ((partition(name="\udc80"),), "partition 1: name '\\udc80' is not Unicode text"),
        (
            (partition(first=33),),
            "partition 1: sectors 33 to 2055 are not within the usable ones, 34 to 4062",
        ),
        (
            (partition(last=4063),),
            "partition 1: sectors 2048 to 4063 are not within the usable ones, 34 to 4062",
        ),
        (
            (partition(last=2047),),
            "partition 1: sectors 2048 to 2047 are not within the usable ones, 34 to 4062",
        ),
        (
            (partition(1), partition(2, 2055, 2056)),
            "partition 2 starts at sector 2055, partition 1 ends at 2055; they overlap",
        ),
        (
            (partition(1, guid=ONE), partition(2, 2056, 2056, guid=ONE)),
            f"partitions 1 and 2 have the same GUID {ONE}",
        ),
        ((partition(guid=uuid.UUID(int=0)),), "partition 1: its type or own GUID is zero"),
        ((partition(attributes=1 << 64),), "partition 1: attributes 0x10000000000000000 do not fit 64 bits"),
        ((partition(129),), "partition numbers are [129], expected ascending ones from 1 to 128"),
        ((partition(2), partition(1)), "partition numbers are [2, 1], expected ascending ones from 1 to 128"),
    ],
)
def test_tables_that_are_refused(partitions: tuple[Partition, ...], message: str | None) -> None:
    with pytest.raises(FormatError) as caught:
        table(*partitions)
    expected = message or "partition 1: name '" + "\U0001f600" * 19 + "' has 38 UTF-16 units"
    assert str(caught.value).startswith(f"partition table: {expected}")


def test_other_tables_that_are_refused() -> None:
    with pytest.raises(FormatError, match=r"^partition table: a disk of 67 sectors; both tables take 67$"):
        PartitionTable(DISK, 67, ())
    with pytest.raises(FormatError, match=r"^partition table: the disk GUID is zero$"):
        PartitionTable(uuid.UUID(int=0), 4096, ())
    assert table(partition(name="\U0001f600" * 18)).partitions[0].name == "\U0001f600" * 18


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (
            510,
            "0000",
            "offset 0x1fe: MBR signature is 0x0000, expected 0xaa55; this is not a GPT disk [UEFI 2.10",
        ),
        (
            450,
            "83",
            "offset 0x1be: MBR partition types are 0x83, expected one 0xee at sector 1; this is no plain",
        ),
        (466, "83", "offset 0x1be: MBR partition types are 0xee 0x83, expected one 0xee"),
        (454, "02", "offset 0x1be: MBR partition types are 0xee, expected one 0xee at sector 1"),
        (
            512,
            "00",
            "offset 0x200: signature is b'\\x00FI PART', expected b'EFI PART'; there is no GPT on 512",
        ),
        (520, "01", "offset 0x200: revision 0x10001 with 92 bytes, expected 0x10000 with 92"),
        (524, "5d", "offset 0x200: revision 0x10000 with 93 bytes, expected 0x10000 with 92"),
        (528, "00000000", "offset 0x200: header checksum is 0x00000000, computed 0x"),
        (ENTRIES, "00", "offset 0x200: entry checksum is 0x"),
    ],
)
def test_bad_bytes(offset: int, new: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(io.BytesIO(patched(disk(table()), offset, bytes.fromhex(new))), "disk")
    assert str(caught.value).startswith(f"disk: {message}")


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (512 + 24, "02", "disk: offset 0x200: the header says that it is at sector 2, it is at 1"),
        (512 + 80, "81", "disk: offset 0x200: 129 entries of 128 bytes; only 128 of 128 bytes are supported"),
        (
            512 + 32,
            "0010",
            "disk: offset 0x200: the backup table is at sector 4096, the disk has 4096; the image is",
        ),
        (512 + 32, "0100", "disk: offset 0x200: the backup table is at sector 1, the disk has 4096"),
        (512 + 56, "99", "disk: offset 0x1ffe00: the backup table differs from the primary one; repair it"),
        (ENTRIES + 56, "99", "disk: offset 0x1ffe00: the backup table differs"),
    ],
)
def test_bad_values_with_right_checksums(offset: int, new: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(io.BytesIO(sealed(patched(disk(table()), offset, bytes.fromhex(new)))), "disk")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (
            40,
            "21",
            "disk: offset 0x200: sectors 33 to 4062 are not all between the tables [UEFI 2.10 section 5.3]",
        ),
        (
            48,
            "df0f",
            "disk: offset 0x200: sectors 34 to 4063 are not all between the tables [UEFI 2.10 section 5.3]",
        ),
        (40, "0108", "disk: partition 1: sectors 2048 to 2055 are not within the usable ones, 2049 to 4062"),
    ],
)
def test_bad_usable_sectors(offset: int, new: str, message: str) -> None:
    image = patched(disk(table()), 512 + offset, bytes.fromhex(new))
    image = patched(image, len(image) - 512 + offset, bytes.fromhex(new))
    with pytest.raises(FormatError) as caught:
        read(io.BytesIO(sealed(image)), "disk")
    assert str(caught.value).startswith(message)


def test_bad_name_and_entries_out_of_the_disk() -> None:
    image = disk(table())
    bad = bytes.fromhex("00d8")
    image = patched(patched(image, ENTRIES + 56, bad), len(image) - 33 * 512 + 56, bad)
    with pytest.raises(FormatError) as caught:
        read(io.BytesIO(sealed(image)), "disk")
    assert str(caught.value) == "disk: partition 1: its name is not UTF-16 [UEFI 2.10 section 5.3]"


@pytest.mark.parametrize("size", [0, 511, 512, 1023, 1024, 34 * 512, SECTORS * 512 - 1])
def test_truncated(size: int) -> None:
    with pytest.raises(FormatError):
        read(io.BytesIO(disk(table())[:size]), "disk")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=18)


@FUZZ
@given(
    st.lists(
        st.tuples(names, st.integers(1, 3 << 19), st.integers(0, (1 << 64) - 1)),
        max_size=6,
        unique_by=lambda p: p[0],
    ),
    st.uuids(),
)
def test_round_trip(parts: list[tuple[str, int, int]], seed: uuid.UUID) -> None:
    plans = [
        PartitionPlan(
            name=name, type_guid=gpt.TYPE_VAR, guid=uuid.uuid5(seed, name), size=size, attributes=attributes
        )
        for name, size, attributes in parts
    ]
    made = lay_out(uuid.uuid5(seed, "disk"), plans)
    assert read(io.BytesIO(disk(made)), "disk") == made


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(440, 700), st.integers(1024, 1400), st.integers(-33 * 512, -1)),
            st.binary(min_size=1, max_size=9),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_fuzz(edits: list[tuple[int, bytes]], seal: bool) -> None:
    image = disk(table(partition(1, 40, 47), partition(2, 48, 49), sectors=96))
    for offset, new in edits:
        where = offset % len(image)
        image = patched(image, where, new)[: 96 * 512]
    file = io.BytesIO(image)
    for reader in (read, event_data):
        try:
            if seal:
                file = io.BytesIO(sealed(image)[: 96 * 512])
            reader(file, "fuzz")
        except FormatError:
            continue
