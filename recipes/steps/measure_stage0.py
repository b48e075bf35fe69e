"""``goldsmith measure --stage0``: a QEMU command line with stage0, replayed from the files it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..document import MAX_DOCUMENT
from ..errors import FormatError, MeasureError
from ..machine.stage0 import Stage0Generation
from ..measure.stage0 import AcpiTables, Stage0Kernel, Stage0Launch, Stage0Prediction, replay
from ..record import dataclass
from ..units import KIB
from ..vmm.stage0_captures import Stage0Capture, find, load_captures
from ..vmm.stage0_parse import ParsedStage0, Stage0Host, parse
from .blobs import FileBlob
from .measure_sev import hashed_file, read_firmware

# Ours: as large as the replay of a launch needs, and no faster with more.
_WINDOW = 256 * KIB


@dataclass(frozen=True, kw_only=True)
class OpenedStage0:
    """A launch with the files it names.

    Attributes:
        capture: whose ACPI tables it has; None where no captures were given.
        ignored: options that nothing measured depends on.
        notes: what was assumed, for people.
    """

    launch: Stage0Launch
    capture: Stage0Capture | None
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    def replay(self) -> Stage0Prediction:
        """What stage0 measures.

        Raises:
            FormatError: kernel, firmware or ACPI files are damaged.
            MeasureError: QEMU or stage0 would not get through, or something is not modelled.
        """
        return replay(self.launch)


def open_stage0(
    argv: Sequence[str],
    *,
    generation: Stage0Generation,
    host: Stage0Host | None = None,
    acpi: Path | None = None,
    qemu_version: str | None = None,
    name: str = "command line",
) -> OpenedStage0:
    """The launch of a QEMU command line.

    Args:
        acpi: captured ACPI tables; without any, the launch has none.
        qemu_version: that runs the machine; needed with captures, which hold for one version each.

    Raises:
        ImageError: the command line is not modelled, a file it names cannot be read, or there is no capture
            of such a machine.
    """
    parsed = parse(argv, generation=generation, name=name, host=host)
    firmware, kernel = (
        _need(parsed.files.firmware, "-bios", "give the file of stage0"),
        _need(parsed.files.kernel, "-kernel", "stage0 boots a kernel that QEMU hands it; give a bzImage"),
    )
    capture = None
    if acpi is not None:
        capture = _capture(acpi, parsed, qemu_version)
    elif qemu_version is not None:
        raise MeasureError(f"--qemu-version {qemu_version}: picks a capture; give captures by --acpi FILE")
    launch = Stage0Launch(
        machine=parsed.machine,
        firmware=read_firmware(firmware),
        kernel=read_kernel(kernel),
        initrd=hashed_file(parsed.files.initrd),
        acpi=None if capture is None else acpi_tables(capture),
    )
    return OpenedStage0(launch=launch, capture=capture, ignored=parsed.ignored, notes=_notes(parsed, capture))


def _capture(path: Path, parsed: ParsedStage0, version: str | None) -> Stage0Capture:
    """The capture of the machine by the QEMU that is said to run it: nothing is started here to ask it."""
    captures = read_captures(path)
    if version is None:
        there = ", ".join(sorted({capture.qemu_version for capture in captures})) or "none"
        what = f"tables are another QEMU's, so say which runs the machine: {parsed.binary} --version"
        raise MeasureError(f"--acpi {path}: {what}, then --qemu-version VERSION; captured of: {there}")
    return find(captures, parsed.machine, qemu_version=version)


def read_captures(path: Path) -> tuple[Stage0Capture, ...]:
    """The captures in a file.

    Raises:
        FormatError: it is no file of captures.
    """
    blob = FileBlob.of(path)
    if blob.size > MAX_DOCUMENT:
        raise FormatError(str(path), f"larger than {MAX_DOCUMENT} bytes; give a file of captures")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(str(path), "no UTF-8 text; give a file of captures", offset=error.start) from None
    return load_captures(text, path.name)


def acpi_tables(capture: Stage0Capture) -> AcpiTables:
    """The files of a capture, as the replay takes them."""
    return AcpiTables(
        table_loader=capture.table_loader, rsdp=capture.rsdp, tables=capture.tables, further=capture.further
    )


def read_kernel(path: Path) -> Stage0Kernel:
    """A kernel file, read in pieces.

    Raises:
        FormatError: no bzImage, one that is too old, or damaged.
    """
    blob = FileBlob.of(path)
    return Stage0Kernel.of(blob.name, blob.windows(_WINDOW))


def _need(text: str | None, option: str, advice: str) -> Path:
    if text is None:
        raise MeasureError(f"{option}: missing; {advice}")
    return Path(text)


def _notes(parsed: ParsedStage0, capture: Stage0Capture | None) -> tuple[str, ...]:
    if capture is None:
        return parsed.notes
    of = f"ACPI tables of {capture}" + (f" ({capture.package})" if capture.package else "")
    return (*parsed.notes, of, *(f"when they were captured, {text}" for text in capture.stand_ins))
