"""What is known of firmware builds, from the data file to the values the replay takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..document import MAX_DOCUMENT
from ..errors import FormatError
from ..machine import QemuMachine
from ..measure.firmware import BootOption, FirmwareFile, FirmwareModel, Patch
from ..measure.trace import Established
from ..vmm.captures import AcpiCapture, load_captures
from ..vmm.models import FirmwareFacts, FirmwareOption, known_firmware


def read_captures(paths: Iterable[Path]) -> list[AcpiCapture]:
    """The captures of some files.

    Raises:
        FormatError: a file is too large, is no UTF-8 text or holds no captures.
    """
    return [item for path in paths for item in load_captures(_read_text(path), path.name)]


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise FormatError(path.name, f"larger than {MAX_DOCUMENT} bytes; give a file of captures")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(path.name, "no UTF-8 text; give a file of captures", offset=error.start) from None


def load_models(captures: Iterable[tuple[QemuMachine, AcpiCapture]] = ()) -> tuple[FirmwareModel, ...]:
    """Every known firmware build.

    Args:
        captures: captured machines: some hold words that belong to no other machine.
    """
    found = tuple(captures)
    return tuple(_model(facts, found) for facts in known_firmware())


def _model(facts: FirmwareFacts, captures: tuple[tuple[QemuMachine, AcpiCapture], ...]) -> FirmwareModel:
    known = [
        Patch(chipset=item.chipset, memory=item.memory, vcpus=item.vcpus, cpu=item.cpu, words=item.words)
        for item in facts.words
    ]
    captured = [
        Patch(
            chipset=machine.chipset,
            memory=machine.memory,
            vcpus=machine.vcpus,
            cpu=machine.cpu,
            words=capture.firmware_words,
        )
        for machine, capture in captures
        if capture.code_sha256 == facts.code_sha256 and capture.firmware_words is not None
    ]
    return FirmwareModel(
        name=facts.name,
        code_sha256=facts.code_sha256,
        crtm_version=facts.crtm_version,
        secure_boot_variable=facts.secure_boot_variable,
        measures_acpi=facts.measures_acpi,
        measures_smbios=facts.measures_smbios,
        boot_options=tuple(_option(option) for option in facts.boot_options),
        patches=tuple(dict.fromkeys((*known, *captured))),
        established=tuple(
            (place, register, Established(label)) for place, register, label in facts.established
        ),
    )


def _option(option: FirmwareOption) -> BootOption:
    application = None
    if option.volume is not None and option.file is not None:
        application = FirmwareFile(option.volume, option.file)
    return BootOption(option.description, option.attributes, application)
