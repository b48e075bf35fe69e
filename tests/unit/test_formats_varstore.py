from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import efi, varstore
from recipes.formats.efi import Variable
from recipes.formats.efi_signature import SignatureData, SignatureList, parse_signature_lists
from recipes.formats.varstore import read, secure_boot_variables, write

FUZZ = settings(max_examples=100)
VENDOR = UUID("00112233-4455-6677-8899-aabbccddeeff")
NV_DATA = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
AUTHENTICATED = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
STORE, START = 512, 72 + 28


def store(
    variables: bytes = b"",
    *,
    kind: UUID = NV_DATA,
    signature: UUID = AUTHENTICATED,
    size: int = STORE,
    state: int = 0xFE,
) -> bytes:
    """A small store with work space behind it, as the edk2 headers lay it out."""
    head = struct.pack("<16s16sQ4sIHHHBB", b"", kind.bytes_le, 1024, b"_FVH", 0x4FEFF, 72, 0, 0, 0, 2)
    head += struct.pack("<IIII", 1, 1024, 0, 0)
    total = sum(struct.unpack("<36H", head)) & 0xFFFF
    head = head[:50] + struct.pack("<H", -total & 0xFFFF) + head[52:]
    head += signature.bytes_le + struct.pack("<IBBHI", size, 0x5A, state, 0, 0)
    body = variables + b"\xff" * (72 + STORE - len(head) - len(variables))
    return head + body + b"\x55" * (1024 - len(head) - len(body))


def entry(
    name: str,
    data: bytes,
    *,
    state: int = 0x3F,
    attributes: int = 7,
    vendor: UUID = VENDOR,
    time: bytes = bytes(16),
) -> bytes:
    packed_name = name.encode("utf-16-le") + b"\0\0"
    head = struct.pack("<HBBIQ16sIII", 0x55AA, state, 0, attributes, 0, time, 0, len(packed_name), len(data))
    packed = head + vendor.bytes_le + packed_name + data
    return packed + b"\xff" * (-len(packed) % 4)


def names(data: bytes) -> list[tuple[str, bytes]]:
    return [(variable.name, variable.data) for variable in read(data, "vars")]


def test_struct_sizes() -> None:
    assert varstore.VariableStoreHeader.SIZE == 28
    assert varstore.AuthenticatedVariableHeader.SIZE == 60


def test_written_bytes() -> None:
    variables = [Variable("Ab", VENDOR, 7, b"123"), Variable("C", VENDOR, 3, b"45678")]
    want = store(entry("Ab", b"123") + entry("C", b"45678", attributes=3))
    assert write(store(), variables) == want
    assert read(want, "vars") == tuple(variables)


def test_an_empty_store() -> None:
    assert read(store(), "vars") == ()
    assert write(store(), []) == store()


def test_states() -> None:
    added, transition, deleted, deleted_at_once, header_only = 0x3F, 0x3E, 0x3C, 0x3D, 0x7F
    body = (
        entry("a", b"1", state=deleted) + entry("a", b"2", state=transition) + entry("a", b"3", state=added)
    )
    assert names(store(body)) == [("a", b"3")]
    body = (
        entry("a", b"2", state=added) + entry("a", b"3", state=transition) + entry("b", b"4", state=0xFF)[:60]
    )
    assert names(store(body)) == [("a", b"2")]
    body = (
        entry("a", b"1", state=transition)
        + entry("a", b"2", state=transition)
        + entry("a", b"3", state=header_only)
    )
    assert names(store(body)) == [("a", b"2")]
    body = (
        entry("a", b"1", state=deleted_at_once)
        + entry("b", b"2", state=added)
        + entry("b", b"3", state=added)
    )
    assert names(store(body)) == [("b", b"2")]


def test_the_same_name_of_two_vendors_is_two_variables() -> None:
    body = entry("a", b"1") + entry("a", b"2", vendor=NV_DATA)
    assert names(store(body)) == [("a", b"1"), ("a", b"2")]


def test_an_unfinished_header_has_no_size() -> None:
    # A header whose write was cut short still has erased sizes; firmware steps over the bare header.
    unfinished = struct.pack(
        "<HBBIQ16sIII", 0x55AA, 0x7F, 0, 7, 0, bytes(16), 0, 2**32 - 1, 2**32 - 1
    ) + bytes(16)
    assert names(store(unfinished + entry("a", b"1"))) == [("a", b"1")]


def test_time_stamps_do_not_matter_to_a_reader() -> None:
    assert names(store(entry("a", b"1", time=b"\xea\x07" + bytes(14)))) == [("a", b"1")]


SPEC = " [edk2-stable202502 VariableFormat.h]"
LONG = struct.pack("<HBBIQ16sIII", 0x55AA, 0x3F, 0, 7, 0, bytes(16), 0, 4, 2**32 - 2) + bytes(16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "v: offset 0x0: FirmwareVolumeHeader needs 56 bytes, 0 are left; the data is truncated"),
        (
            store(kind=VENDOR),
            f"v: offset 0x10: volume format is {VENDOR}, expected {NV_DATA}; this is not a variable store"
            + SPEC,
        ),
        (
            store(signature=VENDOR),
            (
                f"v: offset 0x48: store signature is {VENDOR}, expected {AUTHENTICATED};"
                " only stores of authenticated variables are read"
            ),
        ),
        (
            store(state=0xFF),
            "v: offset 0x48: store format 0x5a and state 0xff, expected 0x5a and 0xfe" + SPEC,
        ),
        (store(size=27), "v: offset 0x48: store of 27 bytes in a volume of 1024" + SPEC),
        (store(size=953), "v: offset 0x48: store of 953 bytes in a volume of 1024" + SPEC),
        (
            store(b"\0" * 60),
            "v: offset 0x64: variable starts with 0x0000, expected 0x55aa or 0xffff" + SPEC,
        ),
        (
            store(LONG),
            "v: offset 0x64: variable with a name of 4 and data of 4294967294 bytes, 424 are left" + SPEC,
        ),
        (
            store(entry("", b"1")),
            r"v: offset 0xa0: variable name '\x00' is not one string that ends with a NUL" + SPEC,
        ),
        (
            store(entry("n" * 100 + "\0", b"1")),
            f"v: offset 0xa0: variable name '{'n' * 40}' is not one string that ends with a NUL" + SPEC,
        ),
        (
            store(entry("a\0b", b"1")),
            r"v: offset 0xa0: variable name 'a\x00b\x00' is not one string that ends with a NUL" + SPEC,
        ),
        (
            store(
                entry("a", b"1")[:52].replace(b"\x04\0\0\0\1\0\0\0", b"\x03\0\0\0\1\0\0\0")
                + entry("a", b"1")[52:]
            ),
            "v: a UTF-16 string of 3 bytes; its length must be even",
        ),
    ],
)
def test_bad_stores(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        read(data, "v")
    assert str(error.value) == message


A = Variable("a", VENDOR, 7, b"1")


@pytest.mark.parametrize(
    ("template", "variables", "message"),
    [
        (
            store(entry("a", b"1")),
            [A],
            "v: offset 0x64: the store holds variables; start from an empty one such as OVMF_VARS_4M.fd",
        ),
        (store(), [A, A], f"v: variable 'a' of {VENDOR} is given twice"),
        (
            store(),
            [Variable("a", VENDOR, 7, bytes(421))],
            "v: variables of 485 bytes, the store has room for 484",
        ),
        (store(), [Variable("", VENDOR, 7, b"1")], "v: variable name '' is empty or holds a NUL"),
        (store(), [Variable("a\0", VENDOR, 7, b"1")], r"v: variable name 'a\x00' is empty or holds a NUL"),
        (
            store(),
            [Variable("a", VENDOR, 6, b"1")],
            "v: variable 'a' is empty or volatile; a store holds neither [UEFI 2.10 section 8.2.3]",
        ),
        (
            store(),
            [Variable("a", VENDOR, 7, b"")],
            "v: variable 'a' is empty or volatile; a store holds neither [UEFI 2.10 section 8.2.3]",
        ),
    ],
)
def test_stores_that_are_not_written(template: bytes, variables: list[Variable], message: str) -> None:
    with pytest.raises(FormatError) as error:
        write(template, variables, "v")
    assert str(error.value) == message


def test_a_store_can_be_filled_to_its_last_byte() -> None:
    variable = Variable("a", VENDOR, 7, bytes(420))
    assert read(write(store(), [variable]), "v") == (variable,)


PK, KEK, DB1, DB2 = b"pk certificate", b"kek", b"db certificate", b"another one"


def certificates(*data: bytes) -> tuple[SignatureList, ...]:
    return tuple(SignatureList(efi.EFI_CERT_X509_GUID, b"", (SignatureData(VENDOR, item),)) for item in data)


def test_secure_boot_variables() -> None:
    made = secure_boot_variables(VENDOR, PK, [KEK], [DB1, DB2])
    # Names, vendors and attributes as the stores in tests/vectors/firmware hold them.
    assert [(item.name, str(item.vendor), item.attributes) for item in made] == [
        ("PK", "8be4df61-93ca-11d2-aa0d-00e098032b8c", 39),
        ("KEK", "8be4df61-93ca-11d2-aa0d-00e098032b8c", 39),
        ("db", "d719b2cb-3d3a-4596-a3bc-dad00e67656f", 39),
        ("SecureBootEnable", "f0a30bc7-af08-4556-99c4-001009c93a44", 3),
        ("CustomMode", "c076ec0c-7028-4399-a072-71ee5c448b9f", 3),
    ]
    assert [parse_signature_lists(item.data, item.name) for item in made[:3]] == [
        certificates(PK),
        certificates(KEK),
        certificates(DB1, DB2),
    ]
    assert [item.data for item in made[3:]] == [b"\1", b"\0"]


def test_secure_boot_variables_with_dbx() -> None:
    dbx = secure_boot_variables(VENDOR, PK, [KEK], [DB1], [b"1" * 32, b"2" * 32])[3]
    assert (dbx.name, dbx.vendor, dbx.attributes) == ("dbx", efi.EFI_IMAGE_SECURITY_DATABASE, 39)
    hashes = (SignatureData(VENDOR, b"1" * 32), SignatureData(VENDOR, b"2" * 32))
    assert parse_signature_lists(dbx.data, "dbx") == (SignatureList(efi.EFI_CERT_SHA256_GUID, b"", hashes),)


def test_bad_secure_boot_variables() -> None:
    with pytest.raises(
        FormatError, match=r"^signature list: signature of 0 bytes in a list of type a5c059a1-"
    ):
        secure_boot_variables(VENDOR, b"", [KEK], [DB1])
    with pytest.raises(FormatError, match=r"^signature list: signature of 20 bytes .*, expected 32"):
        secure_boot_variables(VENDOR, PK, [KEK], [DB1], [bytes(20)])


variables = st.builds(
    Variable,
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=6),
    st.uuids(),
    st.sampled_from([3, 7, 39]),
    st.binary(min_size=1, max_size=20),
)


@FUZZ
@given(st.lists(variables, max_size=4, unique_by=lambda item: (item.name, item.vendor)))
def test_round_trip(items: list[Variable]) -> None:
    assert read(write(store(), items), "v") == tuple(items)


@FUZZ
@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_fuzz(data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(store(entry("ab", b"123") + entry("c", b"4") + entry("ab", b"5", state=0x3E)))
    for at, value in changes:
        mutated[at] = value
    for bad in (bytes(mutated), data, store(data), store(b"\xaa\x55" + data), bytes(mutated)[: len(data)]):
        try:
            read(bad, "v")
        except FormatError:
            continue
