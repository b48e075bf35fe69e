"""What a root file system must lose and be told when it moves from a cloud's disk into an encrypted one.

Plain functions of text and names; ``converted_root`` applies them inside an appliance.

Spec: fstab(5), crypttab(5); grub-install(8), update-grub(8) of Debian 12 and 13 for what a boot loader leaves
behind; Boot Loader Specification (/loader); initramfs-tools(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .configure.leftovers import REFUSED

# Where the initramfs puts the opened volume.
ROOT_DEVICE = "/dev/mapper/root"
# What names a block device in the first field of a line.
_DEVICES = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID=", "/dev/")
_DEFAULT_OPTIONS = "errors=remount-ro"  # what Debian's installer and its cloud images write

# Of the boot loader and the old initramfs: nothing reads them again, and they name partitions that are gone.
BOOT_LEFTOVERS = (
    "/boot/grub",
    "/boot/grub2",
    "/boot/efi/*",
    "/boot/loader",
    "/efi/*",
    "/boot/initrd.img*",
    "/boot/initramfs*",
    "/initrd.img*",
    "/etc/default/grub",
    "/etc/default/grub.d",
    "/etc/grub.d",
    "/etc/kernel/postinst.d/zz-update-grub",
    "/etc/kernel/postrm.d/zz-update-grub",
    "/etc/initramfs-tools/conf.d/resume",
)
# Of volumes that the old disk had.
VOLUME_LEFTOVERS = ("/etc/crypttab", "/etc/crypttab.d", "/etc/cryptsetup-keys.d")
# Of the one machine that the image was taken from; machine-id is emptied instead.
IDENTITIES = (*(f"/{path}" for path, _ in REFUSED), "/etc/ssh/ssh_host_*_key.pub")


def leftovers() -> tuple[str, ...]:
    """Patterns (glob(7)) of everything that is removed, sorted."""
    return tuple(sorted({*BOOT_LEFTOVERS, *VOLUME_LEFTOVERS, *IDENTITIES}))


def new_fstab(text: str) -> str:
    """The table with the opened volume as the root, and without all other devices.

    The root keeps its options. Lines that name no device stay: tmpfs, network file systems, bind mounts, swap
    files, comments.
    """
    kept = []
    options = _DEFAULT_OPTIONS
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            kept.append(line)
        elif words[1:2] == ["/"]:
            options = words[3] if len(words) > 3 else options
        elif not words[0].startswith(_DEVICES):
            kept.append(line)
    return "".join(f"{line}\n" for line in [f"{ROOT_DEVICE} / ext4 {options} 0 1", *kept])


def boot_partition(fstab: str) -> str | None:
    """What the table says is mounted on /boot, ``UUID=...``; None for nothing."""
    for line in fstab.splitlines():
        words = line.split()
        if words[1:2] == ["/boot"] and not words[0].startswith("#"):
            return words[0]
    return None


def newest_kernel(names: Iterable[str]) -> str | None:
    """The release of the newest of ``vmlinuz-RELEASE``; None without any.

    Numbers in releases are compared as numbers, and a tilde comes before everything, as in Debian's versions.
    """
    found = [name.removeprefix("vmlinuz-") for name in names if re.fullmatch(r"vmlinuz-[0-9][\w.+~-]*", name)]
    return max(found, key=_release_order, default=None)


def _release_order(release: str) -> list[tuple[int, str]]:
    parts = re.findall(r"([0-9]*)([^0-9]*)", release)
    return [(int(number or 0), text.replace("~", "\0")) for number, text in parts]


def os_name(os_release: str) -> str:
    """``debian 13`` of an os-release file; empty where it says nothing. Spec: os-release(5)."""
    values = dict(re.findall(r"""^(ID|VERSION_ID)=["']?([A-Za-z0-9._-]*)["']?$""", os_release, re.MULTILINE))
    return " ".join(values[key] for key in ("ID", "VERSION_ID") if values.get(key))
