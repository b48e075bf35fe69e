"""Unlock providers: what each one says about itself in the comment lines at its top.

``#: key value`` lines stand directly below the first line of a provider. The builder learns from them what
the provider needs in the initramfs; the driver learns from the builder how to use its key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SpecError

KINDS = ("volume-key", "passphrase")
_KEYS = ("summary", "kind", "modules", "binaries", "network", "registers", "profile")
_VALUES = {"kind": KINDS, "network": ("yes", "no"), "profile": ("any", "dev")}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An unlock provider.

    Attributes:
        script: its content, as it goes into the initramfs.
        kind: ``volume-key`` goes straight into a dm-crypt table, ``passphrase`` opens a header.
        modules: kernel modules, by name.
        binaries: tree paths of programs.
        network: it needs the network to be up.
        registers: measured registers its answer depends on, such as ``sha256:11``; golden values need them.
        development: allowed in images of profile dev only.
    """

    name: str
    script: bytes
    summary: str
    kind: str
    modules: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    network: bool = False
    registers: tuple[str, ...] = ()
    development: bool = False


def read_provider(name: str, script: bytes) -> Provider:
    """The provider ``name`` with what its header says.

    Raises:
        SpecError: the header has an unknown, doubled, missing or malformed line.
    """
    where = f"initrd/unlock.d/{name}"
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{where}: {name!r} is not a provider's name; use lower-case letters, digits and hyphens"
        )
    if not script.startswith(b"#!"):
        raise SpecError(f"{where}: has no interpreter line; begin it with #!/bin/sh")
    values = _header(script, where)
    missing = [key for key in _KEYS if key not in values]
    if missing:
        raise SpecError(f"{where}: the header lacks {', '.join(missing)}; write a line '#: {missing[0]} ...'")
    for key, allowed in _VALUES.items():
        if values[key] not in allowed:
            raise SpecError(f"{where}: {key} is {values[key]!r}; write one of {', '.join(allowed)}")
    registers = () if values["registers"] == "none" else tuple(values["registers"].split())
    return Provider(
        name=name,
        script=script,
        summary=values["summary"],
        kind=values["kind"],
        modules=_words(values["modules"]),
        binaries=_words(values["binaries"]),
        network=values["network"] == "yes",
        registers=registers,
        development=values["profile"] == "dev",
    )


def _header(script: bytes, where: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(script.split(b"\n")[1:], start=2):
        if not line.startswith(b"#:"):
            break
        if not line.isascii():
            raise SpecError(f"{where}:{number}: a header line is plain ASCII; replace the other characters")
        key, _, value = line[2:].decode("ascii").strip().partition(" ")
        if key not in _KEYS:
            raise SpecError(f"{where}:{number}: unknown key {key!r}; known are {', '.join(_KEYS)}")
        if key in values or not value.strip():
            fault = "is there twice" if key in values else "has no value"
            raise SpecError(f"{where}:{number}: {key} {fault}; write it once, with 'none' for nothing")
        values[key] = value.strip()
    return values


def _words(value: str) -> tuple[str, ...]:
    return () if value == "none" else tuple(value.split())
