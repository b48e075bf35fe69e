"""``publish:IMAGE.CLOUD``: a folder with all that it takes to bring an image to a cloud.

The disk as it ships there, a script that uploads it and starts a machine, the Secure Boot keys in the shape
the cloud wants, what the machine will measure, and a file that says all of this to programs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..reader import Marks
from ..record import dataclass, replace
from ..schema import DiskImage, Image
from ..schema.publish import CloudSpec, Parameter, azure_version, parameters
from ..units import GIB
from . import disk_formats, golden, keys, publish_golden, publish_kit, uki, verity
from .digests import ROOT, read_sidecar
from .disk import raw_disk
from .places import marks
from .publish_names import disk_name, note, shipment
from .seeds import derived_uuid
from .task import OUT, Step

if TYPE_CHECKING:
    from ..clouds.cloud import Shipment
    from ..clouds.secure_boot import Pcr7

TEMPLATES = ROOT / "templates" / "publish"
COMMON, METADATA = TEMPLATES / "common.sh.j2", TEMPLATES / "metadata.json.j2"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is published where.

    Attributes:
        owner: GUID that goes with the Secure Boot keys.
    """

    image: str
    version: str
    architecture: str
    cloud: str
    spec: CloudSpec
    disk_format: str
    owner: str


def folder(image: DiskImage, cloud: str) -> Path:
    """The folder of a cloud's kit."""
    return OUT / image.folder / "publish" / cloud


def script(cloud: str) -> Path:
    """The template of a cloud's ``deploy.sh``."""
    return TEMPLATES / cloud / "deploy.sh.j2"


def steps(image: DiskImage) -> tuple[Step, ...]:
    """The steps that put kits together, one for each cloud of the recipe.

    Raises:
        SpecError: a cloud would refuse what the recipe says, or there is no disk in its format; all of it.
    """
    if not image.recipe.publish.clouds:
        return ()
    noted = marks(image)
    found = []
    for cloud, spec in image.recipe.publish.clouds:
        disk_format = _disk_format(image, cloud, noted)
        if disk_format:
            found.append(_subject(image, cloud, spec, disk_format))
            _check(found[-1], noted)
    noted.raise_problems()
    return tuple(_step(image, subject) for subject in found)


def _disk_format(image: DiskImage, cloud: str, noted: Marks) -> str:
    """The first of the cloud's formats that the recipe has; a problem and nothing if there is none."""
    from ..clouds.registry import lookup

    taken = lookup(cloud).disk_formats
    found = next((name for name in taken if name in image.recipe.disk.formats), "")
    if not found:
        what = f"publish.{cloud}: a disk in format {' or '.join(taken)} is what it takes"
        noted.add(("publish", cloud), f"{what}; add {taken[0]} to disk.formats")
    return found


def _subject(image: DiskImage, cloud: str, spec: CloudSpec, disk_format: str) -> Subject:
    return Subject(
        image=image.name,
        version=image.recipe.version,
        architecture=image.recipe.architecture.value,
        cloud=cloud,
        spec=spec,
        disk_format=disk_format,
        owner=str(derived_uuid(image, "owner")),
    )


def _check(subject: Subject, noted: Marks) -> None:
    """Notes what a cloud would refuse. The disk's size is not known yet: it is one that all take."""
    from ..clouds.registry import lookup

    name = disk_name(subject.image, subject.version, "0" * 64)
    note(noted, subject.cloud, lookup(subject.cloud).problems(_sent(subject, GIB, name)))


def _step(image: DiskImage, subject: Subject) -> Step:
    cloud = subject.cloud
    shipped = dict(disk_formats.shipped_disks(image))[subject.disk_format]
    facts = (verity.verity_facts(image),) if isinstance(image, Image) else ()
    enrolled = [keys.certificate_path(role) for role in keys.ROLES]
    if subject.spec.secure_boot:
        enrolled += [keys.key_path(role) for role in ("PK", "KEK")]
    return Step(
        basename="publish",
        variant=cloud,
        image=image,
        products=(folder(image, cloud),),
        folders=(folder(image, cloud),),
        inputs=(
            shipped,
            raw_disk(image),
            golden.golden_path(image),
            uki.uki_path(image),
            *facts,
            *enrolled,
            *(COMMON, METADATA, script(cloud)),
        ),
        build=partial(build, noted=marks(image)),
        arguments={
            "subject": subject,
            "shipped": shipped,
            "raw": raw_disk(image),
            "golden": golden.golden_path(image),
            "boot_program": uki.uki_path(image),
            "facts": facts,
        },
        doc=f"put together what publishes the image on {publish_kit.PROGRAMS[cloud].title}",
    )


def build(
    target: Path,
    *,
    subject: Subject,
    shipped: Path,
    raw: Path,
    golden: Path,
    boot_program: Path,
    facts: tuple[Path, ...],
    noted: Marks,
) -> None:
    """Makes the kit.

    Raises:
        SpecError: the cloud would refuse the disk for its size.
        FormatError: it would refuse the disk for what is in it.
    """
    spec, cloud = subject.spec, subject.cloud
    disk = _disk(subject, shipped, raw)
    name = disk_name(subject.image, subject.version, disk.sha256)
    _check_disk(_sent(subject, disk.virtual_size, name), cloud, shipped, noted)
    target.mkdir()
    publish_kit.add_disk(shipped, target / disk.file)
    files = [publish_kit.add_file(target, "golden.json", golden.read_bytes())]
    if spec.secure_boot:
        files += publish_kit.add_keys(target, cloud, UUID(subject.owner))
    identity = _identity(cloud, spec, disk.file)
    pcr7 = _pcr7(subject, boot_program) if spec.secure_boot else None
    predicted = publish_golden.cloud_golden(golden, cloud, disk.format, identity, pcr7)
    files.append(publish_kit.add_file(target, publish_kit.golden_name(cloud), predicted.text.encode()))
    kit = publish_kit.Kit(
        cloud=cloud,
        image=subject.image,
        version=subject.version,
        architecture=subject.architecture,
        disk=disk,
        disk_name=name,
        parameters=parameters(spec),
        effective=_effective(spec),
        sizes=tuple(_by_tee(spec).items()),
        size_key=_size_key(spec),
        image_version=azure_version(subject.version) or "",
        root_hash=verity.read_facts(facts[0]).root_hash.hex() if facts else "",
        owner=subject.owner,
        keys=spec.secure_boot,
        certificates=publish_kit.fingerprints(publish_kit.certificates()) if spec.secure_boot else (),
        golden=predicted,
        files=tuple(sorted(files, key=lambda item: item.file)),
    )
    publish_kit.write_texts(target, kit, script(cloud), COMMON, METADATA)


def _disk(subject: Subject, shipped: Path, raw: Path) -> publish_kit.KitDisk:
    from ..disks.format import aligned_size, lookup

    chosen = lookup(subject.disk_format)
    size, sha256 = read_sidecar(shipped)
    return publish_kit.KitDisk(
        file=f"{disk_name(subject.image, subject.version, sha256)}{chosen.suffix}",
        format=chosen.name,
        size=size,
        sha256=sha256,
        virtual_size=aligned_size(chosen, raw.stat().st_size),
    )


def _sent(subject: Subject, disk_size: int, name: str) -> Shipment:
    return shipment(
        subject.image,
        subject.version,
        subject.architecture,
        subject.spec,
        subject.disk_format,
        disk_size,
        name,
    )


def _check_disk(sent: Shipment, cloud: str, shipped: Path, noted: Marks) -> None:
    from ..clouds.registry import lookup

    problems = Marks(noted.path, places=noted.places)
    note(problems, cloud, lookup(cloud).problems(sent))
    problems.raise_problems()
    publish_kit.raise_findings(shipped.name, lookup(cloud).file_problems(sent, shipped))


def _identity(cloud: str, spec: CloudSpec, disk: str) -> dict[str, str]:
    """What makes a machine what it is there, for the golden manifest."""
    said = ("tee", "size", "machine_type", "instance_type")
    found = {item.name: item.value for item in _effective(spec) if item.name in said}
    return {"cloud": cloud, "disk": disk} | found


def _by_tee(spec: CloudSpec) -> dict[str, str]:
    """The kind of machine that stands in for none, by what protects it."""
    return dict(getattr(spec, "BY_TEE", {}))


def _size_key(spec: CloudSpec) -> str:
    return "size" if hasattr(spec, "size") else "machine_type"


def _effective(spec: CloudSpec) -> tuple[Parameter, ...]:
    """The keys with the kind of machine that stands in for none; others that are empty only a run knows."""
    found = parameters(spec)
    tee = next(item.value for item in found if item.name == "tee")
    default = _by_tee(spec).get(tee, "")
    return tuple(
        replace(item, value=item.value or default) if item.name == _size_key(spec) else item for item in found
    )


def _pcr7(subject: Subject, boot_program: Path) -> Pcr7:
    from ..clouds.secure_boot import pcr7
    from ..measure.secureboot import LoadedImage

    program = LoadedImage(boot_program.name, boot_program.read_bytes())
    return pcr7(subject.cloud, publish_kit.certificates(), UUID(subject.owner), [program])
