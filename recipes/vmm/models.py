"""Known firmware builds: what their bytes do not say, learnt once and kept in ``firmware.json``.

A build is known by the SHA-256 of its code flash. An unknown build has no facts, and registers that need them
cannot be predicted.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..document import Fields, read_document
from ..errors import FormatError
from ..machine import QemuMachine
from .aperture import AddressLayout
from .words import read_words

SCHEMA = 1
LABELS = frozenset(["booted", "oracle", "learnt", "spec-only"])
"""How the replay of a register was established, strongest first."""

CHIPSETS = frozenset(["q35", "pc"])
DATA = Path(__file__).with_name("firmware.json")

Words = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class FirmwareOption:
    """A boot option that the firmware makes in an empty variable store.

    Attributes:
        attributes: ``LoadOptionAttributes``.
        volume: the firmware volume of the application it starts; None for the option of the boot disk.
        file: the application in that volume; None for the option of the boot disk.
    """

    description: str
    attributes: int
    volume: uuid.UUID | None = None
    file: uuid.UUID | None = None


@dataclass(frozen=True, kw_only=True)
class WordSet:
    """Words that PEI modules write into their volume, and the machines they are known for.

    Attributes:
        memory: bytes of RAM; None where the words do not depend on it, and likewise below.
        vcpus: number of processors.
        cpu: value of ``-cpu``.
        words: offset in the volume and the four bytes that stand there when it is measured.
    """

    chipset: str
    memory: int | None
    vcpus: int | None
    cpu: str | None
    words: Words

    def covers(self, machine: QemuMachine) -> bool:
        """Whether the words are known for ``machine``."""
        return (
            self.chipset == machine.chipset
            and self.memory in {None, machine.memory}
            and self.vcpus in {None, machine.vcpus}
            and self.cpu in {None, machine.cpu}
        )


@dataclass(frozen=True, kw_only=True)
class FirmwareFacts:
    """A firmware build.

    Attributes:
        package: Debian package and version, ``ovmf 2025.02-8+deb13u1``.
        file: name of the code flash.
        code_sha256: of the code flash.
        crtm_version: PcdFirmwareVersionString.
        secure_boot_variable: built with Secure Boot, so the variable ``SecureBoot`` exists.
        measures_acpi: the ACPI blobs are measured into PCR 1.
        measures_smbios: the SMBIOS tables are measured into PCR 1.
        smm: built with SMM; needs ``smm=on`` and a secure flash.
        layout: where it places things in the address space.
        boot_options: in the order they are made, which is that of their numbers.
        words: known word sets.
        established: place (VMM, version, accelerator, machine type: ``qemu 7.2 tcg pc-q35-7.2``), register
            and label. ``booted``: a test of the repository repeats the boot; ``oracle``: it is recorded.
    """

    package: str
    file: str
    code_sha256: bytes
    crtm_version: str
    secure_boot_variable: bool
    measures_acpi: bool
    measures_smbios: bool
    smm: bool
    layout: AddressLayout
    boot_options: tuple[FirmwareOption, ...]
    words: tuple[WordSet, ...]
    established: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        """Package, version and file, for people."""
        return f"{self.package} {self.file}"

    def words_for(self, machine: QemuMachine) -> Words | None:
        """The words PEI modules write on ``machine``; None where they are not known and must be learnt."""
        return next((words.words for words in self.words if words.covers(machine)), None)


def known_firmware() -> tuple[FirmwareFacts, ...]:
    """The builds of ``firmware.json``.

    Raises:
        FormatError: the file is malformed.
    """
    return load_firmware(DATA.read_text(encoding="utf-8"), DATA.name)


def find_firmware(facts: Iterable[FirmwareFacts], code_sha256: bytes) -> FirmwareFacts | None:
    """The facts of the build with this code flash, or None."""
    return next((known for known in facts if known.code_sha256 == code_sha256), None)


def load_firmware(text: str, source: str) -> tuple[FirmwareFacts, ...]:
    """The builds described in JSON text.

    Raises:
        FormatError: a field is missing, unknown or of another type, or a build is there twice.
    """
    document = read_document(text, source, SCHEMA)
    facts = tuple(_facts(fields) for fields in document.objects("firmware"))
    document.finish()
    if len({build.code_sha256 for build in facts}) != len(facts):
        raise FormatError(source, "two builds have the same code_sha256; keep one")
    return facts


def _facts(fields: Fields) -> FirmwareFacts:
    layout = fields.fields("layout")
    facts = FirmwareFacts(
        package=fields.text("package"),
        file=fields.text("file"),
        code_sha256=fields.hexadecimal("code_sha256", 32),
        crtm_version=fields.text("crtm_version"),
        secure_boot_variable=_choice(fields, "secure_boot_variable", ("absent", "present")) == "present",
        measures_acpi=fields.flag("measures_acpi"),
        measures_smbios=fields.flag("measures_smbios"),
        smm=fields.flag("smm"),
        layout=AddressLayout(
            pciexbar=int.from_bytes(layout.hexadecimal("pciexbar", 8), "big"),
            avoids_reservations=layout.flag("avoids_reservations"),
        ),
        boot_options=tuple(_option(option) for option in fields.objects("boot_options")),
        words=tuple(_words(words) for words in fields.objects("patches")),
        established=_established(fields.fields("established")),
    )
    layout.finish()
    fields.finish()
    return facts


def _option(fields: Fields) -> FirmwareOption:
    application = None if fields.is_null("application") else fields.fields("application")
    option = FirmwareOption(
        description=fields.text("description"),
        attributes=fields.number("attributes"),
        volume=_guid(application, "volume") if application else None,
        file=_guid(application, "file") if application else None,
    )
    if application:
        application.finish()
    fields.finish()
    return option


def _words(fields: Fields) -> WordSet:
    words = WordSet(
        chipset=_choice(fields, "chipset", sorted(CHIPSETS)),
        memory=None if fields.is_null("memory") else fields.number("memory"),
        vcpus=None if fields.is_null("vcpus") else fields.number("vcpus"),
        cpu=None if fields.is_null("cpu") else fields.text("cpu"),
        words=read_words(fields, "words"),
    )
    fields.finish()
    return words


def _established(fields: Fields) -> tuple[tuple[str, str, str], ...]:
    found: list[tuple[str, str, str]] = []
    for place in sorted(fields.values):
        registers = fields.fields(place)
        found += (
            (place, register, _choice(registers, register, sorted(LABELS)))
            for register in sorted(registers.values)
        )
    return tuple(found)


def _guid(fields: Fields, key: str) -> uuid.UUID:
    text = fields.text(key)
    try:
        value = uuid.UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text:
        raise FormatError(fields.source, f"{key!r} is no GUID in lower case with hyphens: {text!r}")
    return value


def _choice(fields: Fields, key: str, choices: Iterable[str]) -> str:
    value = fields.text(key)
    if value not in choices:
        raise FormatError(fields.source, f"{key!r} is {value!r}; use one of {', '.join(choices)}")
    return value
