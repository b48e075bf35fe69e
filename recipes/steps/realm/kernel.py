"""``kernel:REALM``: the shared kernel as the realm's ``Image``, checked to be what kvmtool can load."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...schema import RealmImage, SharedKernel
from .. import kernel as shared
from ..task import OUT, Step


def image_path(realm: RealmImage) -> Path:
    """Path of the kernel."""
    return OUT / realm.folder / "Image"


def step(realm: RealmImage, kernel: SharedKernel) -> Step:
    """The step that takes the kernel over."""
    return Step(
        basename="kernel",
        image=realm,
        products=(image_path(realm),),
        inputs=(shared.vmlinuz(kernel),),
        build=build,
        arguments={"kernel": shared.vmlinuz(kernel)},
        doc=f"take the kernel {kernel.name} as this realm's Image",
    )


def build(target: Path, *, kernel: Path) -> None:
    """Copies the kernel.

    Raises:
        FormatError: it is compressed, or for another processor; kvmtool would load it all the same.
    """
    from ...formats import arm64_image

    with kernel.open("rb") as file:
        head = file.read(arm64_image.HEAD_SIZE)
    arm64_image.read_header(head, kernel.stat().st_size, kernel.name)
    shutil.copyfile(kernel, target)
