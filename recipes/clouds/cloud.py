"""What is shipped to a cloud, and what a cloud would have to say about it.

A rule here stands in a document of the cloud; what it finds says what the cloud would have answered, so that
nobody has to upload a disk to learn it. Looking at a shipment opens no file and imports nothing heavy: that
happens when the task graph is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from ..errors import suggestion
from ..record import dataclass
from ..units import GIB, format_size

TEES = ("sev-snp", "tdx", "none")
ARCHITECTURES = ("x86_64", "aarch64")
# Characters of a bad value in a message.
_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What is about to be published.

    Attributes:
        image: name of the image.
        version: of the image, as it is published.
        architecture: ``x86_64`` or ``aarch64``.
        firmware: what it boots with, ``uefi`` or ``bios``.
        disk_format: as recipes call it, such as ``vhd``.
        disk_size: bytes of the disk as shipped: what a machine sees, not what the file takes.
        machine_disk: bytes of a machine's own disk, or None where it is as large as the cloud makes it.
        tee: ``sev-snp``, ``tdx`` or ``none``.
        secure_boot: with our own keys.
        names: (kind, value) of all that gets a name there, such as ``("bucket", "images")``.
    """

    image: str
    version: str
    architecture: str
    firmware: str
    disk_format: str
    disk_size: int
    tee: str
    secure_boot: bool
    names: tuple[tuple[str, str], ...] = ()
    machine_disk: int | None = None

    def value(self, kind: str) -> str | None:
        """The first name of that kind, if there is one."""
        return next((value for name, value in self.names if name == kind), None)


@dataclass(frozen=True)
class Finding:
    """Something that a cloud would refuse.

    Attributes:
        subject: what is wrong: the kind of a name, ``disk``, ``footer`` ...
        message: what the cloud would have said, and how to fix it.
        spec: document and section of the rule.
    """

    subject: str
    message: str
    spec: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" + (f" [{self.spec}]" if self.spec else "")


@dataclass(frozen=True)
class NameRule:
    """How one kind of name has to look.

    Attributes:
        kind: as in ``Shipment.names``.
        pattern: a regular expression for the whole name.
        expected: the same in words, behind "is not".
        answer: what the cloud says of another one.
        spec: document and section.
    """

    kind: str
    pattern: str
    expected: str
    answer: str
    spec: str


class Cloud(Protocol):
    """One cloud."""

    @property
    def name(self) -> str:
        """As recipes say it: ``azure``, ``gcp``, ``aws``."""

    @property
    def disk_formats(self) -> tuple[str, ...]:
        """Disk formats that are published there, the usual one first."""

    @property
    def disk_format(self) -> str:
        """The usual one."""

    @property
    def name_kinds(self) -> tuple[str, ...]:
        """Kinds of names that there are rules for."""

    @property
    def machine_disks(self) -> MachineDisks:
        """How large machines' own disks may be."""

    def problems(self, shipment: Shipment) -> tuple[Finding, ...]:
        """What it would refuse, as far as it can be told before there is a disk."""

    def file_problems(self, shipment: Shipment, path: Path) -> tuple[Finding, ...]:
        """What it would refuse of the finished disk.

        Only a bounded part of the file is read, however large it is.

        Raises:
            OSError: the file cannot be read.
        """


def shown(value: str) -> str:
    """A value in quotes, cut where it is long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def size_text(size: int) -> str:
    """A size in bytes, and for people where that says something."""
    return f"{size} bytes" + (f" ({format_size(size)})" if size >= 1024 else "")


def name_findings(
    cloud: str, rules: Iterable[NameRule], names: Iterable[tuple[str, str]]
) -> Iterator[Finding]:
    """A finding for each name that its rule does not match, or that has no rule."""
    known = {rule.kind: rule for rule in rules}
    for kind, value in names:
        rule = known.get(kind)
        if rule is None:
            yield Finding(kind, f"{cloud} has no such kind of name{suggestion(kind, known)}")
        elif not re.fullmatch(rule.pattern, value):
            what = f"{shown(value)} is not {rule.expected}; {cloud} answers {rule.answer}; choose another"
            yield Finding(kind, what, rule.spec)


def common_findings(
    cloud: str, disk_formats: tuple[str, ...], shipment: Shipment, *, without_uefi: str
) -> Iterator[Finding]:
    """What holds on every cloud: the words of a shipment, the disk's format, UEFI, and no realms there.

    None of the clouds offers confidential machines with Arm processors to the public.

    Args:
        without_uefi: what becomes of another firmware there.
    """
    for subject, word, words in (
        ("tee", shipment.tee, TEES),
        ("architecture", shipment.architecture, ARCHITECTURES),
    ):
        if word not in words:
            yield Finding(subject, f"{shown(word)} is not known{suggestion(word, words)}")
    if shipment.disk_format not in disk_formats:
        what = f"{cloud} is given a disk in format {' or '.join(disk_formats)}, not {shipment.disk_format}"
        yield Finding("disk", f"{what}; add {disk_formats[0]} to disk.formats of the recipe")
    if shipment.firmware != "uefi":
        what = f"confidential machines, vTPM and Secure Boot of {cloud} need UEFI, not {shipment.firmware}"
        yield Finding("firmware", f"{what}; {without_uefi}; build the image with a UKI")
    if shipment.architecture == "aarch64" and shipment.tee != "none":
        what = f"{cloud} has no confidential machines with aarch64 processors"
        yield Finding("tee", f"{what}; publish an x86_64 image, or with tee none")


@dataclass(frozen=True)
class DiskSizes:
    """How large a disk of some types may be, in GiB.

    Attributes:
        types: a shell pattern of the types.
    """

    types: str
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class MachineDisks:
    """Machines' own disks on a cloud, and what is said of one with another size.

    Attributes:
        what: one of them, in words.
        type: kind of the name that says of what type one is; empty where there is a single type.
        sizes: by type; the first pattern that fits counts, and the last fits all.
        too_small: what becomes of one that is smaller.
        too_large: what becomes of one that is larger.
        below_image: what becomes of one that the shipped disk does not fit on.
        spec: document and section of the sizes.
    """

    what: str
    type: str = ""
    sizes: tuple[DiskSizes, ...]
    too_small: str = ""
    too_large: str
    below_image: str
    spec: str


def machine_disk_findings(shipment: Shipment, disks: MachineDisks) -> Iterator[Finding]:
    """A finding if the machine's own disk is smaller or larger than may be, or smaller than the image."""
    if shipment.machine_disk is None:
        return
    size = shipment.machine_disk // GIB
    needed = -(-shipment.disk_size // GIB)
    type_ = shipment.value(disks.type) or ""
    may = next(sizes for sizes in disks.sizes if fnmatchcase(type_, sizes.types))
    one = f"{disks.what} of type {type_}" if type_ else disks.what
    fix, spec = "", disks.spec
    if size > may.most:
        what, fix = f"more than the {may.most} of {one}; {disks.too_large}", "make it smaller"
    elif size < may.least:
        what, fix = f"less than the {may.least} of {one}; {disks.too_small}", "make it larger"
    elif size < needed:
        what, fix, spec = f"and the image alone needs {needed}; {disks.below_image}", "make it larger", ""
    if fix:
        yield Finding("disk-size", f"the machine's disk has {size} GiB, {what}; {fix} or leave it out", spec)


def alignment_findings(cloud: str, size: int, alignment: int, answer: str, spec: str) -> Iterator[Finding]:
    """A finding if the disk is not a positive multiple of ``alignment`` bytes."""
    if size <= 0 or size % alignment:
        what = f"a disk of {size_text(size)} is not a multiple of {format_size(alignment)}"
        what += f"; {cloud} answers {answer}; ship it in the format made for {cloud}"
        yield Finding("disk", what, spec)


def protection_findings(
    kind: str, name: str, shipment: Shipment, offers: Mapping[str, str], answer: str, spec: str
) -> Iterator[Finding]:
    """A finding if the machine ``name`` does not protect as the shipment wants it.

    Args:
        kind: what the cloud calls machines.
        offers: regular expressions for whole names of machines, by what these protect with.
        answer: what the cloud says, and an example of a machine that would do.
        spec: document and section.
    """
    wanted = offers.get(shipment.tee)
    if wanted is not None and not re.fullmatch(wanted, name):
        others = [tee for tee, pattern in offers.items() if re.fullmatch(pattern, name)]
        has = f"offers {others[0]}" if others else f"offers neither {' nor '.join(offers)}"
        yield Finding(kind, f"{shown(name)} {has}, and the image wants {shipment.tee}; {answer}", spec)


def processor_findings(kind: str, name: str, *, arm: bool, architecture: str) -> Iterator[Finding]:
    """A finding if the machine ``name`` has a processor that the image is not for."""
    if arm != (architecture == "aarch64"):
        processor = "an Arm" if arm else "an x86"
        what = f"{shown(name)} has {processor} processor, and the image is for {architecture}"
        yield Finding(kind, f"{what}; choose another")
