"""Device trees as text that people read and dtc compiles, with what caused each part beside it.

Spec: Devicetree Specification v0.4 chapter 6 (DTS format); dtc 1.6.1 ``dtc-lexer.l``, ``util.c``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .fdt import Node, Property, check_names

# Text or numbers whatever the bytes look like: Devicetree Specification v0.4 sections 2.3, 3.6, 3.8 and Linux
# Documentation/devicetree/bindings (chosen, interrupt-controller/arm,gic-v3, arm/psci).
_TEXT = frozenset(
    {
        "bootargs",
        "compatible",
        "device_type",
        "enable-method",
        "label",
        "method",
        "model",
        "status",
        "stdout-path",
    }
)
_NUMBERS = frozenset({"clock-frequency", "interrupts", "kaslr-seed", "phandle", "ranges", "reg", "rng-seed"})
# Cells of one entry: an interrupt of a GIC (Linux arm,gic-v3 binding), and below a PCI host, where kvmtool
# arm/pci.c has of_interrupt_map_entry (child address 3, pin 1, controller 1, its address 2, interrupt 3) and
# of_pci_ranges_entry (child address 3, parent address 2, size 2).
_ENTRY = {"interrupts": 3, "interrupt-map": 10, "ranges": 7}
_ROW = 8
_ESCAPES = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"}


def to_dts(root: Node, *, origins: bool = True, reserved: Sequence[tuple[int, int]] = ()) -> str:
    """The tree as dts text, ASCII, ending with a newline; dtc makes an equal tree of it.

    All but two properties are the same to dtc: it drops ``name`` and refuses a wrong one, and it refuses a
    ``phandle`` that is no number or not unique (dtc 1.6.1 ``checks.c``).

    Strings are shown as strings, everything else as 32-bit cells, or as bytes if the length is no multiple
    of 4. References stay the numbers they are.

    Args:
        origins: whether a comment names what caused a node, and a property where that is something else.
        reserved: address and size of memory to leave alone.

    Raises:
        FormatError: a name that cannot be stored, a root with a name, more than ``MAX_DEPTH`` levels.
    """
    lines = ["/dts-v1/;", ""]
    lines += [f"/memreserve/ {address:#x} {size:#x};" for address, size in reserved]
    waiting: list[Node | None] = [root]
    depth = 0
    while waiting:
        node = waiting.pop()
        if node is None:
            depth -= 1
            lines.append("\t" * depth + "};")
            continue
        indent = "\t" * depth
        depth += 1
        check_names(node, depth)
        if depth > 1 or reserved:
            lines.append("")
        lines.append(f"{indent}{node.name or '/'} {{{_comment(node.origin, origins)}")
        for item in node.properties:
            named = _comment(item.origin, origins and item.origin != node.origin)
            lines.append(f"{indent}\t{_statement(item, indent)}{named}")
        waiting += [None, *reversed(node.children)]
    return "\n".join(lines) + "\n"


def format_value(item: Property, indent: str = "") -> str:
    """The value of a property as ``to_dts`` writes it; empty for a property without one.

    Args:
        indent: what each line but the first begins with.
    """
    return _value(item, f",\n{indent}") if item.data else ""


def _comment(origin: str, wanted: bool) -> str:
    """A blank and a comment, nothing for no origin; no text can end the comment early."""
    if not wanted or not origin:
        return ""
    text = "".join(item if " " <= item <= "~" else item.encode("unicode_escape").decode() for item in origin)
    return " /* " + text.replace("*/", "*\\/") + " */"


def _statement(item: Property, indent: str) -> str:
    """Name and value."""
    if not item.data:
        return f"{item.name};"
    separator = ",\n" + indent + "\t\t"
    return f"{item.name} = {_value(item, separator)};"


def _value(item: Property, separator: str) -> str:
    """The value in the notation that shows it best."""
    if _is_text(item):
        return ", ".join(f'"{_escape(part)}"' for part in item.data[:-1].split(b"\0"))
    if len(item.data) % 4:
        rows = _rows([f"{byte:02x}" for byte in item.data], 2 * _ROW)
        return separator.join(f"[{row}]" for row in rows)
    words = [f"{int.from_bytes(item.data[at : at + 4], 'big'):#x}" for at in range(0, len(item.data), 4)]
    entry = _ENTRY.get(item.name, _ROW)
    return separator.join(f"<{row}>" for row in _rows(words, entry if len(words) % entry == 0 else _ROW))


def _rows(words: list[str], length: int) -> list[str]:
    """The words in rows of at most ``length``."""
    return [" ".join(words[at : at + length]) for at in range(0, len(words), length)]


def _is_text(item: Property) -> bool:
    """Whether the value is a list of strings: by the property's name, else if every string is one to read."""
    if item.name in _NUMBERS or not item.data.endswith(b"\0"):
        return False
    if item.name in _TEXT:
        return True
    return all(part and all(0x20 <= byte <= 0x7E for byte in part) for part in item.data[:-1].split(b"\0"))


def _escape(text: bytes) -> str:
    """Bytes as they stand between quotes; dtc reads at most two digits of a hexadecimal escape."""
    return "".join(
        _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02x}") for byte in text
    )
