"""What each option of a QEMU command line means to the launch digest of a machine with SEV.

Memory, disks and devices are no part of it. An option is read by :mod:`.sev_parse`, or is in one table here,
or is an error.

Spec: QEMU 10.0 qemu-options.hx, qapi/qom.json (SevCommonProperties and the two behind it).
"""

from __future__ import annotations

IGNORED_FLAGS = frozenset(
    [
        *("-S", "-daemonize", "-enable-kvm", "-full-screen", "-mem-prealloc", "-no-acpi"),
        *("-no-fd-bootchk", "-no-hpet", "-no-reboot", "-no-shutdown", "-no-user-config", "-nodefaults"),
        *("-nographic", "-only-migratable", "-s", "-snapshot", "-usb", "-win2k-hack"),
    ]
)
"""Options without a value."""

IGNORED_WITH_VALUE = frozenset(
    [
        *("-D", "-L", "-acpitable", "-action", "-add-fd", "-audio", "-audiodev", "-blockdev", "-boot"),
        *("-cdrom", "-chardev", "-chroot", "-compat", "-d", "-debugcon", "-display", "-drive", "-echr"),
        *("-fda", "-fdb", "-fsdev", "-fw_cfg", "-gdb", "-hda", "-hdb", "-hdc", "-hdd", "-icount"),
        *("-iscsi", "-k", "-m", "-mem-path", "-mon", "-monitor", "-msg", "-mtdblock", "-name", "-net"),
        *("-netdev", "-nic", "-numa", "-object", "-overcommit", "-parallel", "-pidfile", "-qmp"),
        *("-qmp-pretty", "-rtc", "-run-with", "-runas", "-sandbox", "-sd", "-semihosting-config"),
        *("-serial", "-smbios", "-spice", "-tpmdev", "-trace", "-usbdevice", "-uuid", "-vga"),
        *("-virtfs", "-vnc", "-watchdog-action", "-xen-domid"),
    ]
)
"""Options with a value; of ``-drive`` and ``-object`` those that are nothing to the launch."""

REFUSED = {
    "-dtb": "an x86 machine with SEV has no device tree",
    "-incoming": "a migrated machine has been measured before",
    "-loadvm": "a restored machine has been measured before",
    "-option-rom": "write what the firmware loads as -kernel, or leave it out",
    "-readconfig": "write what the file says on the command line",
    "-set": "write the setting where it belongs",
    "-shim": "it is given to the firmware beside the kernel, and how is not modelled",
}
"""Options that are known and not modelled, with what to do instead."""

IGNORED_OBJECTS = (
    *("authz-", "can-", "colo-", "cryptodev-", "dbus-", "filter-", "input-", "iommufd", "iothread"),
    *("main-loop", "memory-backend-", "pr-manager-", "rng-", "secret", "thread-context"),
    *("throttle-group", "tls-"),
)
"""Beginnings of ``-object`` types that are nothing to the launch."""

IGNORED_MACHINE = frozenset(
    [
        *("acpi", "aux-ram-share", "cxl", "default-bus-bypass-iommu"),
        *("dump-guest-core", "fd-bootchk", "graphics", "hmat", "hpet", "i8042", "ioapic2"),
        *("isa-serial", "kernel-irqchip", "kvm-shadow-mem", "kvm-type", "max-ram-below-4g"),
        *("mem-merge", "memory-backend", "nvdimm", "pcie", "pic", "pit", "rtc", "sata", "smbus", "smm"),
        *("suppress-vmdesc", "usb", "vmport", "x-option-roms"),
    ]
)
"""Settings of ``-machine`` that are nothing to the launch."""

IGNORED_SEV = frozenset(
    [
        *("author-key-enabled", "cbitpos", "dh-cert-file", "guest-visible-workarounds", "handle"),
        *("host-data", "id-auth", "id-block", "reduced-phys-bits", "session-file"),
        *("sev-device", "vcek-disabled"),
    ]
)
"""Settings of ``-object sev-guest`` and ``sev-snp-guest`` that the digest does not depend on."""

FEATURE_SETTINGS = {"debug-swap": 0x20, "secure-tsc": 0x200}
"""Settings of these objects that turn a bit of SEV_FEATURES on. Spec: QEMU 11.0 target/i386/sev.c."""

IGNORED_FLASH = frozenset(
    [
        *("aio", "cache", "detect-zeroes", "discard", "file.locking", "id", "readonly", "rerror"),
        *("snapshot", "werror"),
    ]
)
"""Settings of ``-drive if=pflash`` that are nothing to what is in the flash, and to where it is."""

UNMEASURED_DEVICE = "loader"
"""``-device`` that puts a file into memory, behind the launch's back."""
