"""Rules of the PCR replay, each with a way to break it and the test that then fails.

A rule that could be broken without a failing test would be a rule that nobody checks. Every entry replaces
one attribute of one module; ``killed_by`` is the check behind a test of tests/vectors/test_pcr.py, or a unit
test where no recorded boot can tell: the records hold digests of images, not the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any
from uuid import UUID

from recipes.formats import authenticode, gpt
from recipes.formats.efi import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, variable_data
from recipes.formats.eventlog import EventType
from recipes.formats.pe import PeImage
from recipes.measure import (
    commandline,
    firmware,
    kernel,
    secureboot,
    sidecar,
    stub,
    tpm,
    uefi,
    ukifile,
    userspace,
)
from recipes.measure.trace import Measured, Step, measured
from recipes.measure.ukifile import MeasuredUki
from tests.unit import (
    test_formats_authenticode,
    test_formats_gpt,
    test_measure_commandline,
    test_measure_secureboot,
    test_measure_stub,
    test_measure_uefi,
    test_measure_ukifile,
)
from tests.vectors.test_pcr import (
    check_boot_variables,
    check_combined_initrd_size,
    check_events,
    check_pcrs,
    check_phases,
    check_replay,
)

BASE = "q35-512m-1cpu"
ADDONS = "q35-512m-1cpu-addons"
SECURE_BOOT = "q35-512m-1cpu-secureboot"


@dataclass(frozen=True)
class Mutation:
    """One broken rule.

    Attributes:
        rule: what is broken, in words.
        change: makes the replacement from the original.
        killed_by: raises AssertionError while the rule is broken.
    """

    rule: str
    module: ModuleType
    attribute: str
    change: Callable[[Any], Any]
    killed_by: Callable[[], None]


def _always(value: Any) -> Callable[[Any], Any]:
    """Replaces a function by one that gives ``value`` whatever it is asked."""
    return lambda _original: lambda *_args, **_kwargs: value


def _value(value: Any) -> Callable[[Any], Any]:
    """Replaces a value."""
    return lambda _original: value


def _result(edit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Lets a function work and edits what it returns."""
    return lambda original: lambda *args, **kwargs: edit(original(*args, **kwargs))


def _policy_without_empty(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(
        step for step in steps if step.size != len(variable_data(step.description, EFI_GLOBAL_VARIABLE, b""))
    )


def _zero_for_absent(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda variables, secure_boot, source: original(variables, bool(secure_boot), source)


def _boot_variables_with_header(_original: Any) -> Callable[..., Any]:
    def steps(variables: Sequence[tuple[str, bytes]], source: str) -> tuple[Step, ...]:
        return tuple(
            tpm.event(
                1,
                EventType.EV_EFI_VARIABLE_BOOT,
                measured(variable_data(name, EFI_GLOBAL_VARIABLE, data)),
                source=source,
            )
            for name, data in variables
        )

    return steps


def _authority_without_variable(_original: Any) -> Callable[..., Step]:
    def step(signature_data: bytes, source: str, _description: str) -> Step:
        return tpm.event(7, EventType.EV_EFI_VARIABLE_AUTHORITY, measured(signature_data), source=source)

    return step


def _names_without_nul(original: Callable[[MeasuredUki], Iterator[Step]]) -> Callable[..., list[Step]]:
    def steps(uki: MeasuredUki) -> list[Step]:
        return [
            replace(step, digests=measured(step.description.split()[0].encode()).digests)
            if step.description.endswith(" name")
            else step
            for step in original(uki)
        ]

    return steps


def _alphabetical(original: Callable[[MeasuredUki], Iterator[Step]]) -> Callable[..., list[Step]]:
    def steps(uki: MeasuredUki) -> list[Step]:
        return list(original(replace(uki, sections=tuple(sorted(uki.sections, key=lambda each: each.name)))))

    return steps


def _inner_kernel(secure_boot: bool) -> Callable[[Any], Any]:
    return lambda original: lambda uki, **_kwargs: original(uki, secure_boot=secure_boot)


def _unpadded(_original: Any) -> Callable[[Iterator[bytes]], Measured]:
    return lambda parts: measured(*parts)


def _swapped_extend(_original: Any) -> Callable[..., bytes]:
    return lambda value, digest, algorithm, _where: algorithm.digest(digest, value)


def _numbered_from_zero(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda entry, number: original(entry, number - 1)


def _without_end(text: bytes) -> bytes:
    return text[:-2]


def _crtm_without_terminator(original: Callable[[str], bytes]) -> Callable[[str], bytes]:
    return lambda text: original(text.rstrip("\0"))


def _rule(name: str, **changes: Any) -> Callable[[Any], Any]:
    return lambda _original: replace(getattr(sidecar, name), **changes)


def _phase_with_nul(original: Callable[[str], Step]) -> Callable[[str], Step]:
    return lambda phase: original(phase + "\0")


def _used_entries_first(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda entries, source: original(entries, source)[:1]


def _every_entry(_original: Any) -> Callable[..., Any]:
    def used(entries: bytes, source: str) -> list[tuple[int, gpt.GptEntry]]:
        numbers = range(gpt.ENTRY_COUNT)
        return [(at + 1, gpt.GptEntry.unpack(entries, at * gpt.ENTRY_SIZE, source=source)) for at in numbers]

    return used


def _hashed_whole(start: Callable[[PeImage], int], length: int) -> Callable[[Any], Any]:
    """Hashes a field of the headers that does not count."""

    def change(original: Callable[[PeImage], Iterator[memoryview]]) -> Callable[..., list[memoryview]]:
        def parts(image: PeImage) -> list[memoryview]:
            at = start(image)
            return [*original(image), image.data[at : at + length]]

        return parts

    return change


def _raw_size(_original: Any) -> Callable[..., bytes]:
    def data(image: PeImage, section: Any) -> bytes:
        return bytes(image.data[section.raw_range.start : section.raw_range.stop])

    return data


def _passed_under_secure_boot(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: original(*args, **{**kwargs, "secure_boot": False})


def _authority_each_time(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda variables, images, source: tuple(
        original(variables, [image], source)[0] for image in images
    )


def _dbt_always(original: Callable[..., Any]) -> Callable[..., Any]:
    def steps(variables: Sequence[Any], flag: bool | None, source: str) -> tuple[Step, ...]:
        *found, separator = original(variables, flag, source)
        dbt = measured(variable_data("dbt", EFI_IMAGE_SECURITY_DATABASE, b""))
        return (*found, tpm.event(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, dbt, source=source), separator)

    return steps


def _dbt_never(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda variables, flag, source: original(
        [item for item in variables if item.name != "dbt"], flag, source
    )


events, pcrs = partial(partial, check_events), partial(partial, check_pcrs)

MUTATIONS = (
    Mutation("PEIFV as it is in the file", firmware, "apply", lambda _: lambda data, *_a: data, events(BASE)),
    Mutation("PEIFV words of any chipset", firmware, "_covers", _always(True), events("pc-512m-1cpu")),
    Mutation("CRTM version without NUL", uefi, "encode_utf16", _crtm_without_terminator, events(BASE)),
    Mutation("DXEFV left out", uefi, "firmware_steps", _result(lambda steps: steps[:-1]), pcrs(BASE)),
    Mutation("SecureBoot 00 if absent", uefi, "secure_boot_policy_steps", _zero_for_absent, events(BASE)),
    Mutation(
        "empty variables skipped",
        uefi,
        "secure_boot_policy_steps",
        _result(_policy_without_empty),
        events(BASE),
    ),
    Mutation(
        "db after dbx",
        uefi,
        "SECURE_BOOT_VARIABLES",
        lambda names: (*names[:3], names[4], names[3]),
        pcrs(SECURE_BOOT),
    ),
    Mutation(
        "no separator in PCR 7",
        uefi,
        "secure_boot_policy_steps",
        _result(lambda steps: steps[:-1]),
        pcrs(SECURE_BOOT),
    ),
    Mutation("no separators", uefi, "ready_to_boot_steps", _result(lambda steps: steps[:1]), events(BASE)),
    Mutation(
        "separator before the boot action",
        uefi,
        "ready_to_boot_steps",
        _result(lambda steps: steps[::-1]),
        pcrs(BASE),
    ),
    Mutation(
        "etc/tpm/log left out",
        uefi,
        "acpi_steps",
        _result(lambda steps: (*steps[:2], steps[3])),
        events(BASE),
    ),
    Mutation(
        "ACPI blobs in another order", uefi, "acpi_steps", _result(lambda steps: steps[::-1]), pcrs(BASE)
    ),
    Mutation(
        "boot variables with header", uefi, "boot_variable_steps", _boot_variables_with_header, events(BASE)
    ),
    Mutation(
        "boot index ignored", firmware, "boots_by_index", _always(False), partial(check_boot_variables, BASE)
    ),
    Mutation(
        "disk first without boot index",
        firmware,
        "boots_by_index",
        _always(True),
        partial(check_boot_variables, "q35-512m-1cpu-nobootindex"),
    ),
    Mutation(
        "same disk slot on pc",
        firmware,
        "FIRST_DISK_SLOT",
        _value({"q35": 1, "pc": 1}),
        partial(check_boot_variables, "pc-512m-1cpu"),
    ),
    Mutation(
        "another mark on found options",
        firmware,
        "BM_AUTO_CREATE_BOOT_OPTION",
        _value(UUID(int=0)),
        partial(check_boot_variables, BASE),
    ),
    Mutation(
        "authority as bare entry", uefi, "authority_step", _authority_without_variable, events(SECURE_BOOT)
    ),
    Mutation(
        "one ExitBootServices action",
        uefi,
        "exit_boot_services_steps",
        _result(lambda steps: steps[:1]),
        pcrs(BASE),
    ),
    Mutation("section names without NUL", stub, "section_steps", _names_without_nul, events(BASE)),
    Mutation("sections in another order", stub, "section_steps", _alphabetical, pcrs(BASE)),
    Mutation(".pcrsig measured", stub, "UNMEASURED", _value(""), events(ADDONS)),
    Mutation("kernel under Secure Boot", stub, "inner_kernel_steps", _inner_kernel(False), pcrs(SECURE_BOOT)),
    Mutation("kernel never measured", stub, "inner_kernel_steps", _inner_kernel(True), pcrs(BASE)),
    Mutation("addons not in PCR 4", stub, "addon_image_steps", _always(()), pcrs(ADDONS)),
    Mutation("addons joined without space", commandline, "join_addons", lambda _: "".join, pcrs(ADDONS)),
    Mutation("SMBIOS not looked at", commandline, "smbios_extra", _always(""), pcrs(ADDONS)),
    Mutation("PCR 12 strings without NUL", stub, "encode", _result(_without_end), pcrs(ADDONS)),
    Mutation("PCR 9 command line without NUL", kernel, "encode", _result(_without_end), pcrs(BASE)),
    Mutation(
        "sysext in PCR 12", sidecar, "_SYSTEM_EXTENSIONS", _rule("_SYSTEM_EXTENSIONS", pcr=12), pcrs(ADDONS)
    ),
    Mutation(
        "confext also a sysext",
        sidecar,
        "_SYSTEM_EXTENSIONS",
        _rule("_SYSTEM_EXTENSIONS", excluded=None),
        pcrs(ADDONS),
    ),
    Mutation(
        "credentials open to all",
        sidecar,
        "_CREDENTIALS",
        _rule("_CREDENTIALS", directory_mode=0o555),
        pcrs(ADDONS),
    ),
    Mutation("archive members from 0", sidecar, "_numbered", _numbered_from_zero, pcrs(ADDONS)),
    Mutation(
        "generated archives forgotten in PCR 9",
        sidecar,
        "embedded_archives",
        _always(()),
        partial(check_combined_initrd_size, ADDONS),
    ),
    Mutation(
        "initrd parts not padded", stub, "combine", _unpadded, partial(check_combined_initrd_size, BASE)
    ),
    Mutation("phases with NUL", userspace, "phase_step", _phase_with_nul, check_phases),
    Mutation("digest before old value", tpm, "_extended", _swapped_extend, partial(check_replay, BASE)),
    Mutation(
        "first GPT entry alone",
        gpt,
        "_used",
        _used_entries_first,
        partial(test_formats_gpt.test_event_data_is_what_firmware_logged, BASE),
    ),
    Mutation(
        "unused GPT entries measured",
        gpt,
        "_used",
        _every_entry,
        partial(test_formats_gpt.test_event_data_is_what_firmware_logged, BASE),
    ),
    Mutation(
        "PE checksum hashed",
        authenticode,
        "_hashed",
        _hashed_whole(lambda image: image.checksum_offset, 4),
        test_formats_authenticode.test_checksum_and_certificates_do_not_count,
    ),
    Mutation(
        "PE certificate entry hashed",
        authenticode,
        "_hashed",
        _hashed_whole(lambda image: image.certificate_directory_offset or 0, 8),
        test_formats_authenticode.test_checksum_and_certificates_do_not_count,
    ),
    Mutation(
        "sections by raw size",
        ukifile,
        "_bytes",
        _raw_size,
        test_measure_ukifile.test_only_virtual_size_bytes_count,
    ),
    Mutation(
        "load options taken under Secure Boot",
        commandline,
        "settle",
        _passed_under_secure_boot,
        partial(test_measure_stub.test_load_options, secure_boot=True, passed=[], final="quiet"),
    ),
    Mutation(
        "authority at every use",
        secureboot,
        "authority_steps",
        _authority_each_time,
        test_measure_secureboot.test_each_entry_is_measured_once_where_it_is_first_used,
    ),
    Mutation(
        "addons in another order",
        stub,
        "addon_files",
        _result(lambda files: files[::-1]),
        test_measure_stub.test_everything_beside_a_uki,
    ),
    Mutation(
        "first SMBIOS string whatever its name",
        commandline,
        "smbios_extra",
        lambda _: lambda strings: strings[0].partition("=")[2],
        test_measure_commandline.test_first_smbios_string_counts,
    ),
    Mutation(
        "empty dbt measured",
        uefi,
        "secure_boot_policy_steps",
        _dbt_always,
        test_measure_uefi.test_every_secure_boot_variable_is_measured_present_or_not,
    ),
    Mutation(
        "dbt not measured",
        uefi,
        "secure_boot_policy_steps",
        _dbt_never,
        test_measure_uefi.test_dbt_is_measured_only_where_it_is_there,
    ),
    Mutation("all PCRs start at zero", tpm, "DYNAMIC_PCRS", _value(range(0)), partial(check_replay, BASE)),
)
