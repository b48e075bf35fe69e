"""Unlock providers: what each one says about itself in the comment lines at its top.

``#: key value`` lines stand directly below the first line of a provider, every key once and with ``none`` for
nothing. The builder learns from them what the provider needs in the initramfs, which volumes it can open and
which measured registers its answer depends on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SpecError

PASSPHRASE, VOLUME_KEY = "passphrase", "volume-key"
KINDS = (PASSPHRASE, VOLUME_KEY)
# Registers that a recipe names: what they are stands in the volume's options.
OPTION_REGISTERS = "options"
_KEYS = (
    *("summary", "kinds", "formats", "remembers", "modules", "binaries", "helpers", "files"),
    *("network", "registers", "profile"),
)
_VALUES = {
    "formats": ("yes", "no"),
    "remembers": ("yes", "no"),
    "network": ("yes", "no"),
    "profile": ("any", "dev"),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
FILE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class _Words:
    """What the words of a list look like, and an example of one."""

    pattern: re.Pattern[str]
    example: str


_LISTS = {
    "kinds": _Words(re.compile("|".join(KINDS)), " or ".join(KINDS)),
    "modules": _Words(re.compile(r"[A-Za-z0-9_-]+"), "a module's name such as dm-crypt"),
    "binaries": _Words(
        re.compile(r"usr(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+"), "a path such as usr/sbin/cryptsetup"
    ),
    "helpers": _Words(_NAME, "a helper's name such as tpm2"),
    "files": _Words(FILE_NAME, "a file's name such as tpm2.pub"),
    "registers": _Words(
        # TCG PC Client Platform TPM Profile 1.05 section 4.6: PCRs 0 to 23. SHA-1 protects nothing any more.
        re.compile(rf"sha(?:256|384|512):(?:1?[0-9]|2[0-3])|{OPTION_REGISTERS}"),
        f"a register such as sha256:11, or {OPTION_REGISTERS}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An unlock provider.

    Attributes:
        script: its content, as it goes into the initramfs.
        kinds: what it can give: ``volume-key`` goes straight into a dm-crypt table, ``passphrase`` opens the
            key slot of a LUKS2 header.
        formats: it can give the key of a volume that is about to be made.
        remembers: it knows which volume was formatted, and so a wiped disk or another one from that volume.
        modules: kernel modules, by name.
        binaries: tree paths of programs.
        helpers: compiled helpers of ``initrd/helpers``, by name.
        files: what it wants in ``/etc/unlock/<volume>.d``.
        network: it needs the network to be up.
        registers: measured registers its answer depends on, such as ``sha256:11``, or ``options`` for those
            that the recipe names; golden values need them.
        development: allowed in images of profile dev only.
    """

    name: str
    script: bytes
    summary: str
    kinds: tuple[str, ...]
    formats: bool = False
    remembers: bool = False
    modules: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    network: bool = False
    registers: tuple[str, ...] = ()
    development: bool = False


def read_provider(name: str, script: bytes) -> Provider:
    """The provider ``name`` with what its header says.

    Raises:
        SpecError: the header has an unknown, doubled, missing or malformed line.
    """
    if not _NAME.fullmatch(name):
        what = f"{name!r} is not a provider's name"
        raise SpecError(f"initrd/unlock.d: {what}; use lower-case letters, digits and hyphens")
    where = f"initrd/unlock.d/{name}"
    if not script.startswith(b"#!"):
        raise SpecError(f"{where}: has no interpreter line; begin it with #!/bin/sh")
    values = _header(script, where)
    missing = [key for key in _KEYS if key not in values]
    if missing:
        raise SpecError(f"{where}: the header lacks {', '.join(missing)}; write a line '#: {missing[0]} ...'")
    for key, allowed in _VALUES.items():
        if values[key] not in allowed:
            raise SpecError(f"{where}: {key} is {values[key]!r}; write one of {', '.join(allowed)}")
    lists = {key: _words(values[key], key, where) for key in _LISTS}
    if not lists["kinds"]:
        raise SpecError(f"{where}: kinds is 'none'; write {_LISTS['kinds'].example}, or both")
    return Provider(
        name=name,
        script=script,
        summary=values["summary"],
        kinds=lists["kinds"],
        formats=values["formats"] == "yes",
        remembers=values["remembers"] == "yes",
        modules=lists["modules"],
        binaries=lists["binaries"],
        helpers=lists["helpers"],
        files=lists["files"],
        network=values["network"] == "yes",
        registers=lists["registers"],
        development=values["profile"] == "dev",
    )


def _header(script: bytes, where: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(script.split(b"\n")[1:], start=2):
        if not line.startswith(b"#:"):
            break
        if not all(0x20 <= byte < 0x7F for byte in line):
            raise SpecError(
                f"{where}:{number}: a header line is printable ASCII; replace the other characters"
            )
        key, _, value = line[2:].decode("ascii").strip().partition(" ")
        if key not in _KEYS:
            raise SpecError(f"{where}:{number}: unknown key {key!r}; known are {', '.join(_KEYS)}")
        if key in values or not value.strip():
            fault = "is there twice" if key in values else "has no value"
            raise SpecError(f"{where}:{number}: {key} {fault}; write it once, with 'none' for nothing")
        values[key] = value.strip()
    return values


def _words(value: str, key: str, where: str) -> tuple[str, ...]:
    words = value.split()
    if words == ["none"]:
        return ()
    lonely = ("none", OPTION_REGISTERS) if key == "registers" else ("none",)
    for index, word in enumerate(words):
        if word in lonely and len(words) > 1:
            raise SpecError(f"{where}: {key}: {word} is there with others; write it alone, or leave it out")
        if not _LISTS[key].pattern.fullmatch(word):
            raise SpecError(f"{where}: {key}: {word!r} is not {_LISTS[key].example}; write that")
        if word in words[:index]:
            raise SpecError(f"{where}: {key}: {word} is there twice; write it once")
    return tuple(words)
