"""The device tree that kvmtool writes for a realm, node by node in the order it writes them.

The order counts: the bytes of the blob follow from it, and the blob is measured. Each node and property says
which option of the command line it comes from.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: arm/fdt.c (setup_fdt),
arm/gic.c, arm/timer.c, arm/aarch64/pmu.c, arm/pci.c, hw/, virtio/, builtin-run.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..errors import MeasureError
from ..formats.fdt import Node, Property, cells, quads, strings
from ..machine import Irqchip, KvmtoolMachine
from ..units import MIB
from .kvmtool_devices import UARTS, VirtioDevice, virtio_devices
from .kvmtool_layout import LOW_MEMORY, LOWEST_RAM, Layout
from .kvmtool_params import memory_option

# The origin of what is in every realm's tree, whatever the command line says.
ALWAYS = ""

# include/kvm/fdt.h: enum phandles, the GIC's and that of its MSI controller.
_GIC, _MSI = 1, 2
# arm/include/arm-common/kvm-arch.h: ARM_GIC_DIST_BASE, its size; sizes of the other frames in arm/gic.c.
_GIC_DISTRIBUTOR, _GIC_DISTRIBUTOR_SIZE = 0x3FFF_0000, 0x1_0000
_GIC_REDISTRIBUTOR_SIZE = _GIC_CPU_INTERFACE_SIZE = _GIC_ITS_SIZE = 0x2_0000
_GIC_V2M_SIZE = 0x1000
# Devicetree binding arm,gic-v3: interrupts of all CPUs and of one; level high, level low, edge rising.
_SPI, _PPI = 0, 1
_EDGE_RISING, _LEVEL_HIGH, _LEVEL_LOW = 1, 4, 8
# arm/timer.c: secure, non-secure, virtual and hypervisor timer; arm/aarch64/pmu.c.
_TIMER_PPIS = (13, 14, 11, 10)
_PMU_PPI = 7
# arm/gic.c: without affinity routing a PPI names its CPUs by a mask of 8 bits from bit 8.
_MASK_CPUS = 8
_MASK_SHIFT = 8
# arm/include/arm-common/kvm-arch.h: ARM_UART_MMIO_BASE, ARM_RTC_MMIO_BASE, KVM_FLASH_MMIO_BASE,
# KVM_VIRTIO_MMIO_AREA.
_UART, _UART_STRIDE = 0x100_0000, 0x1000
_RTC = 0x101_0000
_FLASH, _MAX_FLASH = 0x200_0000, 16 * MIB
_MMIO, _MMIO_STRIDE = 0x300_0000, 0x200
# arm/include/arm-common/kvm-arch.h: KVM_PCI_CFG_AREA, KVM_PCI_MMIO_AREA and their sizes.
_PCI_CONFIG, _PCI_CONFIG_SIZE = 0x4000_0000, 0x1000_0000
_PCI_MEMORY, _PCI_MEMORY_SIZE = 0x5000_0000, 0x3000_0000
_PCI_IO_SIZE = 0x1_0000
# IEEE 1275 PCI bus binding 2.2.1.1: space codes of 32-bit memory and I/O, and where the device number stands.
_PCI_IO_SPACE, _PCI_MEMORY_SPACE = 0x0100_0000, 0x0200_0000
_PCI_DEVICE_SHIFT, _PCI_DEVICE_MASK, _PCI_PIN_MASK = 11, 0xF800, 7
# ARM DEN0022 (PSCI) 5.1: CPU_SUSPEND, CPU_OFF, CPU_ON and MIGRATE, with 64-bit arguments where there are any.
_PSCI = {"cpu_suspend": 0xC400_0001, "cpu_off": 0x8400_0002, "cpu_on": 0xC400_0003, "migrate": 0xC400_0005}
# arm/aarch64/include/kvm/kvm-cpu-arch.h: ARM_MPIDR_HWID_BITMASK.
_MPIDR_MASK = 0xFF_00FF_FFFF
# arm/fdt.c: CPU_NAME_MAX_LEN is 15, with the NUL.
_MAX_CPU_NAME = 14
# builtin-run.c: the buffer of the command line has 2048 bytes, with the NUL.
_MAX_COMMAND_LINE = 2047


def command_line(machine: KvmtoolMachine) -> bytes | None:
    """What the kernel gets as its command line, without a NUL; None for no such property at all.

    Spec: builtin-run.c, kvm_run_set_real_cmdline.
    """
    given = None if machine.parameters is None else machine.parameters.encode("utf-8", "surrogateescape")
    if given is not None and b"\0" in given:
        raise MeasureError(f"-p {machine.parameters!r}: a command line ends at its first NUL; remove it")
    if machine.nodefaults:
        return given
    text = b""
    if machine.console.startswith("serial"):
        text += b" console=ttyS0"
    elif machine.console.startswith(("virtio", "hv")):
        text += b" console=hvc0"
    if given is None or b"root=" not in given:
        text += b" root=/dev/vda rw "
    if given is not None:
        text += b" " + given
    return text[:_MAX_COMMAND_LINE]


def lost_command_line(machine: KvmtoolMachine) -> int:
    """How many bytes of ``-p`` do not reach the kernel, because kvmtool's buffer is full before.

    Spec: builtin-run.c, kvm_run_set_real_cmdline.
    """
    if machine.parameters is None or machine.nodefaults:
        return 0
    # What stands in front depends on one word of the text alone.
    word = "root=" if "root=" in machine.parameters else ""
    frame = command_line(replace(machine, parameters=word)) or b""
    size = len(frame) - len(word) + len(machine.parameters.encode("utf-8", "surrogateescape"))
    return max(size - _MAX_COMMAND_LINE, 0)


def device_tree(machine: KvmtoolMachine, layout: Layout) -> Node:
    """The tree, in the order of emission.

    Raises:
        MeasureError: a value that does not fit its place in the tree.

    Spec: arm/fdt.c, setup_fdt.
    """
    devices = virtio_devices(machine)
    properties = _always(
        ("interrupt-parent", cells(_GIC)),
        ("compatible", strings("linux,dummy-virt")),
        ("#address-cells", cells(2)),
        ("#size-cells", cells(2)),
    )
    children = (
        _chosen(machine, layout),
        _memory(machine),
        _cpus(machine),
        _interrupt_controller(machine),
        _timer(machine),
        *_pmu(machine),
        *_flash(machine),
        *(_uart(index) for index in range(UARTS)),
        _node("rtc", ALWAYS, ("compatible", strings("motorola,mc146818")), ("reg", quads(_RTC, 2))),
        *(_virtio_mmio(device) for device in devices if not device.is_pci),
        _pci(machine, tuple(device for device in devices if device.is_pci)),
        _psci(),
        _node("aliases", ALWAYS, ("serial0", strings(f"/{_uart(0).name}"))),
    )
    return Node("", properties, children, ALWAYS)


def _always(*properties: tuple[str, bytes]) -> tuple[Property, ...]:
    return tuple(Property(name, data, ALWAYS) for name, data in properties)


def _node(name: str, origin: str, *properties: tuple[str, bytes]) -> Node:
    return Node(name, tuple(Property(key, data, origin) for key, data in properties), (), origin)


def _chosen(machine: KvmtoolMachine, layout: Layout) -> Node:
    properties = []
    line = command_line(machine)
    if line is not None:
        given = [] if machine.parameters is None else ["-p"]
        how = "--nodefaults" if machine.nodefaults else f"--console {machine.console}"
        properties.append(Property("bootargs", line + b"\0", ", ".join([how, *given])))
    seeded = "--kaslr-seed" if machine.kaslr_seed else ALWAYS
    _check("--kaslr-seed", machine.kaslr_seed, 64)
    properties.append(Property("kaslr-seed", quads(machine.kaslr_seed), seeded))
    properties.append(Property("stdout-path", strings("serial0"), ALWAYS))
    if layout.initrd is not None:
        moved = machine.memory < LOW_MEMORY or machine.ram_base != LOWEST_RAM
        origin = f"-i, {memory_option(machine)}" if moved else "-i"
        properties.append(Property("linux,initrd-start", quads(layout.initrd), origin))
        properties.append(Property("linux,initrd-end", quads(layout.initrd_end), origin))
    return Node("chosen", tuple(properties), (), ALWAYS)


def _memory(machine: KvmtoolMachine) -> Node:
    _check("-m", machine.ram_base + machine.memory, 64)
    place = Property("reg", quads(machine.ram_base, machine.memory), memory_option(machine))
    return Node("memory", (*_always(("device_type", strings("memory"))), place), (), ALWAYS)


def _cpus(machine: KvmtoolMachine) -> Node:
    ids = machine.mpidrs or tuple(range(machine.vcpus))
    origin = f"-c {machine.vcpus}" + (", --mpidrs" if machine.mpidrs else "")
    shared = [("device_type", strings("cpu")), ("compatible", strings("arm,arm-v8"))]
    if machine.vcpus > 1:
        shared.append(("enable-method", strings("psci")))
    nodes = tuple(
        # The register holds 64 bits, of which kvmtool stores the lower half.
        _node(
            f"cpu@{mpidr & _MPIDR_MASK:x}"[:_MAX_CPU_NAME],
            origin,
            *shared,
            ("reg", cells(mpidr & _MPIDR_MASK & 0xFFFF_FFFF)),
        )
        for mpidr in ids
    )
    return Node("cpus", _always(("#address-cells", cells(1)), ("#size-cells", cells(0))), nodes, ALWAYS)


def _interrupt_controller(machine: KvmtoolMachine) -> Node:
    chip = machine.irqchip
    option = f"--irqchip {chip.value}"
    version3 = chip in (Irqchip.GICV3, Irqchip.GICV3_ITS)
    size = machine.vcpus * _GIC_REDISTRIBUTOR_SIZE if version3 else _GIC_CPU_INTERFACE_SIZE
    base = _GIC_DISTRIBUTOR - size
    where = quads(_GIC_DISTRIBUTOR, _GIC_DISTRIBUTOR_SIZE, base, size)
    properties = [
        Property("compatible", strings("arm,gic-v3" if version3 else "arm,cortex-a15-gic"), option),
        *_always(("#interrupt-cells", cells(3)), ("interrupt-controller", b"")),
        Property("reg", where, f"{option}, -c {machine.vcpus}" if version3 else option),
        *_always(("phandle", cells(_GIC)), ("#address-cells", cells(2)), ("#size-cells", cells(2))),
    ]
    children = []
    if _has_msi(machine):
        properties.append(Property("ranges", b"", option))
        children.append(_msi_controller(machine, base))
    return Node("intc", tuple(properties), tuple(children), ALWAYS)


def _has_msi(machine: KvmtoolMachine) -> bool:
    return machine.irqchip in (Irqchip.GICV3_ITS, Irqchip.GICV2M)


def _msi_controller(machine: KvmtoolMachine, below: int) -> Node:
    is_its = machine.irqchip is Irqchip.GICV3_ITS
    size = _GIC_ITS_SIZE if is_its else _GIC_V2M_SIZE
    node = _node(
        "msic",
        f"--irqchip {machine.irqchip.value}",
        ("compatible", strings("arm,gic-v3-its" if is_its else "arm,gic-v2m-frame")),
        ("msi-controller", b""),
        ("phandle", cells(_MSI)),
    )
    place = Property(
        "reg", quads(below - size, size), f"{node.origin}, -c {machine.vcpus}" if is_its else node.origin
    )
    return Node(node.name, (*node.properties, place), (), node.origin)


def _cpu_mask(machine: KvmtoolMachine) -> int:
    """Which CPUs a private interrupt is for; not stated with a GICv3, which has no such field."""
    if machine.irqchip in (Irqchip.GICV3, Irqchip.GICV3_ITS):
        return 0
    return ((1 << min(machine.vcpus, _MASK_CPUS)) - 1) << _MASK_SHIFT


def _private_origin(machine: KvmtoolMachine, otherwise: str) -> str:
    return f"--irqchip {machine.irqchip.value}, -c {machine.vcpus}" if _cpu_mask(machine) else otherwise


def _timer(machine: KvmtoolMachine) -> Node:
    trigger = _cpu_mask(machine) | _LEVEL_LOW
    interrupts = b"".join(cells(_PPI, number, trigger) for number in _TIMER_PPIS)
    properties = [
        *_always(("compatible", strings("arm,armv8-timer", "arm,armv7-timer"))),
        Property("interrupts", interrupts, _private_origin(machine, ALWAYS)),
        *_always(("always-on", b"")),
    ]
    if machine.counter_frequency:
        option = "--override-bad-firmware-cntfrq"
        _check(option, machine.counter_frequency, 32)
        properties.append(Property("clock-frequency", cells(machine.counter_frequency), option))
    return Node("timer", tuple(properties), (), ALWAYS)


def _pmu(machine: KvmtoolMachine) -> Iterator[Node]:
    if machine.pmu:
        interrupt = Property(
            "interrupts",
            cells(_PPI, _PMU_PPI, _cpu_mask(machine) | _LEVEL_HIGH),
            _private_origin(machine, "--pmu"),
        )
        yield Node(
            "pmu", (Property("compatible", strings("arm,armv8-pmuv3"), "--pmu"), interrupt), (), "--pmu"
        )


def _flash(machine: KvmtoolMachine) -> Iterator[Node]:
    if machine.flash:
        # hw/cfi_flash.c: the rest of a file that is no power of two is left out.
        size = min(1 << machine.flash.bit_length() - 1, _MAX_FLASH)
        yield _node(
            "flash",
            "-F",
            ("bank-width", cells(4)),
            ("#address-cells", cells(1)),
            ("#size-cells", cells(1)),
            ("compatible", strings("cfi-flash")),
            ("label", strings("System-firmware")),
            ("reg", quads(_FLASH, size)),
        )


def _uart(index: int) -> Node:
    address = _UART + index * _UART_STRIDE
    return _node(
        f"U6_16550A@{address:x}",
        ALWAYS,
        ("compatible", strings("ns16550a")),
        ("reg", quads(address, 8)),
        ("interrupts", cells(_SPI, index, _LEVEL_HIGH)),
        ("clock-frequency", cells(1_843_200)),
    )


def _virtio_mmio(device: VirtioDevice) -> Node:
    address = _MMIO + device.number * _MMIO_STRIDE
    return _node(
        f"virtio@{address:x}",
        device.origin,
        ("compatible", strings("virtio,mmio")),
        ("reg", quads(address, _MMIO_STRIDE)),
        ("dma-coherent", b""),
        ("interrupts", cells(_SPI, device.spi, _EDGE_RISING)),
    )


def _pci(machine: KvmtoolMachine, devices: tuple[VirtioDevice, ...]) -> Node:
    ranges = cells(_PCI_IO_SPACE, 0, 0, 0, 0, 0, _PCI_IO_SIZE) + cells(
        _PCI_MEMORY_SPACE, 0, _PCI_MEMORY, 0, _PCI_MEMORY, 0, _PCI_MEMORY_SIZE
    )
    properties = [
        *_always(
            ("device_type", strings("pci")),
            ("#address-cells", cells(3)),
            ("#size-cells", cells(2)),
            ("#interrupt-cells", cells(1)),
            ("compatible", strings("pci-host-ecam-generic")),
            ("dma-coherent", b""),
            ("bus-range", cells(0, 0)),
            ("reg", quads(_PCI_CONFIG, _PCI_CONFIG_SIZE)),
            ("ranges", ranges),
        )
    ]
    if _has_msi(machine):
        properties.append(Property("msi-parent", cells(_MSI), f"--irqchip {machine.irqchip.value}"))
    # One pin of each device, by way of the GIC: device, pin, controller, its unit address, interrupt.
    interrupts = b"".join(
        cells(device.number << _PCI_DEVICE_SHIFT, 0, 0, 1, _GIC, 0, 0, _SPI, device.spi, _LEVEL_HIGH)
        for device in devices
    )
    origin = ", ".join(device.origin for device in devices) or ALWAYS
    properties.append(Property("interrupt-map", interrupts, origin))
    if devices:
        mask = cells(_PCI_DEVICE_MASK, 0, 0, _PCI_PIN_MASK)
        properties.append(Property("interrupt-map-mask", mask, devices[0].origin))
    return Node("pci", tuple(properties), (), ALWAYS)


def _psci() -> Node:
    calls = ((name, cells(number)) for name, number in _PSCI.items())
    compatible = ("compatible", strings("arm,psci-0.2", "arm,psci"))
    return _node("psci", ALWAYS, compatible, ("method", strings("smc")), *calls)


def _check(option: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise MeasureError(f"{option}: {value:#x} does not fit {bits} bits; give a smaller number")
