"""What a converted image asks of Debian, by group: for ``packages`` and for its lock."""

from __future__ import annotations

from ...schema import ConvertedImage, DiskImage

# mke2fs, and the library that it reads archives with; they make an assembled base's root.
TOOLS = ("e2fsprogs", "libarchive13t64")
BASE_GROUP, TOOLS_GROUP, ADDED_GROUP, FIRMWARE_GROUP = "base", "tools", "added", "firmware"

Asking = tuple[str, tuple[str, ...], tuple[str | int, ...]]


def asked_for(image: ConvertedImage) -> tuple[Asking, ...]:
    """Name of each group, its packages, and the key of the recipe that asks.

    The group of packages that are installed into the root has exactly those that are named: what they depend
    on is the base's own, which only its dpkg knows.
    """
    recipe = image.recipe
    groups: list[Asking] = [
        ("initramfs", recipe.initramfs.packages, ("initramfs", "packages")),
        ("stub", (recipe.uki.stub,), ("uki", "stub")),
        ("toolchain", recipe.initramfs.toolchain, ("initramfs", "toolchain")),
        (FIRMWARE_GROUP, firmware_packages(image), ("machines", "firmware")),
    ]
    if not recipe.base.is_brought:
        groups.append((BASE_GROUP, recipe.base.packages, ("base", "packages")))
        groups.append((TOOLS_GROUP, TOOLS, ("base",)))
    if recipe.kernel.package is not None:
        groups.append(("kernel", (recipe.kernel.package,), ("kernel", "package")))
    if recipe.root.packages:
        groups.append((ADDED_GROUP, recipe.root.packages, ("root", "packages")))
    return tuple(groups)


def firmware_packages(image: DiskImage) -> tuple[str, ...]:
    """The packages with the firmware of the image's machines, but for firmware that images share."""
    own = {machine.firmware.package for machine in image.machines}
    own |= {machine.firmware.package for machine in image.snp if not machine.firmware.recipe}
    return tuple(sorted(own))
