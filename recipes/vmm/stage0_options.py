"""What each option of a QEMU command line means to a machine that starts in stage0.

An option is read by :mod:`.stage0_words`, or is in one table here, or is an error.

Spec: QEMU 10.0 qemu-options.hx; hw/i386/acpi-build.c and hw/i386/acpi-microvm.c (what reaches the tables).
"""

from __future__ import annotations

IGNORED_FLAGS = frozenset(
    [
        *("-S", "-daemonize", "-full-screen", "-mem-prealloc", "-no-fd-bootchk", "-no-reboot"),
        *("-no-shutdown", "-no-user-config", "-nographic", "-only-migratable", "-s", "-snapshot"),
    ]
)
"""Options without a value that neither tables nor memory map depend on."""

IGNORED_WITH_VALUE = frozenset(
    [
        *(
            "-D",
            "-L",
            "-action",
            "-add-fd",
            "-audio",
            "-audiodev",
            "-blockdev",
            "-boot",
            "-chardev",
            "-chroot",
        ),
        *("-compat", "-d", "-debugcon", "-display", "-echr", "-fsdev", "-gdb", "-icount", "-k", "-mem-path"),
        *("-mon", "-monitor", "-msg", "-name", "-netdev", "-overcommit", "-pidfile", "-qmp", "-qmp-pretty"),
        *("-rtc", "-run-with", "-runas", "-sandbox", "-smbios", "-spice", "-tpmdev", "-trace", "-uuid"),
        *("-vnc", "-watchdog-action"),
    ]
)
"""Options with a value that neither tables nor memory map depend on: mostly host sides of devices."""

_KERNEL = "stage0 takes the kernel by -kernel, -initrd and -append"
DISK = "write -drive if=none,id=ID,... and -device virtio-blk-pci,drive=ID"
"""How a disk is given so that its PCI slot shows."""

REFUSED = {
    "-acpitable": "a table of your own changes the ones that are measured; leave it out",
    "-cdrom": DISK,
    "-dtb": _KERNEL,
    "-fda": DISK,
    "-fw_cfg": "a fw_cfg file can change what stage0 does; leave it out",
    "-global": "write the setting at -device or -machine",
    "-hda": DISK,
    "-hdb": DISK,
    "-incoming": "a migrated machine has been measured before",
    "-loadvm": "a restored machine has been measured before",
    "-net": "write -netdev and -device",
    "-no-acpi": "stage0 stops where there are no ACPI tables; leave it out",
    "-numa": "memory nodes change the ACPI tables and are not modelled; leave it out",
    "-option-rom": _KERNEL,
    "-pflash": "give stage0 by -bios",
    "-readconfig": "write what the file says on the command line",
    "-set": "write the setting where it belongs",
    "-shim": _KERNEL,
    "-usb": "a USB controller has a slot and code in the tables; leave it out",
    "-usbdevice": "a USB controller has a slot and code in the tables; leave it out",
}
"""Options that are known and not modelled, with what to do instead."""

IGNORED_OBJECTS = ("iothread", "memory-backend-", "rng-", "secret", "thread-context", "throttle-group")
"""Beginnings of ``-object`` types that are host sides of the machine."""

IGNORED_MACHINE = frozenset(
    [
        *("aux-ram-share", "dump-guest-core", "kvm-shadow-mem", "mem-merge", "memory-backend"),
        *("suppress-vmdesc", "x-option-roms"),
    ]
)
"""Settings of ``-machine`` that neither tables nor memory map depend on."""

OFF_BY_DEFAULT = frozenset(["cxl", "hmat", "nvdimm", "usb"])
"""Of the next ones those that may be written out as ``off``."""

REFUSED_MACHINE = {
    "cxl": "CXL changes memory map and tables",
    "hmat": "memory attributes are tables of their own",
    "igvm-cfg": "give stage0 by -bios",
    "max-ram-below-4g": "it moves memory to where the model of the memory map does not put it",
    "nvdimm": "memory of that kind changes memory map and tables",
    "pflash0": "give stage0 by -bios",
    "pflash1": "give stage0 by -bios",
    "usb": "a USB controller has a slot and code in the tables",
}
"""Settings of ``-machine`` that are not modelled, with the reason."""

KEPT_MACHINE = frozenset(
    [
        *("default-bus-bypass-iommu", "fd-bootchk", "graphics", "i8042", "ioapic2", "isa-serial"),
        *("kernel-irqchip", "pic", "pit", "sata", "smbus", "vmport", "x-south-bridge"),
    ]
)
"""Settings of ``-machine`` that stay part of the machine as they are written: QEMU is asked what they do."""

POINTER_DEVICES = frozenset(["vmgenid"])
"""Devices of a q35 whose tables have the loader write a pointer back (WRITE_POINTER), at which stage0 stops.

Spec: QEMU 10.0 hw/acpi/vmgenid.c vmgenid_build_acpi(), hw/i386/acpi-build.c acpi_build(); a microvm builds no
table for it.
"""

HOST_SIDE = frozenset(
    [
        *("bootindex", "chardev", "disable-legacy", "disable-modern", "drive", "guest-cid", "host_mtu"),
        *("iommu_platform", "iothread", "mac", "max-bytes", "mq", "netdev", "num-queues", "packed"),
        *("period", "queue-size", "rng", "romfile", "rombar", "rx_queue_size", "tx_queue_size", "vectors"),
        *("vhostfd", "page-per-vq", "event_idx", "ats"),
    ]
)
"""Settings of ``-device`` that do not reach ACPI tables: those see slots, not what sits in them."""

STAND_IN, MMIO_STAND_IN = "virtio-rng-pci", "virtio-rng-device"
"""Devices without a host side, for ones whose host side is not there when tables are captured."""

SLOT = frozenset(["acpi-index", "addr", "bus", "id", "multifunction"])
"""Settings of ``-device`` that say where it sits: what stands in for it has them too."""

_VHOST_USER = ("fs", "gpio", "gpu", "i2c", "input", "rng", "scmi", "snd")
NEEDS_HOST = frozenset(
    [
        *("nvme", "vfio-pci", "vhost-vdpa-device-pci", "vhost-vsock-pci", "vhost-vsock-pci-non-transitional"),
        *("virtio-9p", "virtio-blk", "virtio-gpu", "virtio-gpu-gl", "virtio-gpu-gl-pci", "virtio-gpu-pci"),
        *("vhost-user-vsock-pci", "vhost-user-vsock-pci-non-transitional"),
        *(f"vhost-user-{name}-pci" for name in _VHOST_USER),
        *(
            f"{name}-pci{kind}"
            for name in ("vhost-scsi", "vhost-user-blk", "vhost-user-scsi", "virtio-9p", "virtio-blk")
            for kind in ("", "-non-transitional", "-transitional")
        ),
    ]
)
"""PCI devices that do not start without something of the host. Spec: QEMU 10.0 ``-device help``."""

MMIO_NEEDS_HOST = frozenset(
    [
        *("vhost-scsi", "vhost-user-blk", "vhost-user-gpu", "vhost-user-input", "vhost-user-rng"),
        *("vhost-user-scsi", "vhost-user-vsock-device", "vhost-vdpa-device", "vhost-vsock-device"),
        *("virtio-9p-device", "virtio-blk-device", "virtio-gpu-device", "virtio-gpu-gl-device"),
        *(f"vhost-user-{name}-device" for name in ("fs", "gpio", "i2c", "rng", "scmi", "snd")),
    ]
)
"""Devices at a virtio-mmio transport that do not start so either."""

_NO_SLOT = "it has no slot of its own, and nothing stands in for it"
_NO_HOTPLUG = "the tables say that it cannot be unplugged, and nothing stands in for it"
NO_STAND_IN = {
    "nvme-ns": _NO_SLOT,
    "nvme-subsys": _NO_SLOT,
    "vfio-pci-nohotplug": _NO_HOTPLUG,
    "vhost-user-vga": "the tables tell a VGA card apart, and nothing stands in for it",
    "virtio-pmem": "memory of that kind changes memory map and tables",
    "virtio-pmem-pci": "memory of that kind changes memory map and tables",
}
"""Devices that do not start without something of the host, and that no other device is like."""
