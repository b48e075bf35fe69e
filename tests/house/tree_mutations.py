"""Rules of a realm's device tree, each with a way to break it and the test that then fails."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.formats import fdt
from recipes.machine import Irqchip
from recipes.measure import (
    kvmtool_devices,
    kvmtool_fdt,
)
from tests.house.realm_breaking import (
    RealmMutation,
    broken,
    command_line,
    noticed,
    other,
    rim,
    unit,
)
from tests.unit import (
    test_formats_fdt,
    test_measure_kvmtool_fdt,
)

MIB = 1 << 20


def blob() -> Iterator[RealmMutation]:
    """The bytes of a device tree."""
    where, tree = fdt, rim("cpus-1")
    yield other(where, "VERSION", 16, "tree of version 16", tree)
    yield other(where, "LAST_COMPATIBLE", 17, "tree compatible with 17 alone", tree)
    yield other(where, "stale_tail", lambda _blob: b"", "no tail of the copy before", tree)
    yield from broken(
        where.stale_tail,
        ("tail of 4 bytes", "-PACK_SHIFT:", "-4:", tree),
        (
            "tail from the front of the names",
            "blob[-PACK_SHIFT:]",
            'blob[FdtHeader.unpack(blob, source="").off_dt_strings :][:8]',
            tree,
        ),
    )
    yield from broken(
        where._SequentialWriter._place,
        (
            "names at the end of the table",
            "self._table = entry + self._table",
            "self._table = self._table + entry",
            tree,
        ),
        (
            "ends of names stored again",
            "self._table.find(entry)",
            '(b"\\0" + self._table).find(b"\\0" + entry)',
            unit(test_formats_fdt.test_a_name_that_ends_a_longer_one_is_not_stored_again),
        ),
        (
            "last of two places of a name",
            "self._table.find(entry)",
            "self._table.rfind(entry)",
            unit(test_formats_fdt.test_a_name_is_found_in_a_longer_one_that_came_later),
        ),
        (
            "place of a name kept",
            "self._from_end.clear()",
            "pass",
            unit(test_formats_fdt.test_a_name_is_found_in_a_longer_one_that_came_later),
        ),
    )
    yield from broken(
        where._SequentialWriter.finish,
        ("places of names counted from the end", "len(table) - from_end", "from_end", tree),
        ("no empty reserve entry", "reserved, structure, table", 'b"", structure, table', tree),
        ("no end of the structure", "[*self._parts, cells(END)]", "self._parts", tree),
        ("names on a multiple of 4", "for part, length", "table = pad(table, 4)\n    for part, length", tree),
        (
            "size without the names",
            "structure_at + len(structure) + len(table)",
            "structure_at + len(structure)",
            tree,
        ),
    )
    yield from broken(
        where._SequentialWriter.property,
        ("values not padded", "pad(item.data, 4)", "item.data", tree),
        ("padding counted as value", "len(item.data)", "len(pad(item.data, 4))", tree),
    )
    yield from broken(
        where._number,
        ("little endian cells", '"big"', '"little"', tree),
    )


def tree_root() -> Iterator[RealmMutation]:
    """Nodes of the tree, and the command line in it."""
    where = kvmtool_fdt
    host = "_pci(machine, tuple(device for device in devices if device.is_pci)),"
    mapped = "*(_virtio_mmio(device) for device in devices if not device.is_pci),"
    yield from broken(
        where.device_tree,
        (
            "memory before chosen",
            "_chosen(machine, layout),\n        _memory(machine),",
            "_memory(machine),\n        _chosen(machine, layout),",
            rim("cpus-1"),
        ),
        (
            "PMU before the timer",
            "_timer(machine),\n        *_pmu(machine),",
            "*_pmu(machine),\n        _timer(machine),",
            rim("pmu-and-counters"),
        ),
        (
            "PCI before memory mapped devices",
            f"{mapped}\n        {host}",
            f"{host}\n        {mapped}",
            rim("mmio-transport-legacy"),
        ),
        (
            "PSCI behind the aliases",
            '_psci(),\n        _node("aliases", ALWAYS, ("serial0", strings(f"/{_uart(0).name}"))),',
            '_node("aliases", ALWAYS, ("serial0", strings(f"/{_uart(0).name}"))),\n        _psci(),',
            rim("cpus-1"),
        ),
        (
            "flash before the PMU",
            "*_pmu(machine),\n        *_flash(machine),",
            "*_flash(machine),\n        *_pmu(machine),",
            unit(test_measure_kvmtool_fdt.test_nodes_in_order),
        ),
        (
            "no PCI host without PCI devices",
            host,
            f"*([{host}] if any(device.is_pci for device in devices) else ()),",
            rim("no-net-no-virtio"),
        ),
    )
    serial, root = "serial", b" console=ttyS0 root=/dev/vda rw "
    yield from broken(
        where.command_line,
        ("no blank before the console", 'b" console=ttyS0"', 'b"console=ttyS0"', rim("cpus-1")),
        ("no blank behind the root", 'b" root=/dev/vda rw "', 'b" root=/dev/vda rw"', rim("cpus-1")),
        ("root despite another", 'given is None or b"root=" not in given', "True", rim("params-root")),
        (
            "root only where a word begins with it",
            'b"root=" not in given',
            'not any(word.startswith(b"root=") for word in given.split())',
            command_line(serial, "xroot=", False, b" console=ttyS0 xroot="),
        ),
        ("no blank before -p", 'b" " + given', "given", rim("params")),
        (
            "-p of nothing as no -p",
            "if given is not None:\n        text",
            "if given:\n        text",
            command_line(serial, "", False, root + b" "),
        ),
        (
            "-p of nothing for no -p",
            '    if given is not None:\n        text += b" " + given',
            '    text += b" " + (given or b"")',
            rim("cpus-1"),
        ),
        (
            "all of a long line",
            "[:_MAX_COMMAND_LINE]",
            "",
            command_line(serial, "x" * 3000, False, root + b" " + b"x" * 2014),
        ),
        ("defaults with --nodefaults", "if machine.nodefaults:", "if False:", rim("nodefaults-params")),
        (
            "virtio console called serial",
            'text += b" console=hvc0"',
            'text += b" console=ttyS0"',
            rim("console-virtio"),
        ),
        ("hv unknown", '("virtio", "hv")', '("virtio",)', rim("console-hv")),
        (
            "serial for unknown consoles",
            'elif machine.console.startswith(("virtio", "hv"))',
            "else",
            command_line("none", None, False, b" root=/dev/vda rw "),
        ),
    )
    yield other(
        where,
        "_MAX_COMMAND_LINE",
        2048,
        "one byte more of a long line",
        command_line(serial, "x" * 3000, False, root + b" " + b"x" * 2014),
    )
    yield from broken(
        where._chosen,
        (
            "seed of 32 bits",
            "quads(machine.kaslr_seed)",
            "quads(machine.kaslr_seed & 0xFFFFFFFF)",
            rim("kaslr-seed-big"),
        ),
        (
            "no seed of 0",
            'properties.append(Property("kaslr-seed", quads(machine.kaslr_seed), seeded))',
            'properties += [Property("kaslr-seed", quads(machine.kaslr_seed), seeded)] if seeded else []',
            rim("cpus-1"),
        ),
        (
            "last byte of the initramfs",
            "quads(layout.initrd_end)",
            "quads(layout.initrd_end - 1)",
            rim("cpus-1"),
        ),
        ("initramfs in 32 bits", "quads(layout.initrd)", "cells(layout.initrd)", rim("cpus-1")),
        (
            "initramfs without one",
            "if layout.initrd is not None:",
            'if layout.initrd or properties.append(Property("linux,initrd-start", quads(0))):',
            rim("no-initrd-with-disk"),
        ),
        (
            "empty command line for none",
            "if line is not None:",
            'line = line or b""\n    if True:',
            command_line(serial, None, True, None),
        ),
    )


def tree_devices() -> Iterator[RealmMutation]:
    """CPUs, interrupt controller and devices of the tree."""
    where = kvmtool_fdt
    private, flash = test_measure_kvmtool_fdt.test_private_interrupts, test_measure_kvmtool_fdt.test_flash
    yield from broken(
        where._memory,
        (
            "memory by its end",
            "quads(machine.ram_base, machine.memory)",
            "quads(machine.ram_base, machine.ram_base + machine.memory)",
            rim("cpus-1"),
        ),
    )
    yield from broken(
        where._cpus,
        ("enable-method of a single CPU", "if machine.vcpus > 1:", "if True:", rim("cpus-1")),
        ("no enable-method", "if machine.vcpus > 1:", "if False:", rim("cpus-4")),
        ("MPIDRs ignored", "machine.mpidrs or ", "", rim("mpidrs")),
        (
            "MPIDR in two cells",
            "cells(mpidr & _MPIDR_MASK & 0xFFFF_FFFF)",
            "quads(mpidr & _MPIDR_MASK)",
            rim("cpus-1"),
        ),
        (
            "name from the lower half",
            'f"cpu@{mpidr & _MPIDR_MASK:x}"',
            'f"cpu@{mpidr & 0xFFFF_FFFF:x}"',
            rim("mpidrs-aff3"),
        ),
        ("decimal names", ':x}"', '}"', rim("mpidrs")),
    )
    yield other(
        where,
        "_MPIDR_MASK",
        (1 << 64) - 1,
        "MPIDR not masked",
        unit(
            noticed, unit(test_measure_kvmtool_fdt.test_mpidr, 0xFFFF_FFFF_FFFF, "cpu@ff00ffffff", 0xFF_FFFF)
        ),
    )
    yield other(where, "_MAX_CPU_NAME", 12, "shorter names of CPUs", rim("mpidrs-aff3"))
    yield from broken(
        where._interrupt_controller,
        (
            "redistributor of one CPU",
            "machine.vcpus * _GIC_REDISTRIBUTOR_SIZE",
            "_GIC_REDISTRIBUTOR_SIZE",
            rim("cpus-4"),
        ),
        (
            "redistributors with a GICv2",
            "size = machine.vcpus * _GIC_REDISTRIBUTOR_SIZE if version3 else",
            "size = machine.vcpus *",
            rim("irqchip-gicv2"),
        ),
        (
            "GICv3 whatever is asked for",
            '"arm,gic-v3" if version3 else "arm,cortex-a15-gic"',
            '"arm,gic-v3"',
            rim("irqchip-gicv2"),
        ),
        ("no ranges", 'properties.append(Property("ranges", b"", option))', "pass", rim("irqchip-auto")),
        ("no MSI controller", "children.append(_msi_controller(machine, base))", "pass", rim("irqchip-auto")),
    )
    yield from broken(
        where._has_msi,
        ("MSI with any GICv3", "(Irqchip.GICV3_ITS, Irqchip.GICV2M)", "tuple(Irqchip)", rim("cpus-1")),
        ("no MSI with a GICv2M", ", Irqchip.GICV2M)", ",)", rim("irqchip-gicv2m")),
    )
    yield from broken(
        where._msi_controller,
        (
            "ITS frame for all",
            "_GIC_ITS_SIZE if is_its else _GIC_V2M_SIZE",
            "_GIC_ITS_SIZE",
            rim("irqchip-gicv2m"),
        ),
        ("ITS at the redistributors", "quads(below - size, size)", "quads(below, size)", rim("irqchip-auto")),
        (
            "ITS called a GICv2M",
            '"arm,gic-v3-its" if is_its else "arm,gic-v2m-frame"',
            '"arm,gic-v2m-frame"',
            rim("irqchip-auto"),
        ),
    )
    yield other(where, "_MSI", 1, "MSI controller with the phandle of the GIC", rim("irqchip-auto"))
    yield from broken(
        where._cpu_mask,
        (
            "mask of CPUs with a GICv3",
            "if machine.irqchip in (Irqchip.GICV3, Irqchip.GICV3_ITS):",
            "if False:",
            rim("cpus-1"),
        ),
        (
            "no mask of CPUs with a GICv2",
            "if machine.irqchip in (Irqchip.GICV3, Irqchip.GICV3_ITS):",
            "if True:",
            rim("irqchip-gicv2"),
        ),
        (
            "mask of more than 8 CPUs",
            "min(machine.vcpus, _MASK_CPUS)",
            "machine.vcpus",
            rim("irqchip-gicv2-cpus9-pmu"),
        ),
        (
            "mask of the last CPU",
            "((1 << min(machine.vcpus, _MASK_CPUS)) - 1)",
            "(1 << min(machine.vcpus, _MASK_CPUS) - 1)",
            rim("irqchip-gicv2"),
        ),
    )
    yield other(where, "_TIMER_PPIS", (10, 11, 13, 14), "timers in order of interrupts", rim("cpus-1"))
    yield from broken(
        where._timer,
        ("timers active high", "_LEVEL_LOW", "_LEVEL_HIGH", rim("cpus-1")),
        ("no frequency of the counter", "if machine.counter_frequency:", "if False:", rim("cntfrq")),
        ("frequency of 0", "if machine.counter_frequency:", "if True:", rim("cpus-1")),
    )
    yield from broken(
        where._pmu,
        ("no PMU", "if machine.pmu:", "if False:", rim("pmu-and-counters")),
        (
            "PMU with counters alone",
            "if machine.pmu:",
            "if machine.pmu_counters:",
            rim("irqchip-gicv2-cpus9-pmu"),
        ),
        (
            "PMU for all CPUs",
            "_cpu_mask(machine) | _LEVEL_HIGH",
            "_LEVEL_HIGH",
            unit(private, Irqchip.GICV2, 8, 0xFF00),
        ),
        ("PMU active low", "_LEVEL_HIGH", "_LEVEL_LOW", rim("pmu-and-counters")),
    )
    yield from broken(
        where._flash,
        (
            "flash of the file's size",
            "1 << machine.flash.bit_length() - 1",
            "machine.flash",
            rim("flash-nonpow2"),
        ),
        (
            "flash rounded up",
            "1 << machine.flash.bit_length() - 1",
            "1 << (machine.flash - 1).bit_length()",
            rim("flash-nonpow2"),
        ),
        (
            "flash of any size",
            "min(1 << machine.flash.bit_length() - 1, _MAX_FLASH)",
            "1 << machine.flash.bit_length() - 1",
            unit(flash, 40 * MIB, 16 * MIB),
        ),
        ("no flash", "if machine.flash:", "if False:", rim("flash-nonpow2")),
    )
    yield from broken(
        where._uart,
        ("serial ports on one interrupt", "cells(_SPI, index,", "cells(_SPI, 0,", rim("cpus-1")),
        ("serial ports on an edge", "_LEVEL_HIGH", "_EDGE_RISING", rim("cpus-1")),
    )
    yield from broken(
        where._virtio_mmio,
        (
            "memory mapped devices by their interrupt",
            "device.number * _MMIO_STRIDE",
            "device.spi * _MMIO_STRIDE",
            rim("mmio-transport-legacy"),
        ),
        ("memory mapped devices on a level", "_EDGE_RISING", "_LEVEL_HIGH", rim("mmio-transport-legacy")),
        ("names of memory mapped devices in decimal", ':x}"', '}"', rim("mmio-transport-legacy")),
    )
    yield from broken(
        where._pci,
        ("device number as it is", "device.number << _PCI_DEVICE_SHIFT", "device.number", rim("disks-2")),
        ("first pin is 0", "0, 0, 1, _GIC, 0, 0,", "0, 0, 0, _GIC, 0, 0,", rim("cpus-1")),
        ("controller without unit address", "1, _GIC, 0, 0, _SPI", "1, _GIC, _SPI", rim("cpus-1")),
        ("devices on an edge", "_LEVEL_HIGH", "_EDGE_RISING", rim("cpus-1")),
        (
            "no map without devices",
            'properties.append(Property("interrupt-map", interrupts, origin))',
            'properties += [Property("interrupt-map", interrupts, origin)] * bool(devices)',
            rim("no-net-no-virtio"),
        ),
        (
            "mask without devices",
            "if devices:",
            'if True:\n        devices = devices or (VirtioDevice("", True, 0, 4),)',
            rim("no-net-no-virtio"),
        ),
        ("no msi-parent", "if _has_msi(machine):", "if False:", rim("irqchip-auto")),
    )
    yield other(kvmtool_devices, "UARTS", 1, "interrupts of three serial ports free", rim("cpus-1"))
    ordered = unit(test_measure_kvmtool_fdt.test_devices_in_order)
    apart = unit(test_measure_kvmtool_fdt.test_each_transport_counts_by_itself)
    yield from broken(
        kvmtool_devices.virtio_devices,
        ("no default network device", "if machine.networks is None:", "if False:", rim("cpus-1")),
        (
            "default network device despite -n",
            "if machine.networks is None:",
            "if not machine.networks:",
            rim("no-net-no-virtio"),
        ),
        (
            "virtio console no device",
            'if machine.console.startswith("virtio"):',
            "if False:",
            rim("console-virtio"),
        ),
        (
            "hv console a device",
            'machine.console.startswith("virtio")',
            'machine.console.startswith(("virtio", "hv"))',
            rim("console-hv"),
        ),
        (
            "numbers across transports",
            "origin, is_pci, counts[is_pci], spi",
            "origin, is_pci, spi - UARTS, spi",
            apart,
        ),
        (
            "interrupts by transport",
            "counts[is_pci], spi))",
            "counts[is_pci], UARTS + counts[is_pci]))",
            apart,
        ),
        (
            "transport of a network device ignored",
            "(network.transport or machine.transport)",
            "machine.transport",
            apart,
        ),
        (
            "interrupts in the reverse order",
            "enumerate(wanted, UARTS)",
            "enumerate(wanted[::-1], UARTS)",
            ordered,
        ),
        (
            "disks not counted",
            "range(1, machine.disks + 1)",
            "range(1, min(machine.disks, 1) + 1)",
            rim("disks-2"),
        ),
        (
            "shares not counted",
            "for index in range(1, len(machine.shares) + 1)",
            "for index in ()",
            rim("9p"),
        ),
    )
    yield from broken(
        kvmtool_devices._single_devices,
        (
            "rng before the others",
            '("--vsock", machine.vsock != 0), ("--balloon", machine.balloon), ("--rng", machine.rng)',
            '("--rng", machine.rng), ("--vsock", machine.vsock != 0), ("--balloon", machine.balloon)',
            ordered,
        ),
        ("vsock always", "machine.vsock != 0", "True", rim("cpus-1")),
        ("no balloon", "machine.balloon)", "False)", rim("balloon")),
        ("no vsock", "machine.vsock != 0", "False", rim("vsock-3")),
        ("no rng", "machine.rng)", "False)", rim("upstream-testcmd-2")),
    )


TREE_MUTATIONS = (*blob(), *tree_root(), *tree_devices())
