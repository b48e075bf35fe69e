"""What the data of a TCG event says, in one line for people; hostile data is shown, never trusted.

Spec: TCG PC Client Platform Firmware Profile 1.06 sections 10.2 and 10.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from uuid import UUID

from ..binary import Struct, u32, u64
from ..errors import FormatError
from .devicepath import escape, to_text
from .efi import EFI_GLOBAL_VARIABLE, LoadOption, Variable, decode_utf16, parse_variable_data
from .event_type import EventType

# Longer texts say no more to a person; the whole data stays in the event.
_MAX_TEXT = 200
_MAX_HEX = 32


class EfiImageLoadEvent(Struct):
    """UEFI_IMAGE_LOAD_EVENT up to its device path. Spec: TCG PFP 1.06 section 10.2.3."""

    image_location_in_memory: u64
    image_length_in_memory: u64
    image_link_time_address: u64
    length_of_device_path: u64


class EfiPlatformFirmwareBlob(Struct):
    """UEFI_PLATFORM_FIRMWARE_BLOB. Spec: TCG PFP 1.06 section 10.2, UEFI_PLATFORM_FIRMWARE_BLOB."""

    blob_base: u64
    blob_length: u64


class TaggedEvent(Struct):
    """TCG_PCClientTaggedEvent up to its data. Spec: TCG PFP 1.06 section 10.4.2, EV_EVENT_TAG."""

    tagged_event_id: u32
    tagged_event_data_size: u32


def describe_data(kind: int, data: bytes) -> str:
    """One line of at most some hundred printable characters; hex where the data does not parse."""
    show = _BY_TYPE.get(kind, _string)
    try:
        text = show(data)
    except FormatError:
        text = _hex(data)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _hex(data: bytes) -> str:
    rest = f"… ({len(data)} bytes)" if len(data) > _MAX_HEX else ""
    return data[:_MAX_HEX].hex() + rest


def _string(data: bytes) -> str:
    """Text where the bytes are printable ASCII or UTF-16, with a NUL at the end or not; otherwise hex."""
    head = data[: 4 * _MAX_TEXT]
    if len(head) >= 4 and not any(head[1:16:2]) and all(head[0:4:2]):
        text = decode_utf16(head[: len(head) & ~1], "event").rstrip("\0")
    else:
        text = head.rstrip(b"\0").decode("latin-1")
        if not (text.isascii() and text.replace("\n", " ").replace("\t", " ").isprintable()):
            return _hex(data)
    return escape(text)


def _no_action(data: bytes) -> str:
    if data.startswith(b"StartupLocality\0") and len(data) == 17:
        return f"StartupLocality {data[16]}"
    signature = data[:16].rstrip(b"\0")
    if data.startswith(b"Spec ID Event"):
        return escape(signature.decode("latin-1"))
    return _string(signature) if signature.isascii() else _hex(data)


def _separator(data: bytes) -> str:
    # Spec: TCG PFP 1.06 section 10.4.1 EV_SEPARATOR: 0 or ffffffff without, 1 with an error before it.
    if data == b"\1\0\0\0":
        return "00000001 (an error was measured)"
    return _hex(data)


def _version(data: bytes) -> str:
    if len(data) == 16 and any(data[1::2]):
        return str(UUID(bytes_le=data))
    return _string(data)


def _variable(data: bytes) -> str:
    variable = parse_variable_data(data, "event")
    name = escape(variable.name)
    if variable.vendor == EFI_GLOBAL_VARIABLE and _is_boot_option(variable):
        option = LoadOption.unpack(variable.data, "event")
        return f"{name} {escape(option.description)} {to_text(option.file_path)}"
    value = _hex(variable.data) if len(variable.data) <= _MAX_HEX else f"{len(variable.data)} bytes"
    return f"{name} {value or 'empty'}"


def _is_boot_option(variable: Variable) -> bool:
    number = variable.name.removeprefix("Boot")
    return len(number) == 4 and len(variable.name) == 8 and not set(number) - set("0123456789ABCDEF")


def _image_load(data: bytes) -> str:
    head = EfiImageLoadEvent.unpack(data)
    end = head.SIZE + head.length_of_device_path
    # shim 15 leaves some bytes behind the path (it counts the flexible array's own size in).
    if not end <= len(data) <= end + 8:
        raise FormatError("event", "the device path does not fill the event")
    where = to_text(data[head.SIZE : end]) or "no device path"
    return f"{where} ({head.image_length_in_memory} bytes)"


def _blob(data: bytes) -> str:
    if len(data) != EfiPlatformFirmwareBlob.SIZE:
        raise FormatError("event", "not a firmware blob")
    blob = EfiPlatformFirmwareBlob.unpack(data)
    return f"{blob.blob_base:#x} + {blob.blob_length:#x}"


def _described(data: bytes) -> str:
    """The description that the second versions of blob and table events start with (u8 length, text)."""
    if not data or data[0] > len(data) - 1:
        raise FormatError("event", "no description")
    text = _string(data[1 : 1 + data[0]])
    rest = data[1 + data[0] :]
    if len(rest) == EfiPlatformFirmwareBlob.SIZE:
        return f"{text} {_blob(rest)}"
    return text


def _tagged(data: bytes) -> str:
    head = TaggedEvent.unpack(data)
    if head.tagged_event_data_size != len(data) - head.SIZE:
        raise FormatError("event", "the tagged data does not fill the event")
    return f"{head.tagged_event_id:#010x} {_string(data[head.SIZE :])}"


def _gpt(data: bytes) -> str:
    # GPT header (92 bytes), u64 count, entries of 128 bytes. Spec: TCG PFP 1.06 section 10.2.6.
    if len(data) < 100 or not data.startswith(b"EFI PART"):
        raise FormatError("event", "not a GPT event")
    count = struct.unpack_from("<Q", data, 92)[0]
    return f"disk {UUID(bytes_le=data[56:72])}, {count} partitions"


def _blob_or_string(data: bytes) -> str:
    # EV_POST_CODE holds either. Spec: TCG PFP 1.06 section 10.4.1.
    return _string(data) if len(data) != EfiPlatformFirmwareBlob.SIZE or data[:16].isascii() else _blob(data)


def _image_or_string(data: bytes) -> str:
    try:
        return _image_load(data)
    except FormatError:
        return _string(data)


_BY_TYPE: dict[int, Callable[[bytes], str]] = {
    EventType.EV_NO_ACTION: _no_action,
    EventType.EV_SEPARATOR: _separator,
    EventType.EV_POST_CODE: _blob_or_string,
    EventType.EV_EVENT_TAG: _tagged,
    EventType.EV_S_CRTM_VERSION: _version,
    EventType.EV_EFI_VARIABLE_DRIVER_CONFIG: _variable,
    EventType.EV_EFI_VARIABLE_BOOT: _variable,
    EventType.EV_EFI_VARIABLE_BOOT2: _variable,
    EventType.EV_EFI_VARIABLE_AUTHORITY: _variable,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: _image_or_string,
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: _image_or_string,
    EventType.EV_EFI_RUNTIME_SERVICES_DRIVER: _image_or_string,
    EventType.EV_EFI_GPT_EVENT: _gpt,
    EventType.EV_EFI_GPT_EVENT2: _gpt,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB: _blob,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _described,
    EventType.EV_EFI_HANDOFF_TABLES2: _described,
}
