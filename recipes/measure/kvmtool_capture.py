"""A device tree that was captured on the target: read back, and held against the launch it is used for.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: arm/fdt.c (dump_fdt).
"""

from __future__ import annotations

from ..errors import MeasureError
from ..formats.fdt import Node
from ..formats.fdt_reader import read_fdt
from ..machine import KvmtoolMachine
from .kvmtool_doubts import Doubt
from .kvmtool_fdt import command_line
from .kvmtool_layout import DTB_REGION, Layout

# What a captured device tree is called in steps and messages.
CAPTURED = "--dtb"


def read_capture(dtb: bytes) -> tuple[Node, bytes]:
    """The tree, without origins, and the 64 KiB of guest memory that hold it.

    Args:
        dtb: what ``--dump-dtb`` wrote, or a shorter file, which zeros fill up.

    Raises:
        MeasureError: larger than the memory that kvmtool gives it.
        FormatError: no device tree.
    """
    if len(dtb) > DTB_REGION:
        raise MeasureError(
            f"{CAPTURED}: {len(dtb)} bytes, kvmtool gives the device tree {DTB_REGION}; "
            "capture it with --dump-dtb"
        )
    return read_fdt(dtb, CAPTURED), dtb.ljust(DTB_REGION, b"\0")


def contradictions(machine: KvmtoolMachine, layout: Layout, tree: Node, size: int) -> tuple[Doubt, ...]:
    """What a captured tree of ``size`` bytes says otherwise than the launch it is used for."""
    found = []
    if size < DTB_REGION:
        found.append(
            f"{CAPTURED}: {size} bytes, filled up with zeros to {DTB_REGION}; kvmtool leaves 8 more bytes "
            "behind a tree that it wrote itself, which --dump-dtb has and other ways of capturing have not"
        )
    for what, stands, wanted in _comparisons(machine, layout, tree):
        if stands != wanted:
            found.append(
                f"{CAPTURED}: {what} is {stands} in the device tree and {wanted} in this launch; "
                "capture the tree of this very command line"
            )
    return tuple(Doubt(text) for text in found)


def _comparisons(machine: KvmtoolMachine, layout: Layout, tree: Node) -> tuple[tuple[str, str, str], ...]:
    nodes = {node.name.partition("@")[0]: node for node in tree.children}
    missing = Node("")
    chosen, memory, cpus = (nodes.get(name, missing) for name in ("chosen", "memory", "cpus"))
    line = command_line(machine)
    count = sum(node.name.startswith("cpu@") for node in cpus.children)
    ram = layout.ram.to_bytes(8, "big") + machine.memory.to_bytes(8, "big")
    return (
        (
            "the command line",
            _shown(chosen.value("bootargs")),
            _shown(None if line is None else line + b"\0"),
        ),
        ("RAM", _hex(memory.value("reg")), _hex(ram)),
        ("the number of vCPUs", str(count), str(machine.vcpus)),
        ("the start of the initramfs", _address(chosen.value("linux,initrd-start")), _number(layout.initrd)),
        (
            "the end of the initramfs",
            _address(chosen.value("linux,initrd-end")),
            _number(layout.initrd_end or None),
        ),
    )


def _shown(text: bytes | None) -> str:
    return "not there" if text is None else repr(text.rstrip(b"\0").decode("utf-8", "backslashreplace"))


def _hex(data: bytes | None) -> str:
    return "not there" if data is None else data.hex()


def _address(data: bytes | None) -> str:
    """An address of one or two cells."""
    return _number(None if data is None else int.from_bytes(data, "big"))


def _number(value: int | None) -> str:
    return "not there" if value is None else f"{value:#x}"
