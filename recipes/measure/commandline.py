"""Kernel command lines as systemd-stub makes them: where their parts come from and how they are cleaned.

Spec: systemd 257 src/boot/stub.c (process_arguments, settle_command_line, cmdline_append_and_measure_addons,
cmdline_append_and_measure_smbios) and src/boot/util.c (mangle_stub_cmdline).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import MeasureError
from ..formats.efi import encode_utf16

# The SMBIOS type 11 string that the stub appends. Spec: systemd 257 src/boot/stub.c.
SMBIOS_EXTRA = "io.systemd.stub.kernel-cmdline-extra="
# Spec: systemd 257 src/boot/stub.c parse_profile_from_cmdline: a number, then one space or the end.
_PROFILE = re.compile(r"@([0-9]{1,10})(?: |\Z)")
_PROFILE_LIMIT = 1 << 32


@dataclass(frozen=True)
class LoadOptions:
    """What the firmware's boot option, or a boot loader, passes to the UKI.

    Attributes:
        profile: number of the UKI's profile; 0 is the default one.
        command_line: cleaned; empty when none is passed.
    """

    profile: int = 0
    command_line: str = ""


DEFAULT_OPTIONS = LoadOptions()


@dataclass(frozen=True)
class CommandLine:
    """The command line the kernel gets, and the parts of it that PCR 12 records, None where there is none.

    Attributes:
        final: None where there is no command line at all, which differs from an empty one.
        passed: came with the load options.
        addons: of all addons, joined.
        smbios: came from SMBIOS.
    """

    final: str | None
    passed: str | None = None
    addons: str | None = None
    smbios: str | None = None


def parse_load_options(text: str) -> LoadOptions:
    """Profile and command line of the load options ``text``, without its terminator.

    Raises:
        MeasureError: the profile number is too large for the stub.
    """
    if not text or ord(text[0]) <= 0x1F:
        return DEFAULT_OPTIONS
    match = _PROFILE.match(text)
    if match is None:
        return LoadOptions(command_line=clean(text))
    profile = int(match[1])
    if profile >= _PROFILE_LIMIT:
        raise MeasureError(f"load options {text!r}: the profile must be below {_PROFILE_LIMIT}")
    return LoadOptions(profile, clean(text[match.end() :]))


def clean(text: str) -> str:
    """``text`` without control characters and spaces around it, those inside turned into spaces."""
    return "".join(" " if _is_space(char) else char for char in text).strip(" ")


def _is_space(char: str) -> bool:
    return char <= " " or char == "\x7f"


def decode(data: bytes, source: str) -> str:
    """The text of a section that holds UTF-8, up to its first NUL.

    Raises:
        MeasureError: bytes that the stub's own conversion would drop or change.
    """
    try:
        text = data.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise MeasureError(f"{source}: byte {error.start} is not UTF-8; write the text in ASCII") from None
    if any(ord(char) > 0xFFFF for char in text):
        raise MeasureError(f"{source}: a character is beyond U+FFFF; write the text in ASCII")
    return text


def encode(text: str) -> bytes:
    """``text`` as it is measured: UTF-16LE with its terminator."""
    return encode_utf16(text + "\0")


def smbios_extra(strings: Iterable[str]) -> str:
    """What the first SMBIOS type 11 string for the stub appends, or nothing."""
    return next((item.removeprefix(SMBIOS_EXTRA) for item in strings if item.startswith(SMBIOS_EXTRA)), "")


def join_addons(texts: Iterable[str]) -> str:
    """The command lines of addons as one; each is cleaned alone, then all of it.

    An addon with nothing but white space between two others leaves two spaces, as in the stub.
    """
    joined = ""
    for text in texts:
        joined = f"{joined} {clean(text)}" if joined else clean(text)
    return clean(joined)


def settle(
    embedded: str | None,
    passed: str,
    addons: Iterable[str],
    smbios_strings: Sequence[str],
    *,
    secure_boot: bool,
    confidential_vm: bool,
) -> CommandLine:
    """The command line of this boot.

    A passed one replaces the embedded one, unless Secure Boot is on and the image has its own or the machine
    is confidential. SMBIOS belongs to the host and is not looked at in a confidential machine.

    Args:
        embedded: text of section ``.cmdline``, None where there is none.
        passed: of the load options.
        addons: texts of the addons' ``.cmdline`` in load order.
        smbios_strings: SMBIOS type 11 strings.
        secure_boot: it is enforced.
        confidential_vm: the stub recognises SEV, TDX ...
    """
    refused = secure_boot and (embedded is not None or confidential_vm)
    used = passed if passed and not refused else None
    final = used if used is not None else (None if embedded is None else clean(embedded))
    extra = join_addons(addons)
    smbios = "" if confidential_vm else clean(smbios_extra(smbios_strings))
    for part in (extra, smbios):
        if part:
            final = f"{final} {part}" if final else part
    return CommandLine(final, used, extra or None, smbios or None)
