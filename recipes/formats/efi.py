"""UEFI variables and boot options: the byte formats behind PCR 1 and PCR 7, and the GUIDs they use.

    UEFI_VARIABLE_DATA     vendor GUID | u64 name length | u64 data length | name | data
    EFI_LOAD_OPTION        u32 attributes | u16 path length | description, NUL | device path | optional data

Spec: UEFI 2.10 sections 3.1.3 and 8.2; TCG PC Client Platform Firmware Profile 1.06 section 10.2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from uuid import UUID

from ..binary import Struct, guid, u16, u32, u64
from ..errors import FormatError

# Vendor GUIDs of variables. Spec: UEFI 2.10 sections 3.3 and 32.6.1; the others edk2-stable202502
# SecurityPkg/SecurityPkg.dec [Guids], and shim 15.8 lib/guid.c.
EFI_GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
EFI_IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
EFI_SECURE_BOOT_ENABLE_DISABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
EFI_CUSTOM_MODE_ENABLE = UUID("c076ec0c-7028-4399-a072-71ee5c448b9f")
EFI_VENDOR_KEYS_NV = UUID("9073e4e0-60ec-4b6e-9903-4c223c260f3c")
EFI_CERT_DB = UUID("d9bee56e-75dc-49d9-b4d7-b534210f637a")
SHIM_LOCK = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")

# Optional data of the boot options that BDS makes for found devices. Spec: edk2-stable202502
# MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c mBmAutoCreateBootOptionGuid.
BM_AUTO_CREATE_BOOT_OPTION = UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")

# Signature types. Spec: UEFI 2.10 section 32.4.1.
EFI_CERT_SHA1_GUID = UUID("826ca512-cf10-4ac9-b187-be01496631bd")
EFI_CERT_SHA256_GUID = UUID("c1c41626-504c-4092-aca9-41f936934328")
EFI_CERT_SHA384_GUID = UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01")
EFI_CERT_SHA512_GUID = UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a")
EFI_CERT_RSA2048_GUID = UUID("3c5766e8-269c-4e34-aa14-ed776e85b3b6")
EFI_CERT_X509_GUID = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
EFI_CERT_X509_SHA256_GUID = UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")
EFI_CERT_TYPE_PKCS7_GUID = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")


def encode_utf16(text: str) -> bytes:
    """``text`` as UTF-16LE without a terminator; lone surrogates pass, as firmware lets them."""
    return text.encode("utf-16-le", "surrogatepass")


def decode_utf16(data: bytes, source: str) -> str:
    """The text of UTF-16LE bytes; lone surrogates stay in the text, so encoding gives the bytes back.

    Raises:
        FormatError: an odd number of bytes.
    """
    if len(data) % 2:
        raise FormatError(source, f"a UTF-16 string of {len(data)} bytes; its length must be even")
    return data.decode("utf-16-le", "surrogatepass")


class VariableAttributes(IntFlag):
    """Attributes of a variable. Spec: UEFI 2.10 section 8.2.1 GetVariable()."""

    NON_VOLATILE = 0x01
    BOOTSERVICE_ACCESS = 0x02
    RUNTIME_ACCESS = 0x04
    HARDWARE_ERROR_RECORD = 0x08
    AUTHENTICATED_WRITE_ACCESS = 0x10
    TIME_BASED_AUTHENTICATED_WRITE_ACCESS = 0x20
    APPEND_WRITE = 0x40
    ENHANCED_AUTHENTICATED_ACCESS = 0x80


@dataclass(frozen=True)
class Variable:
    """A UEFI variable.

    Attributes:
        name: without the terminating NUL.
        attributes: ``VariableAttributes`` as stored; 0 where they are not known (a measured variable).
    """

    name: str
    vendor: UUID
    attributes: int
    data: bytes


class UefiVariableData(Struct):
    """The fixed start of UEFI_VARIABLE_DATA. Spec: TCG PFP 1.06 section 10.2.6."""

    variable_name: guid
    unicode_name_length: u64
    variable_data_length: u64


def variable_data(name: str, vendor: UUID, data: bytes) -> bytes:
    """UEFI_VARIABLE_DATA as it is hashed for driver configuration and authority events.

    An absent variable is measured with empty ``data``.

    Spec: TCG PFP 1.06 section 10.2.6; the name carries no NUL and its length counts 16-bit characters.
    """
    encoded = encode_utf16(name)
    head = UefiVariableData(
        variable_name=vendor, unicode_name_length=len(encoded) // 2, variable_data_length=len(data)
    )
    return head.pack() + encoded + data


def parse_variable_data(data: bytes, source: str) -> Variable:
    """The variable inside UEFI_VARIABLE_DATA; its attributes are not measured and come back as 0.

    Raises:
        FormatError: the lengths do not add up to the size of ``data``.
    """
    head = UefiVariableData.unpack(data, source=source)
    name_size = 2 * head.unicode_name_length
    want = head.SIZE + name_size + head.variable_data_length
    if want != len(data):
        what = (
            f"UEFI_VARIABLE_DATA says {head.unicode_name_length} characters and"
            f" {head.variable_data_length} bytes of data, {want} bytes in all, but {len(data)} are here"
        )
        raise FormatError(source, what, spec="TCG PFP 1.06 section 10.2.6")
    end = head.SIZE + name_size
    return Variable(decode_utf16(data[head.SIZE : end], source), head.variable_name, 0, data[end:])


class LoadOptionAttributes(IntFlag):
    """Attributes of a boot option. Spec: UEFI 2.10 section 3.1.3."""

    LOAD_OPTION_ACTIVE = 0x001
    LOAD_OPTION_FORCE_RECONNECT = 0x002
    LOAD_OPTION_HIDDEN = 0x008
    LOAD_OPTION_CATEGORY_APP = 0x100


class LoadOptionHeader(Struct):
    """The fixed start of EFI_LOAD_OPTION. Spec: UEFI 2.10 section 3.1.3."""

    attributes: u32
    file_path_list_length: u16


@dataclass(frozen=True)
class LoadOption:
    """EFI_LOAD_OPTION, the value of a ``Boot####`` variable.

    Attributes:
        attributes: ``LoadOptionAttributes``.
        description: without the terminating NUL.
        file_path: packed device paths, with their end nodes.
    """

    attributes: int
    description: str
    file_path: bytes
    optional_data: bytes = b""

    def pack(self) -> bytes:
        """The value of the variable.

        Raises:
            FormatError: the description holds a NUL, or the device path is longer than 65535 bytes.
        """
        if "\0" in self.description:
            raise FormatError("load option", f"description {self.description!r} holds a NUL; remove it")
        head = LoadOptionHeader(attributes=self.attributes, file_path_list_length=len(self.file_path))
        return head.pack() + encode_utf16(self.description + "\0") + self.file_path + self.optional_data

    @classmethod
    def unpack(cls, data: bytes, source: str) -> LoadOption:
        """The boot option in ``data``.

        Raises:
            FormatError: the description does not end, or the device path is longer than the data.
        """
        head = LoadOptionHeader.unpack(data, source=source)
        end = head.SIZE
        while data[end : end + 2] != b"\0\0":
            end += 2
            if end + 2 > len(data):
                raise FormatError(source, "the description of a load option does not end", offset=head.SIZE)
        path = end + 2
        left = len(data) - path
        if head.file_path_list_length > left:
            what = (
                f"device path of {head.file_path_list_length} bytes, {left} are left; the data is truncated"
            )
            raise FormatError(source, what, offset=path, spec="UEFI 2.10 section 3.1.3")
        after = path + head.file_path_list_length
        description = decode_utf16(data[head.SIZE : end], source)
        return cls(head.attributes, description, data[path:after], data[after:])
