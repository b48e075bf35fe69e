"""What a recipe says about its workload: containers on a partition of their own, measured before they run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from ..errors import suggestion
from ..reader import Marks, Place, Size, Text
from ..record import dataclass
from ..units import MIB, format_size
from .common import PackageName, Word, check_unique

WORKLOADS = "recipes/workloads"
COMPOSE_FILE = "docker-compose.yml"
WorkloadPath = Annotated[str, Text(rf"{WORKLOADS}/[a-z0-9][a-z0-9-]{{0,40}}", f"{WORKLOADS}/hello")]
# Words of an image's command: what a line of a log can show and a shell needs no quotes for is enough here.
CommandWord = Annotated[str, Text(r"[!-~]([ -~]*[!-~])?", "/bin/server")]

# Registers that neither firmware, UKI nor kernel extend on our machines.
# Spec: UAPI "Linux TPM PCR Registry": 14 is shim's (there is none here), 15 systemd's identities, 23 of
# applications.
DEFAULT_REGISTER = 14
IDENTITY_REGISTER = 15
# Software of locality 0 may reset it. Spec: TCG PC Client Platform TPM Profile 1.05 section 4.6.2, table 5.
RESETTABLE_REGISTER = 23
REGISTERS = (DEFAULT_REGISTER, IDENTITY_REGISTER, RESETTABLE_REGISTER)

# What a system needs to run containers, by package.
RUNTIME = ("podman", "crun")


class SecretsPolicy(Enum):
    """What becomes of files in ``secrets/``: the partition is not encrypted, so the host can read them."""

    REFUSE = "refuse"
    PLAINTEXT = "plaintext-readable-by-the-host"


@dataclass(frozen=True, kw_only=True)
class WorkloadImageSpec:
    """A container image that the build makes of locked packages.

    Attributes:
        name: what ``image:`` in the Compose file says, without a tag.
        overlay: folder of ``rootfs/`` laid over the packages.
        entrypoint: the first words of its command; a service's ``command`` follows them.
    """

    name: Word
    packages: tuple[PackageName, ...]
    overlay: Word | None = None
    entrypoint: tuple[CommandWord, ...]


@dataclass(frozen=True, kw_only=True)
class WorkloadSpec:
    """The workload of an image.

    Attributes:
        path: its folder: ``docker-compose.yml``, ``config/``, ``secrets/`` and ``*.tar``.
        verity: its root hash is in the initramfs, so another workload is another UKI. Without it, any
            workload starts, and the register says which.
        register: the PCR that it is measured into.
        size: of the partition; without one, as much as the content needs. A size with room for later ones
            keeps the partition table, and with it PCR 5, when a workload is exchanged.
        images: those that the build makes.
    """

    path: WorkloadPath
    verity: bool = True
    register: int = DEFAULT_REGISTER
    secrets: SecretsPolicy = SecretsPolicy.REFUSE
    size: Annotated[int, Size] | None = None
    images: tuple[WorkloadImageSpec, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.rpartition("/")[2]


def check_workload(
    marks: Marks, place: Place, spec: WorkloadSpec, packages: tuple[str, ...], root: Path
) -> None:
    """Notes a workload that is not there, or that the system could not run or measure.

    Args:
        packages: of the root file system.
    """
    _check_folder(marks, (*place, "path"), spec, root)
    if spec.register not in REGISTERS:
        known = ", ".join(map(str, REGISTERS))
        what = f"PCR {spec.register} is not for workloads; use one of {known}, best {DEFAULT_REGISTER}"
        marks.add((*place, "register"), what)
    for name in RUNTIME:
        if name not in packages:
            marks.add(place, f"a workload needs the package {name}; add it to rootfs.packages")
    if spec.size is not None and (spec.size % MIB or spec.size < MIB):
        marks.add((*place, "size"), f"workload.size {format_size(spec.size)} is not whole MiB")
    check_unique(marks, (*place, "images"), tuple(image.name for image in spec.images), "image")
    overlays = [path.name for path in (root / "rootfs").iterdir() if path.is_dir()]
    for index, image in enumerate(spec.images):
        here = (*place, "images", index)
        if not image.entrypoint:
            marks.add((*here, "entrypoint"), "entrypoint is empty; say which program the image runs")
        if not image.packages and image.overlay is None:
            marks.add(
                (*here, "packages"), "the image has neither packages nor an overlay; name what is in it"
            )
        if image.overlay is not None and image.overlay not in overlays:
            what = f"there is no overlay rootfs/{image.overlay}{suggestion(image.overlay, overlays)}"
            marks.add((*here, "overlay"), what)


def _check_folder(marks: Marks, place: Place, spec: WorkloadSpec, root: Path) -> None:
    folder = root / spec.path
    if folder.parent != root / WORKLOADS:
        return  # its text is refused already
    if not folder.is_dir():
        above = root / WORKLOADS
        known = [path.name for path in above.iterdir() if path.is_dir()] if above.is_dir() else []
        marks.add(place, f"there is no folder {spec.path}{suggestion(spec.name, known)}")
    elif not (folder / COMPOSE_FILE).is_file():
        marks.add(place, f"{spec.path} has no {COMPOSE_FILE}; write one that lists the services")
