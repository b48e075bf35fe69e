"""A unified kernel image and its addons as the stub finds them in memory, hashed once.

Hashing is the whole cost of a prediction, and none of it depends on the machine: what is read here serves
every machine that boots the image.

Spec: systemd 257 src/boot/stub.c (find_sections, load_addons), src/boot/pe.c (pe_locate_profile_sections),
src/fundamental/uki.c (names and order).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import MeasureError
from ..formats.authenticode import image_digest
from ..formats.pe import PeImage, Section
from ..formats.uki import stub_version
from .trace import Measured, in_every_algorithm, measured

# Sections the stub knows, in the order it measures them. Spec: systemd 257 src/fundamental/uki.c.
SECTIONS = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrsig",
    ".pcrpkey",
    ".profile",
    ".dtbauto",
    ".hwids",
)
# Never measured: it signs the values that the measurement gives. Spec: systemd 257 src/fundamental/uki.h.
UNMEASURED = ".pcrsig"


@dataclass(frozen=True)
class StubSection:
    """One section in memory: VirtualSize bytes and their digests."""

    name: str
    data: bytes
    content: Measured


@dataclass(frozen=True, kw_only=True)
class MeasuredUki:
    """A UKI as the stub sees it once a profile is chosen.

    Attributes:
        name: for people and for the steps' sources.
        stub_version: from ``.sdmagic``, such as ``257.13-1~deb13u1``.
        image: Authenticode digests of the file.
        kernel: Authenticode digests of what ``.linux`` holds.
        sections: of ``SECTIONS``, in that order, those that are there and not empty.
    """

    name: str
    stub_version: str
    image: Measured
    kernel: Measured
    sections: tuple[StubSection, ...]

    def data(self, name: str) -> bytes | None:
        """Content of a section, None where there is none."""
        return next((section.data for section in self.sections if section.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Addon:
    """A PE addon (``*.addon.efi``).

    Attributes:
        image: Authenticode digests of the file.
        is_uki: it holds a kernel, so the stub passes over it.
        command_line, uname: content of these sections, None where there is none.
        devicetree, initrd, microcode: these sections, None where there is none.
    """

    name: str
    image: Measured
    is_uki: bool = False
    command_line: bytes | None = None
    uname: bytes | None = None
    devicetree: StubSection | None = None
    initrd: StubSection | None = None
    microcode: StubSection | None = None

    def applies_to(self, uname: bytes | None) -> bool:
        """Whether the stub uses it with a UKI of that ``.uname``; loaded and measured it is in any case."""
        parts = (self.command_line, self.devicetree, self.initrd, self.microcode)
        if self.is_uki or all(part is None for part in parts):
            return False
        return self.uname is None or uname is None or _same_name(uname, self.uname)


def read_uki(data: bytes, name: str, profile: int = 0) -> MeasuredUki:
    """The UKI of that profile, every byte of it hashed.

    Raises:
        FormatError: the file or its kernel is not a PE image, or the stub is not systemd's.
        MeasureError: no such profile, no kernel, or a section whose use depends on the hardware.
    """
    image = PeImage.parse(data, name)
    found = _chosen(image, profile)
    if ".linux" not in found:
        raise MeasureError(f"{name}: there is no section .linux; the stub boots nothing without a kernel")
    sections = tuple(_read(image, found[each]) for each in SECTIONS if each in found)
    kernel = next(section.data for section in sections if section.name == ".linux")
    return MeasuredUki(
        name=name,
        stub_version=stub_version(image),
        image=authenticode(data, name),
        kernel=authenticode(kernel, f"{name} .linux"),
        sections=sections,
    )


def read_addon(data: bytes, name: str) -> Addon:
    """An addon and its sections.

    Raises:
        FormatError: it is not a PE image.
        MeasureError: it holds a section whose use depends on the hardware.
    """
    image = PeImage.parse(data, name)
    found = _present(_first(image.sections, name))

    def section(wanted: str) -> StubSection | None:
        return _read(image, found[wanted]) if wanted in found else None

    uname, command_line = section(".uname"), section(".cmdline")
    return Addon(
        name=name,
        image=authenticode(data, name),
        is_uki=".linux" in found,
        uname=uname.data if uname else None,
        command_line=command_line.data if command_line else None,
        devicetree=section(".dtb"),
        initrd=section(".initrd"),
        microcode=section(".ucode"),
    )


def authenticode(data: bytes, name: str) -> Measured:
    """An image as PCR 4 sees it.

    Raises:
        FormatError: it is not a PE image.
    """
    digests = in_every_algorithm(lambda each: image_digest(data, each.value, source=name), len(data))
    return Measured(digests, len(data))


def _chosen(image: PeImage, profile: int) -> dict[str, Section]:
    """The sections before the first ``.profile``, each replaced by that of the profile where it has one."""
    starts = [index for index, section in enumerate(image.sections) if section.name == ".profile"]
    if profile and profile >= len(starts):
        what = f"profile {profile} is asked for, the image has {len(starts)} profiles"
        raise MeasureError(f"{image.source}: {what}; boot one that is there")
    bounds = [*starts, len(image.sections)]
    found = _first(image.sections[: bounds[0]], image.source)
    if starts:
        found |= _first(image.sections[bounds[profile] : bounds[profile + 1]], image.source)
    return _present(found)


def _present(found: dict[str, Section]) -> dict[str, Section]:
    """Without empty sections, which the stub takes for missing."""
    return {name: section for name, section in found.items() if section.header.virtual_size}


def _first(sections: Iterable[Section], source: str) -> dict[str, Section]:
    """The first section of each name that the stub knows."""
    found: dict[str, Section] = {}
    for section in sections:
        if section.name == ".dtbauto":
            what = "section .dtbauto is used or not by the hardware the stub runs on, which is not modelled"
            raise MeasureError(f"{source}: {what}; use .dtb or none")
        if section.name in SECTIONS:
            found.setdefault(section.name, section)
    return found


def _read(image: PeImage, section: Section) -> StubSection:
    data = _bytes(image, section)
    return StubSection(section.name, data, measured(data))


def _bytes(image: PeImage, section: Section) -> bytes:
    # Names repeat in images with profiles, so the one section is looked up alone.
    return replace(image, sections=(section,)).section_data(section.name)


def _same_name(wanted: bytes, given: bytes) -> bool:
    """Compares as the stub does: up to the length of ``given``, both ending at a NUL."""
    name = wanted.partition(b"\0")[0]
    if b"\0" in given:
        return name == given.partition(b"\0")[0]
    return name[: len(given)] == given
