"""UEFI device paths: the nodes that boot options are built from, and their text for people.

Each node is ``u8 type | u8 subtype | u16 length | data``; a path ends with the node 7f ff 04 00.

Spec: UEFI 2.10 chapter 10 (nodes in 10.3, text in 10.6). Nodes without a text here print as
``Path(type,subtype,hex)``, the generic form of section 10.6.1.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from ..binary import Struct, u8, u16
from ..errors import FormatError
from .efi import encode_utf16

# End nodes. Spec: UEFI 2.10 section 10.3.1.
END_ENTIRE = b"\x7f\xff\x04\x00"
END_INSTANCE = b"\x7f\x01\x04\x00"

# EISA id of PNP0A03, a PCI host bridge. Spec: UEFI 2.10 section 10.3.3; PNP ids pack "PNP" into 0x41d0.
_PNP0A03 = 0x0A03_41D0
# A load option's path has a u16 length; nothing longer is real, and the bound limits work on hostile bytes.
MAX_SIZE = 0x1_0000


class NodeHeader(Struct):
    """Every node's start. Spec: UEFI 2.10 section 10.2 EFI_DEVICE_PATH_PROTOCOL."""

    type: u8
    subtype: u8
    length: u16


@dataclass(frozen=True)
class DevicePathNode:
    """One node: type, subtype and the data behind its four-byte header."""

    type: int
    subtype: int
    data: bytes

    def pack(self) -> bytes:
        """The node with its header.

        Raises:
            FormatError: the data is longer than a node can be.
        """
        length = NodeHeader.SIZE + len(self.data)
        return NodeHeader(type=self.type, subtype=self.subtype, length=length).pack() + self.data


def pci_root(uid: int = 0) -> bytes:
    """Node ``PciRoot(uid)``: the ACPI device PNP0A03. Spec: UEFI 2.10 section 10.3.3."""
    return DevicePathNode(0x02, 0x01, struct.pack("<II", _PNP0A03, uid)).pack()


def pci(device: int, function: int = 0) -> bytes:
    """Node ``Pci(device,function)``. Spec: UEFI 2.10 section 10.3.2.1 (function comes first)."""
    return DevicePathNode(0x01, 0x01, bytes([function, device])).pack()


def fv(name: UUID) -> bytes:
    """Node ``Fv(name)``: a firmware volume. Spec: PI 1.8 volume III section 8.3."""
    return DevicePathNode(0x04, 0x07, name.bytes_le).pack()


def fv_file(name: UUID) -> bytes:
    """Node ``FvFile(name)``: a file of a firmware volume. Spec: PI 1.8 volume III section 8.2."""
    return DevicePathNode(0x04, 0x06, name.bytes_le).pack()


def file_path(name: str) -> bytes:
    """Node of a file: its path with backslashes. Spec: UEFI 2.10 section 10.3.5.4 (NUL-terminated)."""
    return DevicePathNode(0x04, 0x04, encode_utf16(name + "\0")).pack()


def device_path(*nodes: bytes) -> bytes:
    """The packed nodes and the end node."""
    return b"".join(nodes) + END_ENTIRE


def parse(data: bytes, source: str) -> tuple[DevicePathNode, ...]:
    """The nodes of all paths in ``data``, end nodes included; no bytes give no nodes.

    Raises:
        FormatError: a node's length is below 4 or beyond the data, or the last node is not an end node.
    """
    if len(data) > MAX_SIZE:
        raise FormatError(source, f"device path of {len(data)} bytes, at most {MAX_SIZE} are read")
    nodes: list[DevicePathNode] = []
    offset = 0
    while offset < len(data):
        head = NodeHeader.unpack(data, offset, source=source)
        if not NodeHeader.SIZE <= head.length <= len(data) - offset:
            what = f"device path node of {head.length} bytes, expected 4 to {len(data) - offset}"
            raise FormatError(source, what, offset=offset, spec="UEFI 2.10 section 10.2")
        body = data[offset + NodeHeader.SIZE : offset + head.length]
        nodes.append(DevicePathNode(head.type, head.subtype, body))
        offset += head.length
    if nodes and (nodes[-1].type, nodes[-1].subtype) != (0x7F, 0xFF):
        what = "the device path does not end with an end node; the data is truncated"
        raise FormatError(source, what, offset=offset, spec="UEFI 2.10 section 10.3.1")
    return tuple(nodes)


def to_text(data: bytes, source: str = "device path") -> str:
    r"""The path for people, ``PciRoot(0x0)/Pci(0x1,0x0)/HD(1,GPT,...)/\EFI\BOOT\BOOTX64.EFI``.

    Control characters in names are escaped. Several paths or instances are joined by a comma.

    Raises:
        FormatError: the bytes are not device path nodes.
    """
    instances: list[list[str]] = [[]]
    for node in parse(data, source):
        if node.type == 0x7F:
            instances.append([])
        else:
            instances[-1].append(_node_text(node))
    return ",".join("/".join(nodes) for nodes in instances if nodes)


def _node_text(node: DevicePathNode) -> str:
    size, show = _TEXT.get((node.type, node.subtype), (None, None))
    # A node of another size than its definition is shown by its bytes: nothing is read past its end.
    if show is None or (size is not None and len(node.data) != size):
        return f"Path({node.type},{node.subtype},{node.data.hex()})"
    return show(node.data)


def _acpi(data: bytes) -> str:
    hid, uid = struct.unpack("<II", data)
    if hid == _PNP0A03:
        return f"PciRoot({uid:#x})"
    letters = "".join(chr(0x40 + (hid >> shift & 0x1F)) for shift in (10, 5, 0))
    return f"Acpi({letters if letters.isalpha() else '???'}{hid >> 16:04X},{uid:#x})"


def _hard_drive(data: bytes) -> str:
    number, start, size, signature, _table, kind = struct.unpack("<IQQ16sBB", data)
    if kind == 2:
        name = f"GPT,{UUID(bytes_le=signature)}".upper()
    elif kind == 1:
        name = f"MBR,{int.from_bytes(signature[:4], 'little'):#010x}"
    else:
        name = f"{kind},{signature.hex()}"
    return f"HD({number},{name},{start:#x},{size:#x})"


def _file_path(data: bytes) -> str:
    text = data[: len(data) & ~1].decode("utf-16-le", "surrogatepass").partition("\0")[0]
    return escape(text)


def _vendor(label: str) -> Callable[[bytes], str]:
    def show(data: bytes) -> str:
        if len(data) < 16:
            return f"{label}({data.hex()})"
        rest = f",{data[16:].hex()}" if data[16:] else ""
        return f"{label}({_guid(data[:16])}{rest})"

    return show


def _guid(data: bytes) -> str:
    return str(UUID(bytes_le=data)).upper()


def _numbers(label: str, form: str) -> Callable[[bytes], str]:
    def show(data: bytes) -> str:
        return f"{label}({','.join(f'{value:#x}' for value in struct.unpack(form, data))})"

    return show


def escape(text: str) -> str:
    """``text`` with everything that is not printable written as an escape, so it cannot steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


# (type, subtype) -> size of the data, or None for any, and its text. Spec: UEFI 2.10 section 10.6.1.6.
_TEXT: dict[tuple[int, int], tuple[int | None, Callable[[bytes], str]]] = {
    (0x01, 0x01): (2, lambda data: f"Pci({data[1]:#x},{data[0]:#x})"),
    (0x01, 0x03): (20, _numbers("MemoryMapped", "<IQQ")),
    (0x01, 0x04): (None, _vendor("VenHw")),
    (0x01, 0x05): (4, _numbers("Ctrl", "<I")),
    (0x02, 0x01): (8, _acpi),
    (0x03, 0x02): (4, _numbers("Scsi", "<HH")),
    (0x03, 0x05): (2, _numbers("USB", "<BB")),
    (0x03, 0x0A): (None, _vendor("VenMsg")),
    (0x03, 0x0B): (33, lambda data: f"MAC({data[: 6 if data[32] in (0, 1) else 32].hex()},{data[32]:#x})"),
    (0x03, 0x12): (6, _numbers("Sata", "<HHH")),
    (0x03, 0x17): (12, lambda data: f"NVMe({int.from_bytes(data[:4], 'little'):#x},{data[4:].hex('-')})"),
    (0x03, 0x18): (None, lambda data: f"Uri({escape(data.decode('latin-1'))})"),
    (0x04, 0x01): (38, _hard_drive),
    (0x04, 0x03): (None, _vendor("VenMedia")),
    (0x04, 0x04): (None, _file_path),
    (0x04, 0x06): (16, lambda data: f"FvFile({_guid(data)})"),
    (0x04, 0x07): (16, lambda data: f"Fv({_guid(data)})"),
    (0x04, 0x08): (20, lambda data: "Offset({:#x},{:#x})".format(*struct.unpack("<4xQQ", data))),
}
