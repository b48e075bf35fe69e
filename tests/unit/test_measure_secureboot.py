from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.errors import FormatError, MeasureError
from recipes.formats.authenticode import image_digest, sign
from recipes.formats.efi import (
    EFI_CERT_RSA2048_GUID,
    EFI_CERT_SHA256_GUID,
    EFI_CERT_SHA384_GUID,
    EFI_CERT_X509_GUID,
    EFI_CERT_X509_SHA256_GUID,
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    EFI_SECURE_BOOT_ENABLE_DISABLE,
    Variable,
)
from recipes.measure import secureboot
from recipes.measure.secureboot import LoadedImage
from recipes.measure.trace import HashAlgorithm
from tests.unit.boot_images import key_pair
from tests.unit.measure_images import kernel

OWNER = UUID("11111111-2222-3333-4444-123456789abc")
DATABASE = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
PK = Variable("PK", EFI_GLOBAL_VARIABLE, 0x27, b"platform key")


def der(name: str) -> bytes:
    return key_pair(name)[1].public_bytes(Encoding.DER)


def database(name: str, *entries: bytes, kind: UUID = EFI_CERT_X509_GUID) -> Variable:
    """A signature database with one list for each entry, field by field."""
    lists = b""
    for entry in entries:
        size = 28 + 16 + len(entry)
        head = kind.bytes_le + size.to_bytes(4, "little") + bytes(4) + (16 + len(entry)).to_bytes(4, "little")
        lists += head + OWNER.bytes_le + entry
    return Variable(name, EFI_IMAGE_SECURITY_DATABASE, 0x27, lists)


def signed(name: str, by: str) -> LoadedImage:
    return LoadedImage(name, sign(kernel(), *key_pair(by)))


def authority(certificate: bytes) -> str:
    data = OWNER.bytes_le + certificate
    head = DATABASE + (2).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return hashlib.sha256(head + b"d\0b\0" + data).hexdigest()


@pytest.mark.parametrize(
    ("enable", "pk", "expected"),
    [
        (None, False, False),
        (b"\x01", False, False),
        (None, True, True),
        (b"\x01", True, True),
        (b"\0", True, False),
    ],
)
def test_is_enforced(enable: bytes | None, pk: bool, expected: bool) -> None:
    store = [PK] if pk else []
    if enable is not None:
        store.append(Variable("SecureBootEnable", EFI_SECURE_BOOT_ENABLE_DISABLE, 3, enable))
    assert secureboot.is_enforced(store) is expected


def test_an_empty_platform_key_is_none() -> None:
    assert not secureboot.is_enforced([Variable("PK", EFI_GLOBAL_VARIABLE, 0x27, b"")])


def test_each_entry_is_measured_once_where_it_is_first_used() -> None:
    store = [PK, database("db", der("one"), der("two"))]
    images = [signed("uki", "two"), signed("a", "two"), signed("b", "one"), signed("c", "two")]
    steps = secureboot.authority_steps(store, images, "store")
    assert [[step.digests[HashAlgorithm.SHA256].hex() for step in each] for each in steps] == [
        [authority(der("two"))],
        [],
        [authority(der("one"))],
        [],
    ]


def test_an_image_nobody_signed_is_refused() -> None:
    with pytest.raises(MeasureError) as caught:
        secureboot.authority_steps([database("db", der("one"))], [LoadedImage("u.efi", kernel())], "store")
    assert str(caught.value) == (
        "u.efi: the image is not signed; sign it with a key of db;"
        " under Secure Boot firmware refuses to load it"
    )


def test_an_image_of_a_stranger_is_refused() -> None:
    with pytest.raises(
        MeasureError, match=r"u\.efi: signed by .*; under Secure Boot firmware refuses to load it"
    ):
        secureboot.authority_steps([database("db", der("one"))], [signed("u.efi", "two")], "store")


def test_an_image_allowed_by_its_digest_is_not_guessed() -> None:
    image = signed("u.efi", "one")
    digest = image_digest(image.data, "sha256")
    store = [database("db", digest, kind=EFI_CERT_SHA256_GUID)]
    with pytest.raises(MeasureError) as caught:
        secureboot.authority_steps(store, [image], "store")
    assert str(caught.value) == (
        "u.efi: its digest is in db, and which entry firmware then measures is not modelled;"
        " sign the image and remove the digest"
    )


def test_forbidden_digest() -> None:
    image = signed("u.efi", "one")
    forbidden = database("dbx", image_digest(image.data, "sha256"), kind=EFI_CERT_SHA256_GUID)
    with pytest.raises(MeasureError) as caught:
        secureboot.authority_steps([database("db", der("one")), forbidden], [image], "store")
    assert str(caught.value) == "u.efi: its digest is in dbx, so firmware refuses to load it; rebuild it"


def test_forbidden_certificate() -> None:
    store = [database("db", der("one")), database("dbx", der("one"))]
    with pytest.raises(MeasureError) as caught:
        secureboot.authority_steps(store, [signed("u.efi", "one")], "store")
    assert str(caught.value) == (
        "u.efi: it is signed through a certificate in dbx, so firmware refuses to load it;"
        " sign it with another key"
    )


def test_a_dummy_dbx_changes_nothing() -> None:
    store = [database("db", der("one")), database("dbx", bytes(32), kind=EFI_CERT_SHA256_GUID)]
    assert len(secureboot.authority_steps(store, [signed("u.efi", "one")], "store")[0]) == 1


@pytest.mark.parametrize("name", ["db", "dbx"])
@pytest.mark.parametrize(
    ("kind", "size", "shown"),
    [
        (EFI_CERT_X509_SHA256_GUID, 48, "EFI_CERT_X509_SHA256"),
        (EFI_CERT_SHA384_GUID, 48, "EFI_CERT_SHA384"),
        (EFI_CERT_RSA2048_GUID, 256, "EFI_CERT_RSA2048"),
        (UUID(int=7), 4, "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_entries_of_other_types_are_not_passed_over(name: str, kind: UUID, size: int, shown: str) -> None:
    trusted = database("db", der("one"))
    odd = database(name, bytes(size), kind=kind)
    store = [trusted, odd] if name == "dbx" else [replace(trusted, data=trusted.data + odd.data)]
    with pytest.raises(MeasureError) as caught:
        secureboot.authority_steps(store, [signed("u.efi", "one")], "store")
    assert str(caught.value) == (
        f"store {name}: it holds entries of type {shown}, and what they allow or forbid is not modelled;"
        " keep only EFI_CERT_X509 and EFI_CERT_SHA256 entries"
    )


def test_a_broken_certificate_in_db() -> None:
    with pytest.raises(FormatError, match="store db: a certificate cannot be read"):
        secureboot.authority_steps([database("db", b"no DER")], [signed("u.efi", "one")], "store")
