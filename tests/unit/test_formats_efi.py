from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats import devicepath, efi
from recipes.formats.efi import LoadOption, parse_variable_data, variable_data
from recipes.formats.efi_signature import (
    SignatureData,
    SignatureList,
    SignatureListHeader,
    pack_signature_lists,
    parse_signature_lists,
)

FUZZ = settings(max_examples=100)
OWNER = UUID("00112233-4455-6677-8899-aabbccddeeff")
# Boot0000, Boot0001 of an OVMF boot (tests/vectors/pcr/q35-512m-1cpu-secureboot.json, boot_vars).
BOOT0000 = bytes.fromhex(
    "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1"
    "0406140021aa2c4614760345836e8ab6f46623317fff0400"
)
BOOT0001 = bytes.fromhex(
    "010000001600550045004600490020004d006900730063002000440065007600690063006500000002010c00"
    "d041030a000000000101060000017fff04004eac0881119f594d850ee21a522c59b2"
)
texts = st.text(st.characters(blacklist_characters="\0"), max_size=20)
guids = st.uuids()


def test_struct_sizes() -> None:
    assert efi.UefiVariableData.SIZE == 32
    assert efi.LoadOptionHeader.SIZE == 6
    assert SignatureListHeader.SIZE == 28
    assert devicepath.NodeHeader.SIZE == 4


def test_variable_data_is_laid_out_as_measured() -> None:
    # Bytes of the SecureBoot event in tests/vectors/pcr/q35-512m-1cpu-secureboot.eventlog.gz.
    want = (
        "61dfe48bca93d211aa0d00e098032b8c0a000000000000000100000000000000"
        "53006500630075007200650042006f006f00740001"
    )
    assert variable_data("SecureBoot", efi.EFI_GLOBAL_VARIABLE, b"\x01").hex() == want


def test_an_absent_variable_has_no_data() -> None:
    data = variable_data("dbx", efi.EFI_IMAGE_SECURITY_DATABASE, b"")
    assert data[16:32] == struct.pack("<QQ", 3, 0)
    assert data[32:] == b"d\0b\0x\0"


@FUZZ
@given(texts, guids, st.binary(max_size=40))
def test_variable_data_round_trip(name: str, vendor: UUID, data: bytes) -> None:
    assert parse_variable_data(variable_data(name, vendor, data), "x") == efi.Variable(name, vendor, 0, data)


VARIABLE = variable_data("db", OWNER, b"1234")
HUGE_NAME = VARIABLE[:16] + struct.pack("<QQ", 2**63, 4) + VARIABLE[32:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "log: offset 0x0: UefiVariableData needs 32 bytes, 0 are left; the data is truncated"),
        (
            VARIABLE[:-1],
            (
                "log: UEFI_VARIABLE_DATA says 2 characters and 4 bytes of data, 40 bytes in all,"
                " but 39 are here"
                " [TCG PFP 1.06 section 10.2.6]"
            ),
        ),
        (
            HUGE_NAME,
            (
                "log: UEFI_VARIABLE_DATA says 9223372036854775808 characters and 4 bytes of data,"
                " 18446744073709551652 bytes in all, but 40 are here [TCG PFP 1.06 section 10.2.6]"
            ),
        ),
    ],
)
def test_bad_variable_data(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_variable_data(data, "log")
    assert str(error.value) == message


def x509(data: bytes) -> SignatureList:
    return SignatureList(efi.EFI_CERT_X509_GUID, b"", (SignatureData(OWNER, data),))


def test_signature_list_layout() -> None:
    want = (
        "a159c0a5e494a74a87b5ab155c2bf072" + "30000000" + "00000000" + "14000000"
        "33221100554477668899aabbccddeeff" + "deadbeef"
    )
    assert pack_signature_lists([x509(bytes.fromhex("deadbeef"))]).hex() == want


def test_signature_data_packs_owner_first() -> None:
    assert SignatureData(OWNER, b"cert").pack() == OWNER.bytes_le + b"cert"


signature_lists = st.builds(
    lambda kind, header, owners, data: SignatureList(
        kind, header, tuple(SignatureData(owner, data) for owner in owners)
    ),
    st.sampled_from([efi.EFI_CERT_X509_GUID, OWNER]),
    st.binary(max_size=8),
    st.lists(guids, min_size=1, max_size=3),
    st.binary(min_size=1, max_size=40),
)


@FUZZ
@given(st.lists(signature_lists, max_size=4))
def test_signature_lists_round_trip(lists: list[SignatureList]) -> None:
    assert parse_signature_lists(pack_signature_lists(lists), "db") == tuple(lists)


def raw_list(kind: UUID, size: int, header: int, signature: int, body: bytes) -> bytes:
    return kind.bytes_le + struct.pack("<III", size, header, signature) + body


SPEC = " [UEFI 2.10 section 32.4.1]"
SHA256 = efi.EFI_CERT_SHA256_GUID
X509 = efi.EFI_CERT_X509_GUID


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"\0" * 27,
            "db: offset 0x0: SignatureListHeader needs 28 bytes, 27 are left; the data is truncated",
        ),
        (
            raw_list(X509, 45, 0, 16, bytes(16)),
            f"db: offset 0x0: signature list of 45 bytes, 44 are left; the data is truncated{SPEC}",
        ),
        (
            raw_list(X509, 28, 0, 17, b""),
            (
                "db: offset 0x0: signature list of 28 bytes with a header of 0 does not hold whole signatures"
                f" of 17{SPEC}"
            ),
        ),
        (
            raw_list(X509, 46, 0, 15, bytes(18)),
            (
                "db: offset 0x0: signature list of 46 bytes with a header of 0 does not hold whole signatures"
                f" of 15{SPEC}"
            ),
        ),
        (
            raw_list(X509, 46, 0xFFFFFFFF, 18, bytes(18)),
            (
                "db: offset 0x0: signature list of 46 bytes with a header of 4294967295 does not hold whole"
                f" signatures of 18{SPEC}"
            ),
        ),
        (
            raw_list(SHA256, 76 - 1, 0, 47, bytes(47)),
            f"db: offset 0x0: signature of 31 bytes in a list of type {SHA256}, expected 32{SPEC}",
        ),
        (
            raw_list(X509, 44, 0, 16, bytes(16)),
            f"db: offset 0x0: signature of 0 bytes in a list of type {X509}, expected some{SPEC}",
        ),
        (
            pack_signature_lists([x509(b"abc")]) + b"\0",
            "db: offset 0x2f: SignatureListHeader needs 28 bytes, 1 are left; the data is truncated",
        ),
    ],
)
def test_bad_signature_lists(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_signature_lists(data, "db")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            SignatureList(X509, b"", ()),
            (
                "signature list: signatures of [] bytes in one list; a list holds at least one and all are"
                " of one size [UEFI 2.10 section 32.4.1]"
            ),
        ),
        (
            SignatureList(X509, b"", (SignatureData(OWNER, b"1"), SignatureData(OWNER, b"22"))),
            (
                "signature list: signatures of [1, 2] bytes in one list; a list holds at least one and all"
                " are of one size [UEFI 2.10 section 32.4.1]"
            ),
        ),
        (
            SignatureList(SHA256, b"", (SignatureData(OWNER, b"1"),)),
            (
                f"signature list: signature of 1 bytes in a list of type {SHA256}, expected 32"
                " [UEFI 2.10 section 32.4.1]"
            ),
        ),
    ],
)
def test_lists_that_do_not_pack(item: SignatureList, message: str) -> None:
    with pytest.raises(FormatError) as error:
        pack_signature_lists([item])
    assert str(error.value) == message


def test_boot_options_as_firmware_wrote_them() -> None:
    ui = devicepath.device_path(
        devicepath.fv(UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")),
        devicepath.fv_file(UUID("462caa21-7614-4503-836e-8ab6f4662331")),
    )
    assert LoadOption(0x109, "UiApp", ui).pack() == BOOT0000
    disk = devicepath.device_path(devicepath.pci_root(), devicepath.pci(1))
    auto = efi.BM_AUTO_CREATE_BOOT_OPTION.bytes_le
    assert LoadOption(1, "UEFI Misc Device", disk, auto).pack() == BOOT0001
    assert LoadOption.unpack(BOOT0001, "Boot0001") == LoadOption(1, "UEFI Misc Device", disk, auto)


@FUZZ
@given(st.integers(0, 2**32 - 1), texts, st.binary(max_size=30), st.binary(max_size=30))
def test_load_option_round_trip(attributes: int, text: str, path: bytes, optional: bytes) -> None:
    option = LoadOption(attributes, text, path, optional)
    assert LoadOption.unpack(option.pack(), "Boot0000") == option


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 5, "b: offset 0x0: LoadOptionHeader needs 6 bytes, 5 are left; the data is truncated"),
        (b"\0" * 6, "b: offset 0x6: the description of a load option does not end"),
        (b"\0" * 6 + b"a\0b", "b: offset 0x6: the description of a load option does not end"),
        (
            b"\1\0\0\0\5\0" + b"a\0\0\0" + b"1234",
            (
                "b: offset 0xa: device path of 5 bytes, 4 are left; the data is truncated"
                " [UEFI 2.10 section 3.1.3]"
            ),
        ),
    ],
)
def test_bad_load_options(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        LoadOption.unpack(data, "b")
    assert str(error.value) == message


def test_load_options_that_do_not_pack() -> None:
    with pytest.raises(FormatError, match=r"^load option: description 'a\\x00b' holds a NUL; remove it$"):
        LoadOption(1, "a\0b", b"").pack()
    with pytest.raises(FormatError, match=r"^LoadOptionHeader: a value does not fit its field"):
        LoadOption(1, "a", bytes(65536)).pack()


# Texts by the rules of UEFI 2.10 section 10.6.1.
@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ("02010c00d041030a00000000 01010600001f", "PciRoot(0x0)/Pci(0x1f,0x0)"),
        ("02010c00d041010500000000", "Acpi(PNP0501,0x0)"),
        ("02010c00ffff010500000000", "Acpi(???0501,0x0)"),
        (
            "04012a00 01000000 0008000000000000 0000020000000000 33221100554477668899aabbccddeeff 02 02",
            "HD(1,GPT,00112233-4455-6677-8899-AABBCCDDEEFF,0x800,0x20000)",
        ),
        (
            "04012a00 02000000 3f00000000000000 0001000000000000 78563412000000000000000000000000 01 01",
            "HD(2,MBR,0x12345678,0x3f,0x100)",
        ),
        ("04040a00 5c0061000000", "\\a"),
        ("04040c00 1b005b0061000000", "\\x1b[a"),
        ("04041000 2e206100 0ad8 00000000 0000", "\\u202ea\\ud80a"),
        ("03171000 01000000 0011223344556677", "NVMe(0x1,00-11-22-33-44-55-66-77)"),
        ("03120a00 0200ffff0000", "Sata(0x2,0xffff,0x0)"),
        ("03020800 01000200", "Scsi(0x1,0x2)"),
        ("030b2500 525400123456" + "00" * 26 + "01", "MAC(525400123456,0x1)"),
        ("0318 0c00 687474703a2f2f07", "Uri(http://\\x07)"),
        ("01041400 33221100554477668899aabbccddeeff", "VenHw(00112233-4455-6677-8899-AABBCCDDEEFF)"),
        ("01041600 33221100554477668899aabbccddeeffabcd", "VenHw(00112233-4455-6677-8899-AABBCCDDEEFF,abcd)"),
        ("010406001234", "VenHw(1234)"),
        ("0101070000011f", "Path(1,1,00011f)"),
        ("05010500ab", "Path(5,1,ab)"),
        ("01010600 0001 7f010400 01010600 0002", "Pci(0x1,0x0),Pci(0x2,0x0)"),
        ("", ""),
    ],
)
def test_device_path_text(nodes: str, text: str) -> None:
    assert devicepath.to_text(bytes.fromhex(nodes) + devicepath.END_ENTIRE) == text


def test_file_path_node() -> None:
    path = devicepath.device_path(devicepath.file_path("\\EFI\\BOOT\\BOOTX64.EFI"))
    assert path[:4].hex() == "04043000"
    assert devicepath.to_text(path) == "\\EFI\\BOOT\\BOOTX64.EFI"
    assert devicepath.to_text(b"") == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01", "p: offset 0x0: NodeHeader needs 4 bytes, 1 are left; the data is truncated"),
        (
            b"\x01\x01\x03\x00",
            "p: offset 0x0: device path node of 3 bytes, expected 4 to 4 [UEFI 2.10 section 10.2]",
        ),
        (
            b"\x01\x01\x06\x00\x00",
            "p: offset 0x0: device path node of 6 bytes, expected 4 to 5 [UEFI 2.10 section 10.2]",
        ),
        (
            b"\x01\x01\x06\x00\x00\x01",
            (
                "p: offset 0x6: the device path does not end with an end node; the data is truncated"
                " [UEFI 2.10 section 10.3.1]"
            ),
        ),
        (bytes(65537), "p: device path of 65537 bytes, at most 65536 are read"),
    ],
)
def test_bad_device_paths(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as error:
        devicepath.to_text(data, "p")
    assert str(error.value) == message


@FUZZ
@given(st.data())
def test_device_paths_of_known_nodes_never_fail(data: st.DataObject) -> None:
    kinds = st.sampled_from(sorted(devicepath._TEXT))
    nodes = data.draw(st.lists(st.tuples(kinds, st.binary(max_size=48)), max_size=5))
    packed = [devicepath.DevicePathNode(*kind, body).pack() for kind, body in nodes]
    path = devicepath.device_path(*packed)
    assert [(node.type, node.subtype) for node in devicepath.parse(path, "p")[:-1]] == [k for k, _ in nodes]
    assert devicepath.to_text(path).isprintable()


@FUZZ
@given(st.binary(max_size=200), st.integers(0, 120), st.integers(0, 255))
def test_fuzz(data: bytes, at: int, value: int) -> None:
    mutated = bytearray(pack_signature_lists([x509(b"abcd"), x509(b"ef")]))
    mutated[at % len(mutated)] = value
    for bad in (data, bytes(mutated), BOOT0001[:at] + bytes([value]) + BOOT0001[at + 1 :]):
        for parse in (
            lambda raw: parse_signature_lists(raw, "x"),
            lambda raw: LoadOption.unpack(raw, "x"),
            lambda raw: parse_variable_data(raw, "x"),
            devicepath.to_text,
        ):
            try:
                parse(bad)
            except FormatError:
                continue
