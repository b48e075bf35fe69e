"""The variable store of OVMF and AAVMF: what Secure Boot keys are enrolled in, and what PCR 7 reads from.

    firmware volume header (EFI_SYSTEM_NV_DATA_FV) | VARIABLE_STORE_HEADER
    | variables, each AUTHENTICATED_VARIABLE_HEADER, name with NUL, data, aligned to 4 bytes | 0xff ...

Behind the store lie the work space and the spare blocks of fault-tolerant writes, taken over unchanged.

Spec: edk2-stable202502 MdeModulePkg/Include/Guid/VariableFormat.h and
MdeModulePkg/Universal/Variable/RuntimeDxe/VariableParsing.c. Not modelled: a write that a reset cut short and
that firmware would finish from the spare blocks; stores in the format without authentication.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated
from uuid import UUID

from ..binary import Struct, guid, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import align_up
from .efi import (
    EFI_CERT_SHA256_GUID,
    EFI_CERT_X509_GUID,
    EFI_CUSTOM_MODE_ENABLE,
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    EFI_SECURE_BOOT_ENABLE_DISABLE,
    Variable,
    VariableAttributes,
    decode_utf16,
    encode_utf16,
)
from .efi_signature import SignatureData, SignatureList, pack_signature_lists
from .firmware_volume import EFI_SYSTEM_NV_DATA_FV, volume_header

_SPEC = "edk2-stable202502 VariableFormat.h"
# Spec: edk2-stable202502 MdeModulePkg/MdeModulePkg.dec gEfiAuthenticatedVariableGuid.
EFI_AUTHENTICATED_VARIABLE = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
# Spec: VariableFormat.h, as all the constants below.
VARIABLE_STORE_FORMATTED = 0x5A
VARIABLE_STORE_HEALTHY = 0xFE
VARIABLE_DATA = 0x55AA
VAR_ADDED = 0x3F
VAR_IN_DELETED_TRANSITION = 0xFE
_ERASED = 0xFF
_NO_SIZE = 0xFFFF_FFFF
# Characters of a bad name in a message.
_SHOWN = 40

_NV_BS = VariableAttributes.NON_VOLATILE | VariableAttributes.BOOTSERVICE_ACCESS
# Spec: UEFI 2.10 section 32.3 (PK, KEK) and 32.6.1 (db, dbx).
_KEY_ATTRIBUTES = (
    _NV_BS | VariableAttributes.RUNTIME_ACCESS | VariableAttributes.TIME_BASED_AUTHENTICATED_WRITE_ACCESS
)


class VariableStoreHeader(Struct):
    """VARIABLE_STORE_HEADER."""

    signature: guid
    size: u32
    format: u8
    state: u8
    reserved_0x16: u16
    reserved_0x18: u32


class AuthenticatedVariableHeader(Struct):
    """AUTHENTICATED_VARIABLE_HEADER; name and data follow without padding."""

    start_id: u16
    state: u8
    reserved_0x03: u8
    attributes: u32
    monotonic_count: u64
    time_stamp: Annotated[bytes, raw(16)]
    pub_key_index: u32
    name_size: u32
    data_size: u32
    vendor_guid: guid


def read(data: bytes, source: str) -> tuple[Variable, ...]:
    """The variables that firmware finds in the store, in the order in which their names first occur.

    As firmware does: of several entries of one name the first added one counts; where there is none, the last
    one whose deletion was begun and not finished. All others are deleted, or were never finished.

    Raises:
        FormatError: no variable store, or a variable that does not fit in it.

    Spec: edk2-stable202502 VariableParsing.c FindVariableEx().
    """
    live: dict[tuple[UUID, str], tuple[bool, Variable]] = {}
    start, end = _bounds(data, source)
    for added, variable in _entries(data, start, end, source):
        key = (variable.vendor, variable.name)
        if key not in live or not live[key][0]:
            live[key] = (added, variable)
    return tuple(variable for _, variable in live.values())


def write(template: bytes, variables: Sequence[Variable], source: str = "variable store") -> bytes:
    """The store ``template`` with variables in it, in their order; the same size as the template.

    Time stamps and monotonic counts are zero, so any authenticated update is newer.

    Args:
        template: an empty store as it is shipped, ``OVMF_VARS_4M.fd``.
        source: the template's name, for messages.

    Raises:
        FormatError: the template is not an empty store, the variables do not fit in it, or one of them is
            volatile, empty or there twice.
    """
    start, end = _bounds(template, source)
    if template.count(b"\xff", start, end) != end - start:
        what = "the store holds variables; start from an empty one such as OVMF_VARS_4M.fd"
        raise FormatError(source, what, offset=start)
    seen: set[tuple[UUID, str]] = set()
    body = bytearray()
    for variable in variables:
        key = (variable.vendor, variable.name)
        if key in seen:
            raise FormatError(source, f"variable {variable.name!r} of {variable.vendor} is given twice")
        seen.add(key)
        body += b"\xff" * (align_up(start + len(body), 4) - start - len(body))
        body += _pack(variable, source)
    if len(body) > end - start:
        raise FormatError(source, f"variables of {len(body)} bytes, the store has room for {end - start}")
    return template[:start] + bytes(body) + template[start + len(body) :]


def secure_boot_variables(
    owner: UUID, pk: bytes, kek: Sequence[bytes], db: Sequence[bytes], dbx: Sequence[bytes] = ()
) -> tuple[Variable, ...]:
    """The variables that turn Secure Boot on with these keys.

    Without ``dbx`` there is no such variable: firmware measures it with a length of 0 and forbids nothing.
    virt-fw-vars puts a one-hash list in its place, so PCR 7 of a store it made differs.

    Args:
        owner: who enrolled them; hashed into PCR 7 with every key.
        pk: DER certificate of the platform key.
        kek: DER certificates that may update db and dbx.
        db: DER certificates that may sign what boots.
        dbx: SHA-256 Authenticode digests of images that must not boot.

    Raises:
        FormatError: a certificate is empty or a digest is not of 32 bytes.

    Spec: UEFI 2.10 section 32.3; SecureBootEnable and CustomMode edk2-stable202502
    SecurityPkg/Library/AuthVariableLib/AuthServiceInternal.h.
    """
    keys = [
        Variable("PK", EFI_GLOBAL_VARIABLE, _KEY_ATTRIBUTES, _certificates(owner, [pk])),
        Variable("KEK", EFI_GLOBAL_VARIABLE, _KEY_ATTRIBUTES, _certificates(owner, kek)),
        Variable("db", EFI_IMAGE_SECURITY_DATABASE, _KEY_ATTRIBUTES, _certificates(owner, db)),
    ]
    if dbx:
        hashes = tuple(SignatureData(owner, digest) for digest in dbx)
        value = pack_signature_lists([SignatureList(EFI_CERT_SHA256_GUID, b"", hashes)])
        keys.append(Variable("dbx", EFI_IMAGE_SECURITY_DATABASE, _KEY_ATTRIBUTES, value))
    return (
        *keys,
        Variable("SecureBootEnable", EFI_SECURE_BOOT_ENABLE_DISABLE, _NV_BS, b"\x01"),
        Variable("CustomMode", EFI_CUSTOM_MODE_ENABLE, _NV_BS, b"\x00"),
    )


def _certificates(owner: UUID, certificates: Sequence[bytes]) -> bytes:
    # One list each: signatures of one list are of one size, certificates are not.
    lists = [
        SignatureList(EFI_CERT_X509_GUID, b"", (SignatureData(owner, certificate),))
        for certificate in certificates
    ]
    return pack_signature_lists(lists)


def _bounds(data: bytes, source: str) -> tuple[int, int]:
    """Where the variables start and where the store ends, from the start of ``data``."""
    volume = volume_header(data, 0, source)
    if volume.file_system_guid != EFI_SYSTEM_NV_DATA_FV:
        what = f"volume format is {volume.file_system_guid}, expected {EFI_SYSTEM_NV_DATA_FV}"
        raise FormatError(source, f"{what}; this is not a variable store", offset=16, spec=_SPEC)
    at = volume.header_length
    store = VariableStoreHeader.unpack(data, at, source=source)
    if store.signature != EFI_AUTHENTICATED_VARIABLE:
        what = f"store signature is {store.signature}, expected {EFI_AUTHENTICATED_VARIABLE}"
        raise FormatError(source, f"{what}; only stores of authenticated variables are read", offset=at)
    if (store.format, store.state) != (VARIABLE_STORE_FORMATTED, VARIABLE_STORE_HEALTHY):
        what = f"store format {store.format:#04x} and state {store.state:#04x}, expected 0x5a and 0xfe"
        raise FormatError(source, what, offset=at, spec=_SPEC)
    if not store.SIZE <= store.size <= volume.fv_length - at:
        what = f"store of {store.size} bytes in a volume of {volume.fv_length}"
        raise FormatError(source, what, offset=at, spec=_SPEC)
    return at + store.SIZE, at + store.size


def _entries(data: bytes, start: int, end: int, source: str) -> Iterator[tuple[bool, Variable]]:
    """The live entries in order, each with whether it is added (else its deletion was begun)."""
    offset = start
    while offset + AuthenticatedVariableHeader.SIZE <= end:
        head = AuthenticatedVariableHeader.unpack(data, offset, source=source)
        if head.start_id == 0xFFFF:
            return
        if head.start_id != VARIABLE_DATA:
            what = f"variable starts with {head.start_id:#06x}, expected {VARIABLE_DATA:#06x} or 0xffff"
            raise FormatError(source, what, offset=offset, spec=_SPEC)
        name_size, data_size = _sizes(head)
        name = offset + head.SIZE
        value, after = name + name_size, name + name_size + data_size
        if after > end:
            what = f"variable with a name of {name_size} and data of {data_size} bytes, {end - name} are left"
            raise FormatError(source, what, offset=offset, spec=_SPEC)
        if head.state in (VAR_ADDED, VAR_ADDED & VAR_IN_DELETED_TRANSITION):
            text = _name(data[name:value], source, name)
            variable = Variable(text, head.vendor_guid, head.attributes, data[value:after])
            yield head.state == VAR_ADDED, variable
        offset = align_up(after, 4)


def _sizes(head: AuthenticatedVariableHeader) -> tuple[int, int]:
    """Sizes of name and data; both 0 where a reset came before the header was written.

    Spec: VariableParsing.c NameSizeOfVariable(), DataSizeOfVariable().
    """
    if head.state == _ERASED or _NO_SIZE in (head.attributes, head.name_size, head.data_size):
        return 0, 0
    return head.name_size, head.data_size


def _name(data: bytes, source: str, offset: int) -> str:
    text = decode_utf16(data, source)
    if len(text) < 2 or "\0" in text[:-1] or text[-1] != "\0":
        what = f"variable name {text[:_SHOWN]!r} is not one string that ends with a NUL"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return text[:-1]


def _pack(variable: Variable, source: str) -> bytes:
    if not variable.name or "\0" in variable.name:
        raise FormatError(source, f"variable name {variable.name!r} is empty or holds a NUL")
    if not variable.data or not variable.attributes & VariableAttributes.NON_VOLATILE:
        what = f"variable {variable.name!r} is empty or volatile; a store holds neither"
        raise FormatError(source, what, spec="UEFI 2.10 section 8.2.3")
    name = encode_utf16(variable.name + "\0")
    head = AuthenticatedVariableHeader(
        start_id=VARIABLE_DATA,
        state=VAR_ADDED,
        reserved_0x03=0,
        attributes=variable.attributes,
        monotonic_count=0,
        time_stamp=bytes(16),
        pub_key_index=0,
        name_size=len(name),
        data_size=len(variable.data),
        vendor_guid=variable.vendor,
    )
    return head.pack() + name + variable.data
