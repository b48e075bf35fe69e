"""A device tree that was captured on the target: read back, and held against the launch it is used for.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: arm/fdt.c (dump_fdt).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import MeasureError
from ..formats.fdt import Node, walk
from ..formats.fdt_reader import read_fdt
from ..machine import Irqchip, KvmtoolMachine
from .kvmtool_doubts import Doubt
from .kvmtool_fdt import command_line
from .kvmtool_layout import DTB_REGION, Layout

# What a captured device tree is called in steps and messages.
CAPTURED = "--dtb"


# Ours: so many places of a tree are named where it differs; by then it is plainly another tree.
_NAMED = 12
# arm/gic.c: what the controller and, behind a plus sign, its MSI frame are compatible with.
_CONTROLLERS = {
    Irqchip.GICV2: "arm,cortex-a15-gic",
    Irqchip.GICV2M: "arm,cortex-a15-gic + arm,gic-v2m-frame",
    Irqchip.GICV3: "arm,gic-v3",
    Irqchip.GICV3_ITS: "arm,gic-v3 + arm,gic-v3-its",
}
_ADVICE = "capture the tree of this very command line"


@dataclass(frozen=True)
class Capture:
    """A captured device tree.

    Attributes:
        tree: without origins.
        region: the 64 KiB of guest memory that hold it.
        size: bytes that were captured; zeros fill up the rest of the region.
    """

    tree: Node
    region: bytes
    size: int


def read_capture(dtb: bytes) -> Capture:
    """The tree, and the guest memory that holds it.

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
    return Capture(read_fdt(dtb, CAPTURED), dtb.ljust(DTB_REGION, b"\0"), len(dtb))


def differences(capture: Capture, tree: Node, region: bytes) -> tuple[Doubt, ...]:
    """What a captured tree has otherwise than the tree that its launch gets; nothing if all bytes are equal.

    Args:
        tree: generated for the launch.
        region: the guest memory that holds it.
    """
    if capture.region == region:
        return ()
    found = list(_filled_up(capture))
    places = tuple(_places(capture.tree, tree))
    if places:
        more = f"; and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        where = "; ".join(places[:_NAMED]) + more
        found.append(Doubt(f"{CAPTURED}: it differs from the tree of this launch in {where}; {_ADVICE}"))
    elif not found:
        what = "it says what the tree of this launch says, in other bytes; another kvmtool wrote it"
        found.append(Doubt(f"{CAPTURED}: {what}"))
    return tuple(found)


def contradictions(machine: KvmtoolMachine, layout: Layout, capture: Capture) -> tuple[Doubt, ...]:
    """What a captured tree says otherwise than its launch, where the launch's own tree is not modelled."""
    found = list(_filled_up(capture))
    for what, stands, wanted in _comparisons(machine, layout, capture.tree):
        if stands != wanted:
            text = f"{what} is {stands} in the device tree and {wanted} in this launch"
            found.append(Doubt(f"{CAPTURED}: {text}; {_ADVICE}"))
    what = "the devices in it (-d, -n, --9p, --vsock, --rng ...) are not compared with this launch"
    return (*found, Doubt(f"{CAPTURED}: {what}; {_ADVICE}", weakens=False))


def _filled_up(capture: Capture) -> Iterator[Doubt]:
    if capture.size < DTB_REGION:
        yield Doubt(
            f"{CAPTURED}: {capture.size} bytes, filled up with zeros to {DTB_REGION}; kvmtool leaves 8 more "
            "bytes behind a tree that it wrote itself, which --dump-dtb has and other ways of capturing have "
            "not"
        )


def _places(captured: Node, wanted: Node) -> Iterator[str]:
    """Nodes and properties that are not the same in both trees, those of the captured one first."""
    old, new = dict(walk(captured)), dict(walk(wanted))
    for path, node in old.items():
        if path in new:
            yield from _changes(path, node, new[path])
        elif _parent(path) in new:
            yield f"{path} (only in {CAPTURED})"
    for path in new:
        if path not in old and _parent(path) in old:
            yield f"{path} (not in {CAPTURED})"


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _changes(path: str, captured: Node, wanted: Node) -> Iterator[str]:
    """What a node has otherwise, without its children's content."""
    old = {item.name: item.data for item in captured.properties}
    new = {item.name: item.data for item in wanted.properties}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        yield f"{path} {', '.join(names)}"
        return
    children = [[child.name for child in node.children] for node in (captured, wanted)]
    reordered = sorted(children[0]) == sorted(children[1]) and children[0] != children[1]
    if captured.properties != wanted.properties or reordered:
        yield f"{path} (in another order)"


def _comparisons(machine: KvmtoolMachine, layout: Layout, tree: Node) -> tuple[tuple[str, str, str], ...]:
    nodes = {node.name.partition("@")[0]: node for node in tree.children}
    missing = Node("")
    chosen, memory, cpus, intc = (nodes.get(name, missing) for name in ("chosen", "memory", "cpus", "intc"))
    line = command_line(machine)
    count = sum(node.name.startswith("cpu@") for node in cpus.children)
    ram = layout.ram.to_bytes(8, "big") + machine.memory.to_bytes(8, "big")
    start, end = chosen.value("linux,initrd-start"), chosen.value("linux,initrd-end")
    return (
        (
            "the command line",
            _shown(chosen.value("bootargs")),
            _shown(None if line is None else line + b"\0"),
        ),
        # Without a seed a kernel does as with one of 0.
        ("--kaslr-seed", _address(chosen.value("kaslr-seed") or b""), _number(machine.kaslr_seed)),
        ("RAM", _hex(memory.value("reg")), _hex(ram)),
        ("the number of vCPUs", str(count), str(machine.vcpus)),
        ("the interrupt controller", _controller(intc), _CONTROLLERS[machine.irqchip]),
        ("the PMU", _there("pmu" in nodes), _there(machine.pmu)),
        ("the start of the initramfs", _address(start), _number(layout.initrd)),
        ("the end of the initramfs", _address(end), _number(layout.initrd_end or None)),
    )


def _controller(node: Node) -> str:
    """What an interrupt controller and its frames for MSI are compatible with, the first name of each."""
    found = (item.value("compatible") for item in (node, *node.children))
    names = (data.split(b"\0")[0].decode("utf-8", "backslashreplace") for data in found if data is not None)
    return " + ".join(name if name.isprintable() else ascii(name) for name in names) or "not there"


def _there(present: bool) -> str:
    return "there" if present else "not there"


def _shown(text: bytes | None) -> str:
    return "not there" if text is None else repr(text.rstrip(b"\0").decode("utf-8", "backslashreplace"))


def _hex(data: bytes | None) -> str:
    return "not there" if data is None else data.hex()


def _address(data: bytes | None) -> str:
    """An address of one or two cells."""
    return _number(None if data is None else int.from_bytes(data, "big"))


def _number(value: int | None) -> str:
    return "not there" if value is None else f"{value:#x}"
