"""``packages:IMAGE``: every locked package in the cache, checked against the lock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema import (
    Architecture,
    Buildable,
    ConvertedImage,
    HatsImage,
    Image,
    RealmImage,
    SharedFirmware,
    SharedKernel,
)
from ..schema.volumes import FormatPolicy
from ..units import MIB
from .convert import asking as converted
from .digests import CACHE, ROOT
from .task import OUT, Step

if TYPE_CHECKING:
    from ..sources.lock import Lock
    from ..sources.request import Request

TOOLS_GROUP, FIRMWARE_GROUP = converted.TOOLS_GROUP, converted.FIRMWARE_GROUP
APPLICATION_GROUP = "application"
PACKAGES = CACHE / "packages"
APT_WORK = CACHE / "apt"
DEBIAN_ARCHITECTURES = {Architecture.X86_64: "amd64", Architecture.AARCH64: "arm64"}


def resolved_lock(image: Buildable) -> Path:
    """Path of the lock this build uses: the committed one, unless the mirror no longer has its versions."""
    return OUT / image.folder / "resolved.lock"


def step(image: Buildable) -> Step:
    """The step that fetches packages."""
    return Step(
        basename="packages",
        image=image,
        products=(resolved_lock(image),),
        # Without one the step itself says how a lock is made.
        inputs=(image.lock_path,) if image.lock_path.exists() else (),
        build=partial(build, image=image),
        arguments={},
        fingerprint=(debian(image), [(name, asked) for name, asked, _ in asked_for(image)], locked_only()),
        uptodate=(_cache_is_whole(image),),
        doc="download the locked packages and check each against the lock",
    )


def locked_only() -> bool:
    """Whether ``--locked`` was given: another version than the locked one is then refused."""
    return os.environ.get("GOLDSMITH_LOCKED", "") not in ("", "0")


def debian(image: Buildable) -> tuple[str, str]:
    """The suite and Debian's name of the architecture that a recipe takes packages of."""
    recipe = image.recipe
    return recipe.debian.suite, DEBIAN_ARCHITECTURES[recipe.architecture]


Asking = tuple[str, tuple[str, ...], tuple[str | int, ...]]


def asked_for(image: Buildable) -> tuple[Asking, ...]:
    """What a recipe asks of Debian: name of the group, packages, and the key of the recipe that asks."""
    if isinstance(image, Image):
        recipe = image.recipe
        # What makes a file system for a volume that comes with the image.
        volume: Asking = (TOOLS_GROUP, converted.TOOLS, ("data", "format"))
        return (
            ("rootfs", recipe.rootfs.packages, ("rootfs", "packages")),
            ("initramfs", recipe.initramfs.packages, ("initramfs", "packages")),
            ("kernel", (recipe.kernel.package,), ("kernel", "package")),
            ("stub", (recipe.uki.stub,), ("uki", "stub")),
            ("toolchain", recipe.initramfs.toolchain, ("initramfs", "toolchain")),
            (FIRMWARE_GROUP, converted.firmware_packages(image), ("machines", "firmware")),
            *((volume,) if recipe.data.format is FormatPolicy.NEVER else ()),
            *_workload_images(image),
        )
    if isinstance(image, ConvertedImage):
        return converted.asked_for(image)
    if isinstance(image, RealmImage):
        made = (
            (f"app-{item.name}", item.packages, ("applications", index, "packages"))
            for index, item in enumerate(image.recipe.applications)
            if item.packages
        )
        return (("initramfs", image.recipe.initramfs.packages, ("initramfs", "packages")), *made)
    if isinstance(image, HatsImage):
        application = image.recipe.application.packages
        wanted = ((APPLICATION_GROUP, application, ("application", "packages")),) if application else ()
        return (("kernel", (image.recipe.kernel.package,), ("kernel", "package")), *wanted)
    if isinstance(image, SharedKernel):
        return (("kernel", (image.recipe.package,), ("package",)),)
    if isinstance(image, SharedFirmware):
        return ((FIRMWARE_GROUP, (image.recipe.package,), ("package",)),)
    raise TypeError(image)


def request(image: Buildable) -> Request:
    """What the recipe asks of Debian, by group."""
    from ..sources.request import Closure, Group, Request

    # What a toolchain depends on is mostly run-time support of languages that no helper is written in.
    alone = dict.fromkeys(("stub", FIRMWARE_GROUP, "toolchain", converted.ADDED_GROUP), Closure.NONE)
    closures = {"kernel": Closure.KERNEL, **alone}
    path = image.path
    suite, architecture = debian(image)
    return Request(
        image=image.name,
        recipe=(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix(),
        suite=suite,
        architecture=architecture,
        groups=tuple(
            Group(
                name,
                asked,
                closures.get(name, Closure.DEPENDENCIES),
                place=".".join(str(item) for item in key),
                positions=image.positions(*key),
            )
            for name, asked, key in asked_for(image)
        ),
    )


def workload_group(name: str) -> str:
    """The group of the packages that an image of the workload is made of."""
    return f"workload-{name}"


def _workload_images(image: Image) -> Iterator[Asking]:
    workload = image.recipe.workload
    for index, made in enumerate(workload.images if workload else ()):
        if made.packages:
            yield workload_group(made.name), made.packages, ("workload", "images", index, "packages")


def build(target: Path, *, image: Buildable) -> None:
    """Fills the cache and writes the lock that was used, which is what the recipe asks for."""
    from ..sources import apt
    from ..sources import lock as locks

    used = apt.fetch(
        locks.load(image.lock_path),
        PACKAGES,
        APT_WORK,
        request=request(image),
        locked_only=locked_only(),
        notify=_warn,
        progress=Progress(),
    )
    target.write_text(locks.dump(used, image=image.name), encoding="utf-8")


def package_files(lock: Lock, group: str) -> list[Path]:
    """The cached archives of one group of the lock, in the lock's order."""
    from ..sources.apt import cached_path

    return [cached_path(PACKAGES, package) for package in lock.group(group)]


def _cache_is_whole(image: Buildable) -> Callable[[Any, Any], bool]:
    """An ``uptodate`` check: every package of the lock that was used is still in the cache."""

    def check(task: Any, values: Any) -> bool:  # noqa: ANN401 - doit's own calling convention
        from ..errors import SpecError
        from ..sources import lock as locks
        from ..sources.apt import cached_path

        try:
            lock = locks.load(resolved_lock(image))
            return all(cached_path(PACKAGES, item).stat().st_size == item.size for item in lock.packages)
        except (SpecError, OSError):
            return False

    return check


class Progress:
    """A bar for a download on a terminal, and one line in a log."""

    def __init__(self) -> None:
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        """Shows how far a download is; ``done`` and ``total`` are bytes."""
        percent = 100 * done // max(total, 1)
        if percent == self._shown:
            return
        if sys.stdout.isatty():
            bar = "#" * (percent // 4)
            end = "\n" if done >= total else ""
            sys.stdout.write(f"\r  downloading [{bar:<25}] {done / MIB:6.1f} of {total / MIB:.1f} MiB{end}")
        elif self._shown < 0:
            sys.stdout.write(f"  downloading {total / MIB:.1f} MiB\n")
        self._shown = percent
        sys.stdout.flush()


def _warn(text: str) -> None:
    sys.stderr.write(f"\nWARNING: {text}\n\n")
    sys.stderr.flush()
