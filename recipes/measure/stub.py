"""What systemd-stub extends: the UKI's sections, and everything that comes from beside the UKI.

    4   each addon it loads, then the kernel inside (by firmware's LoadImage)
    9   by the kernel: final command line, combined initrd
    11  every section of the UKI: name, then content
    12  what an administrator or host adds: command lines, addons, credentials, configuration extensions
    13  system extensions

A plain boot leaves 12 and 13 at zero. The order is that of a real log.

Spec: systemd 257 src/boot/stub.c, run() from top to bottom. Not modelled: boot through shim or systemd-boot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..formats.eventlog import EventType
from . import commandline, sidecar, tpm, uefi
from .commandline import DEFAULT_OPTIONS, CommandLine, LoadOptions, encode
from .kernel import kernel_steps
from .sidecar import Archive, SideFile
from .trace import Measured, Step, measured
from .ukifile import UNMEASURED, Addon, MeasuredUki, StubSection, read_addon, read_uki

_STUB = "systemd 257 src/boot/stub.c"
# Stub versions whose rules are known, and whether they load the kernel by LoadImage while Secure Boot is off,
# which makes firmware measure it. Spec: systemd 257 src/boot/linux.c; 258 starts the kernel itself (read)
# and measures more besides, so it is not in the table.
INNER_KERNEL_MEASURED = {257: True}
# Tags of the events whose content is not a string. Spec: systemd 257 src/boot/measure.h, src/boot/stub.c.
PROFILE_TAG = 0x13AED6DB
DEVICETREE_ADDON_TAG = 0x6C46F751
INITRD_ADDON_TAG = 0x49DFFE0F
MICROCODE_ADDON_TAG = 0xDAC08E1A
_ADDON_SUFFIX = ".addon.efi"


@dataclass(frozen=True, kw_only=True)
class StubInputs:
    r"""A UKI and what lies beside it on its file system.

    Attributes:
        name: of the UKI, for the steps' sources.
        uki: the whole file.
        extra: files of ``<uki>.extra.d``.
        global_addons: files of ``\loader\addons``.
        global_credentials: files of ``\loader\credentials``.
        load_options: what the boot option passes; firmware's own options pass nothing.
    """

    name: str
    uki: bytes
    extra: tuple[SideFile, ...] = ()
    global_addons: tuple[SideFile, ...] = ()
    global_credentials: tuple[SideFile, ...] = ()
    load_options: str = ""


@dataclass(frozen=True, kw_only=True)
class PreparedStub:
    """All that the stub does alike on every machine, hashed.

    Attributes:
        addons: in the order they are loaded.
        archives: of credentials and extensions.
        initrd: the combined one; None where there is none.
        load_options: what is left of them for the command line, and the profile.
    """

    uki: MeasuredUki
    addons: tuple[Addon, ...] = ()
    archives: tuple[Archive, ...] = ()
    initrd: Measured | None
    load_options: LoadOptions = DEFAULT_OPTIONS

    @property
    def used_addons(self) -> tuple[Addon, ...]:
        """The addons whose content is used; the others are loaded and passed over."""
        return used_addons(self.uki, self.addons)


def used_addons(uki: MeasuredUki, addons: Sequence[Addon]) -> tuple[Addon, ...]:
    """The addons that fit the UKI and have content, in load order."""
    uname = uki.data(".uname")
    return tuple(addon for addon in addons if addon.applies_to(uname))


def addon_files(inputs: StubInputs) -> tuple[SideFile, ...]:
    """The addons in load order: the global ones, then those of this UKI, each folder sorted by name."""
    return (
        *sidecar.select(inputs.global_addons, _ADDON_SUFFIX),
        *sidecar.select(inputs.extra, _ADDON_SUFFIX),
    )


def prepare(inputs: StubInputs) -> PreparedStub:
    """Reads and hashes everything; the costly part of a prediction, done once for all machines.

    Raises:
        FormatError: the UKI or an addon does not parse.
        MeasureError: something in them is not modelled.
    """
    options = commandline.parse_load_options(inputs.load_options)
    uki = read_uki(inputs.uki, inputs.name, options.profile)
    check_version(uki)
    addons = tuple(read_addon(file.data, file.name) for file in addon_files(inputs))
    archives = sidecar.archives(inputs.extra, inputs.global_credentials)
    return PreparedStub(
        uki=uki,
        addons=addons,
        archives=archives,
        initrd=combine(initrd_parts(uki, addons, archives)),
        load_options=options,
    )


def check_version(uki: MeasuredUki) -> int:
    """Major version of the stub.

    Raises:
        MeasureError: its rules are not known.
    """
    match = re.match(r"[0-9]{1,6}", uki.stub_version)
    major = int(match[0]) if match else 0
    if major not in INNER_KERNEL_MEASURED:
        known = ", ".join(map(str, sorted(INNER_KERNEL_MEASURED)))
        what = f"the stub is systemd-stub {uki.stub_version}, and only the rules of {known} are known"
        raise MeasureError(f"{uki.name}: {what}; build the UKI with such a stub")
    return major


def initrd_parts(uki: MeasuredUki, addons: Sequence[Addon], archives: Sequence[Archive]) -> Iterator[bytes]:
    """What the kernel's initrd is made of, in order; later parts overwrite files of earlier ones.

    Microcode comes first and in reverse, because the kernel takes the first that it finds.
    """
    used = used_addons(uki, addons)
    yield from (addon.microcode.data for addon in reversed(used) if addon.microcode)
    yield from (data for data in (uki.data(".ucode"), uki.data(".initrd")) if data)
    yield from (archive.data for archive in archives)
    yield from sidecar.embedded_archives((section.name, section.data) for section in uki.sections)
    yield from (addon.initrd.data for addon in used if addon.initrd)


def combine(parts: Iterator[bytes]) -> Measured | None:
    """The parts one after the other, each padded with zeros to 4 bytes; a single one stays as it is.

    Spec: systemd 257 src/boot/stub.c run(), src/boot/initrd.c combine_initrds.
    """
    found = list(parts)
    if len(found) < 2:
        return measured(*found) if found else None
    return measured(*(piece for part in found for piece in (part, bytes(-len(part) % 4))))


def stub_steps(
    stub: PreparedStub,
    *,
    smbios_strings: Sequence[str] = (),
    secure_boot: bool = False,
    confidential_vm: bool = False,
    addon_authorities: Sequence[tuple[Step, ...]] = (),
) -> tuple[Step, ...]:
    """Every step from the stub's first to the kernel's last, in log order.

    Args:
        stub: from ``prepare``.
        smbios_strings: SMBIOS type 11 strings of the machine.
        secure_boot: it is enforced.
        confidential_vm: the stub recognises a confidential machine.
        addon_authorities: for each addon, the steps of firmware that verified it.

    Raises:
        MeasureError: a command line is not text as the stub reads it.
    """
    line = settle_command_line(stub, smbios_strings, secure_boot=secure_boot, confidential_vm=confidential_vm)
    return (
        *profile_steps(stub.load_options.profile, stub.uki.name),
        *section_steps(stub.uki),
        *_string_steps(line.passed, "load options"),
        *addon_image_steps(stub.addons, addon_authorities),
        *_string_steps(line.addons, "addons .cmdline"),
        *_string_steps(line.smbios, "SMBIOS type 11"),
        *_tagged(stub.used_addons, lambda addon: addon.devicetree, DEVICETREE_ADDON_TAG),
        *archive_steps(stub.archives, stub.uki.name),
        *_tagged(stub.used_addons[::-1], lambda addon: addon.microcode, MICROCODE_ADDON_TAG),
        *_tagged(stub.used_addons, lambda addon: addon.initrd, INITRD_ADDON_TAG),
        *inner_kernel_steps(stub.uki, secure_boot=secure_boot),
        *kernel_steps(line.final, stub.initrd, stub.uki.name),
    )


def settle_command_line(
    stub: PreparedStub, smbios_strings: Sequence[str], *, secure_boot: bool, confidential_vm: bool
) -> CommandLine:
    """The command line of this boot and its parts.

    Raises:
        MeasureError: a section is not text as the stub reads it.
    """
    embedded = stub.uki.data(".cmdline")
    return commandline.settle(
        None if embedded is None else commandline.decode(embedded, f"{stub.uki.name} .cmdline"),
        stub.load_options.command_line,
        [
            commandline.decode(addon.command_line, f"{addon.name} .cmdline")
            for addon in stub.used_addons
            if addon.command_line is not None
        ],
        smbios_strings,
        secure_boot=secure_boot,
        confidential_vm=confidential_vm,
    )


def profile_steps(profile: int, source: str) -> tuple[Step, ...]:
    """PCR 12: the number of the profile, unless it is the default one."""
    if not profile:
        return ()
    content = measured(encode(str(profile)))
    return (_tag(content, f"{source} profile", f"profile {profile}", PROFILE_TAG),)


def section_steps(uki: MeasuredUki) -> Iterator[Step]:
    """PCR 11: for each section its name with a NUL, then its content."""
    for section in uki.sections:
        if section.name == UNMEASURED:
            continue
        name = measured(section.name.encode("ascii") + b"\0")
        for content, what in ((name, "name"), (section.content, "content")):
            yield tpm.event(
                11,
                EventType.EV_IPL,
                content,
                source=f"{uki.name} {section.name}",
                description=f"{section.name} {what}",
                spec=f"{_STUB} measure_sections",
            )


def addon_image_steps(addons: Sequence[Addon], authorities: Sequence[tuple[Step, ...]]) -> Iterator[Step]:
    """PCR 4: every addon, used or not, because LoadImage measures it; first the steps that verified it."""
    verified = [*authorities, *[()] * (len(addons) - len(authorities))]
    for addon, steps in zip(addons, verified, strict=True):
        yield from steps
        yield uefi.image_step(addon.image, addon.name)


def inner_kernel_steps(uki: MeasuredUki, *, secure_boot: bool) -> tuple[Step, ...]:
    """PCR 4: the kernel, unless Secure Boot is on: the stub then takes over firmware's checks and measuring.

    Raises:
        MeasureError: the stub's rules are not known.
    """
    if secure_boot or not INNER_KERNEL_MEASURED[check_version(uki)]:
        return ()
    return (uefi.image_step(uki.kernel, f"{uki.name} .linux", "kernel"),)


def archive_steps(archives: Sequence[Archive], source: str) -> Iterator[Step]:
    """PCR 12 and 13: the archives of credentials and extensions."""
    for archive in archives:
        yield tpm.event(
            archive.pcr,
            EventType.EV_IPL,
            archive.content,
            source=f"{source} {archive.description}",
            description=archive.description,
            spec=f"{_STUB} generate_sidecar_initrds",
        )


def _string_steps(text: str | None, source: str) -> tuple[Step, ...]:
    """PCR 12: a part of the command line, as UTF-16 with its terminator."""
    if text is None:
        return ()
    step = tpm.event(
        12,
        EventType.EV_IPL,
        measured(encode(text)),
        source=source,
        description=text,
        spec="systemd 257 src/boot/measure.c tpm_log_load_options",
    )
    return (step,)


def _tagged(addons: Sequence[Addon], part: Callable[[Addon], StubSection | None], tag: int) -> Iterator[Step]:
    """PCR 12: one section of each addon that has it."""
    for addon in addons:
        section = part(addon)
        if section is not None:
            yield _tag(section.content, f"{addon.name} {section.name}", addon.name, tag)


def _tag(content: Measured, source: str, description: str, tag: int) -> Step:
    return tpm.event(
        12,
        EventType.EV_EVENT_TAG,
        content,
        source=source,
        description=f"{description} (tag {tag:#010x})",
        spec="systemd 257 src/boot/measure.c tpm_log_tagged_event",
    )
