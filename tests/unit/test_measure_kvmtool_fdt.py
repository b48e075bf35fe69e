"""The device tree of a realm by node, property and origin; its bytes are in the recorded vectors."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.formats.fdt import Node, walk
from recipes.machine import Irqchip, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from recipes.measure.kvmtool_devices import virtio_devices
from recipes.measure.kvmtool_fdt import command_line, device_tree, lost_command_line
from recipes.measure.kvmtool_layout import Layout

MIB = 1 << 20
MACHINE = KvmtoolMachine(
    name="m", profile="kvmtool-eac5", vcpus=1, memory=256 * MIB, irqchip=Irqchip.GICV3, networks=()
)
LAYOUT = Layout(
    ram=0x8000_0000,
    ram_end=0x9000_0000,
    kernel=0x8000_0000,
    kernel_end=0x8010_0000,
    kernel_memory_end=0x8010_0000,
    dtb=0x8FE0_0000,
    initrd=0x8FD8_5EDC,
    initrd_end=0x8FDF_FFFF,
)
EVERYTHING = replace(
    MACHINE,
    networks=(KvmtoolNetwork(options="tapif=a"), KvmtoolNetwork(options="tapif=b")),
    shares=("/s,t", "/u,v"),
    vsock=7,
    balloon=True,
    rng=True,
    console="virtio",
    scsi_disks=("naa.1",),
    disks=3,
)
# Creation order of section 3.2: 9p shares, vsock, balloon, rng, NICs, virtio console, SCSI, disks.
ORDER = (
    "--9p share 1",
    "--9p share 2",
    "--vsock",
    "--balloon",
    "--rng",
    "-n device 1",
    "-n device 2",
    "--console virtio",
    "-d scsi disk 1",
    "-d disk 1",
    "-d disk 2",
    "-d disk 3",
)


def node(machine: KvmtoolMachine, path: str, layout: Layout = LAYOUT) -> Node:
    return dict(walk(device_tree(machine, layout)))[path]


def paths(machine: KvmtoolMachine) -> list[str]:
    return [path for path, _ in walk(device_tree(machine, LAYOUT))]


def cells(data: bytes | None) -> tuple[int, ...]:
    assert data is not None
    return struct.unpack(f">{len(data) // 4}I", data)


def quads(data: bytes | None) -> tuple[int, ...]:
    assert data is not None
    return struct.unpack(f">{len(data) // 8}Q", data)


def origins(machine: KvmtoolMachine) -> dict[str, str]:
    """Origin of each node and property by path, those that are always there left out."""
    found = {}
    for path, item in walk(device_tree(machine, LAYOUT)):
        found[path] = item.origin
        found |= {f"{path}:{each.name}": each.origin for each in item.properties}
    return {path: origin for path, origin in found.items() if origin}


def test_devices_in_order() -> None:
    devices = virtio_devices(EVERYTHING)
    assert tuple(device.origin for device in devices) == ORDER
    assert [device.spi for device in devices] == list(range(4, 16))
    assert [device.number for device in devices] == list(range(12))
    assert all(device.is_pci for device in devices)


def test_each_transport_counts_by_itself() -> None:
    networks = (
        KvmtoolNetwork(transport=VirtioTransport.MMIO),
        KvmtoolNetwork(),
        KvmtoolNetwork(transport=VirtioTransport.MMIO_LEGACY),
    )
    devices = virtio_devices(replace(MACHINE, networks=networks, vsock=3, disks=1))
    assert [(device.is_pci, device.number, device.spi) for device in devices] == [
        (True, 0, 4),
        (False, 0, 5),
        (True, 1, 6),
        (False, 1, 7),
        (True, 2, 8),
    ]


def test_network_devices() -> None:
    assert [device.origin for device in virtio_devices(replace(MACHINE, networks=None))] == [
        "default network device"
    ]
    assert virtio_devices(MACHINE) == ()
    one = (KvmtoolNetwork(options="tapif=x"),)
    assert [device.origin for device in virtio_devices(replace(MACHINE, networks=one))] == ["-n device 1"]


@pytest.mark.parametrize(
    ("transport", "kind"), [(VirtioTransport.PCI, "PCI"), (VirtioTransport.MMIO, "memory mapped")]
)
def test_too_many_devices(transport: VirtioTransport, kind: str) -> None:
    machine = replace(MACHINE, transport=transport, shares=("/a,b",) * 32)
    assert len(virtio_devices(machine)) == 32
    with pytest.raises(MeasureError) as caught:
        virtio_devices(replace(machine, rng=True))
    assert str(caught.value) == (
        f"command line: 33 {kind} virtio devices, up to 32 are modelled; remove some of -d, -n and --9p"
    )


ROOT = b" root=/dev/vda rw "


@pytest.mark.parametrize(
    ("console", "parameters", "nodefaults", "line"),
    [
        ("serial", None, False, b" console=ttyS0" + ROOT),
        ("serial1", None, False, b" console=ttyS0" + ROOT),
        ("virtio", None, False, b" console=hvc0" + ROOT),
        ("hv", None, False, b" console=hvc0" + ROOT),
        ("none", None, False, ROOT),
        ("serial", "", False, b" console=ttyS0" + ROOT + b" "),
        ("serial", "quiet", False, b" console=ttyS0" + ROOT + b" quiet"),
        ("serial", '"quiet"', False, b' console=ttyS0 root=/dev/vda rw  "quiet"'),
        ("serial", "a root=/dev/sda b", False, b" console=ttyS0 a root=/dev/sda b"),
        ("serial", "xroot=", False, b" console=ttyS0 xroot="),
        ("serial", "ROOT=", False, b" console=ttyS0" + ROOT + b" ROOT="),
        ("serial", "\udcff", False, b" console=ttyS0" + ROOT + b" \xff"),
        # " console=ttyS0" has 14 bytes, " root=/dev/vda rw " 18 and a blank 1; 2014 of the rest remain.
        ("serial", "x" * 3000, False, b" console=ttyS0" + ROOT + b" " + b"x" * 2014),
        ("serial", "quiet", True, b"quiet"),
        ("virtio", "", True, b""),
        ("serial", None, True, None),
    ],
)
def test_command_line(console: str, parameters: str | None, nodefaults: bool, line: bytes | None) -> None:
    machine = replace(MACHINE, console=console, parameters=parameters, nodefaults=nodefaults)
    assert command_line(machine) == line
    stored = node(machine, "/chosen").value("bootargs")
    assert stored == (None if line is None else line + b"\0")


@pytest.mark.parametrize(
    ("parameters", "nodefaults", "lost"),
    [
        # In front stand the 33 bytes counted above, or the 15 of the console and a blank; 2047 fit.
        ("x" * 2014, False, 0),
        ("x" * 2015, False, 1),
        (" " * 2020, False, 6),
        ("root=" + "x" * 2027, False, 0),
        ("root=" + "x" * 2028, False, 1),
        ("\udcff" * 2016, False, 2),
        ("x" * 3000, True, 0),
        (None, False, 0),
    ],
)
def test_what_a_long_command_line_loses(parameters: str | None, nodefaults: bool, lost: int) -> None:
    machine = replace(MACHINE, parameters=parameters, nodefaults=nodefaults)
    assert lost_command_line(machine) == lost


def test_command_line_with_nul() -> None:
    with pytest.raises(
        MeasureError, match=r"^-p 'a\\x00b': a command line ends at its first NUL; remove it$"
    ):
        command_line(replace(MACHINE, parameters="a\0b"))


def test_nodes_in_order() -> None:
    machine = replace(EVERYTHING, pmu=True, flash=4096, vcpus=2, irqchip=Irqchip.GICV3_ITS)
    assert paths(machine) == [
        "/",
        "/chosen",
        "/memory",
        "/cpus",
        "/cpus/cpu@0",
        "/cpus/cpu@1",
        "/intc",
        "/intc/msic",
        "/timer",
        "/pmu",
        "/flash",
        "/U6_16550A@1000000",
        "/U6_16550A@1001000",
        "/U6_16550A@1002000",
        "/U6_16550A@1003000",
        "/rtc",
        "/pci",
        "/psci",
        "/aliases",
    ]


def test_memory_mapped_devices() -> None:
    machine = replace(MACHINE, transport=VirtioTransport.MMIO, vsock=1, disks=1)
    first, second = (node(machine, f"/virtio@{address:x}") for address in (0x300_0000, 0x300_0200))
    assert quads(first.value("reg")) == (0x300_0000, 0x200)
    assert cells(first.value("interrupts")) == (0, 4, 1)
    assert quads(second.value("reg")) == (0x300_0200, 0x200)
    assert cells(second.value("interrupts")) == (0, 5, 1)
    pci = node(machine, "/pci")
    assert pci.value("interrupt-map") == b""
    assert pci.value("interrupt-map-mask") is None


def test_interrupt_map() -> None:
    pci = node(replace(MACHINE, vsock=1, disks=1), "/pci")
    assert cells(pci.value("interrupt-map")) == (
        *(0x000, 0, 0, 1, 1, 0, 0, 0, 4, 4),
        *(0x800, 0, 0, 1, 1, 0, 0, 0, 5, 4),
    )
    assert cells(pci.value("interrupt-map-mask")) == (0xF800, 0, 0, 7)
    assert pci.value("msi-parent") is None


@pytest.mark.parametrize(
    ("irqchip", "vcpus", "reg", "msi"),
    [
        (Irqchip.GICV3, 1, (0x3FFF_0000, 0x1_0000, 0x3FFD_0000, 0x2_0000), None),
        (Irqchip.GICV3, 4, (0x3FFF_0000, 0x1_0000, 0x3FF7_0000, 0x8_0000), None),
        (Irqchip.GICV3_ITS, 4, (0x3FFF_0000, 0x1_0000, 0x3FF7_0000, 0x8_0000), (0x3FF5_0000, 0x2_0000)),
        (Irqchip.GICV2, 4, (0x3FFF_0000, 0x1_0000, 0x3FFD_0000, 0x2_0000), None),
        (Irqchip.GICV2M, 4, (0x3FFF_0000, 0x1_0000, 0x3FFD_0000, 0x2_0000), (0x3FFC_F000, 0x1000)),
    ],
)
def test_interrupt_controller(
    irqchip: Irqchip, vcpus: int, reg: tuple[int, ...], msi: tuple[int, ...] | None
) -> None:
    machine = replace(MACHINE, irqchip=irqchip, vcpus=vcpus)
    controller = node(machine, "/intc")
    assert quads(controller.value("reg")) == reg
    frame = controller.child("msic")
    assert (None if frame is None else quads(frame.value("reg"))) == msi
    assert (controller.value("ranges") is None) == (msi is None)
    assert (node(machine, "/pci").value("msi-parent") is None) == (msi is None)


@pytest.mark.parametrize(
    ("irqchip", "vcpus", "mask"),
    [
        (Irqchip.GICV3, 9, 0),
        (Irqchip.GICV3_ITS, 2, 0),
        (Irqchip.GICV2, 1, 0x100),
        (Irqchip.GICV2, 8, 0xFF00),
        (Irqchip.GICV2M, 9, 0xFF00),
    ],
)
def test_private_interrupts(irqchip: Irqchip, vcpus: int, mask: int) -> None:
    machine = replace(MACHINE, irqchip=irqchip, vcpus=vcpus, pmu=True)
    low = mask | 8
    expected = (1, 13, low, 1, 14, low, 1, 11, low, 1, 10, low)
    assert cells(node(machine, "/timer").value("interrupts")) == expected
    assert cells(node(machine, "/pmu").value("interrupts")) == (1, 7, mask | 4)


@pytest.mark.parametrize(
    ("size", "stored"),
    [(1, 1), (4096, 4096), (196_608, 131_072), (16 * MIB, 16 * MIB), (40 * MIB, 16 * MIB)],
)
def test_flash(size: int, stored: int) -> None:
    assert quads(node(replace(MACHINE, flash=size), "/flash").value("reg")) == (0x200_0000, stored)


@pytest.mark.parametrize(
    ("mpidr", "name", "reg"),
    [
        (0x100, "cpu@100", 0x100),
        (0x1_0001_0203, "cpu@100010203", 0x0001_0203),
        (0xFF_00FF_FFFF, "cpu@ff00ffffff", 0x00FF_FFFF),
        (0xFFFF_FFFF_FFFF, "cpu@ff00ffffff", 0x00FF_FFFF),
    ],
)
def test_mpidr(mpidr: int, name: str, reg: int) -> None:
    cpu = node(replace(MACHINE, mpidrs=(mpidr,)), f"/cpus/{name}")
    assert len(cpu.name) <= 14
    assert cells(cpu.value("reg")) == (reg,)
    assert cpu.value("enable-method") is None


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(MACHINE, kaslr_seed=1 << 64), "--kaslr-seed: 0x10000000000000000 does not fit 64 bits"),
        (
            replace(MACHINE, counter_frequency=1 << 32),
            "--override-bad-firmware-cntfrq: 0x100000000 does not fit 32 bits",
        ),
        (replace(MACHINE, memory=1 << 64), "-m: 0x10000000080000000 does not fit 64 bits"),
    ],
)
def test_values_that_do_not_fit(machine: KvmtoolMachine, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        device_tree(machine, LAYOUT)
    assert str(caught.value) == f"{message}; give a smaller number"


def test_no_initramfs() -> None:
    chosen = node(MACHINE, "/chosen", replace(LAYOUT, initrd=None, initrd_end=0))
    assert [item.name for item in chosen.properties] == ["bootargs", "kaslr-seed", "stdout-path"]


def test_origins_of_the_smallest_machine() -> None:
    assert origins(MACHINE) == {
        "/chosen:bootargs": "--console serial",
        "/chosen:linux,initrd-start": "-i",
        "/chosen:linux,initrd-end": "-i",
        "/memory:reg": "-m 256",
        "/cpus/cpu@0": "-c 1",
        "/cpus/cpu@0:device_type": "-c 1",
        "/cpus/cpu@0:compatible": "-c 1",
        "/cpus/cpu@0:reg": "-c 1",
        "/intc:compatible": "--irqchip gicv3",
        "/intc:reg": "--irqchip gicv3, -c 1",
    }


def test_origins_of_options() -> None:
    machine = replace(
        MACHINE,
        vcpus=2,
        mpidrs=(0, 0x100),
        memory=128 * MIB,
        ram_base=0x9000_0000,
        parameters="quiet",
        nodefaults=True,
        irqchip=Irqchip.GICV2M,
        kaslr_seed=1,
        pmu=True,
        flash=1,
        counter_frequency=1,
        vsock=5,
        disks=2,
        networks=(KvmtoolNetwork(transport=VirtioTransport.MMIO),),
    )
    found = origins(machine)
    expected = {
        "/chosen:bootargs": "--nodefaults, -p",
        "/chosen:kaslr-seed": "--kaslr-seed",
        "/chosen:linux,initrd-start": "-i, -m 128@2304M",
        "/memory:reg": "-m 128@2304M",
        "/cpus/cpu@100": "-c 2, --mpidrs",
        "/cpus/cpu@100:enable-method": "-c 2, --mpidrs",
        "/intc:reg": "--irqchip gicv2m",
        "/intc/msic": "--irqchip gicv2m",
        "/intc/msic:reg": "--irqchip gicv2m",
        "/timer:interrupts": "--irqchip gicv2m, -c 2",
        "/timer:clock-frequency": "--override-bad-firmware-cntfrq",
        "/pmu": "--pmu",
        "/pmu:interrupts": "--irqchip gicv2m, -c 2",
        "/flash": "-F",
        "/flash:reg": "-F",
        "/virtio@3000000": "-n device 1",
        "/pci:msi-parent": "--irqchip gicv2m",
        "/pci:interrupt-map": "--vsock, -d disk 1, -d disk 2",
        "/pci:interrupt-map-mask": "--vsock",
    }
    assert {path: found.get(path) for path in expected} == expected
