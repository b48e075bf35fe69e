"""Which encrypted volumes there can be: an image that would not boot, or would leak, is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import SpecError
from ..formats.luks2_model import Pbkdf2
from ..formats.tpm2 import PCR_COUNT
from ..formats.tpm2_token import COUNTED_TYPE, RESETTABLE, SYSTEMD_TYPE
from .providers import FILE_NAME, OPTION_REGISTERS, Provider
from .volumes import (
    ALWAYS,
    ESCROW_FILE,
    HEADERLESS,
    IF_BLANK,
    INTEGRITIES,
    LUKS2,
    NEVER,
    ROOT,
    SECRET_FILES,
    VolumeSpec,
    handle,
)

# Providers that are more to the builder than what their headers say.
EPHEMERAL, KEYFILE, TPM2, KBS, EXEC = "ephemeral", "keyfile", "tpm2", "kbs", "exec"
TYPED = "passphrase"
# Where a provider's options do not begin with its own name.
_PREFIXES = {"snp-derived-key": "DERIVE", "cca-sealing-key": "DERIVE"}
_NEEDED_OPTIONS = {
    TPM2: ("TPM2_POLICY", "TPM2_PCRS", "TPM2_BANK", "TPM2_COUNTER"),
    KBS: ("KBS_URL", "KBS_VOLUME", "KBS_MACHINE"),
    EXEC: ("EXEC_PROGRAM",),
}
_BANKS = ("sha256", "sha384", "sha512")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,15}")  # ext4 labels hold 16 bytes, device-mapper names more
_MOUNTPOINT = re.compile(r"/|(/[a-z0-9][a-z0-9_-]*)+")
_OPTION = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_PRINTABLE = re.compile(r"[ -~]*")
_PROGRAM = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NV_INDEX = range(0x01000000, 0x02000000)  # TCG TPM 2.0 Library part 2 section 7.2 (TPM_HT_NV_INDEX)
_KEY_SIZES = range(16, 513)  # what the unlock driver takes as a key
_VOLUME_KEY_SIZE = 64  # AES-256 in XTS mode: two keys (IEEE 1619)
_MAX_SECONDS = 3600


def check_volume(volume: VolumeSpec, *, profile: str, network: str) -> None:
    """Nothing, when the initramfs can open the volume and nothing secret gets out.

    Args:
        profile: ``release`` or ``dev``.
        network: ``none``, or how the initramfs brings it up.

    Raises:
        SpecError: the first thing that is wrong.
    """
    where = f"volume {volume.name}"
    _check_values(volume, where)
    _check_root(volume, where)
    for provider in volume.providers:
        _check_provider(provider, volume, where, profile, network)
    _check_format(volume, where)
    _check_content(volume, where)
    _check_token(volume, where)
    _check_marker(volume, where)
    _check_files(volume, where, profile)
    _check_options(volume, where)


def one_of(where: str, value: str, allowed: Iterable[str]) -> None:
    """Nothing, when ``value`` is among those allowed.

    Raises:
        SpecError: it is not.
    """
    if value not in allowed:
        raise SpecError(f"{where}: {value!r} is not known; write one of {', '.join(allowed)}")


def whole_seconds(where: str, value: int) -> None:
    """Nothing, when ``value`` is a time that a boot may wait.

    Raises:
        SpecError: it is not.
    """
    if not 1 <= value <= _MAX_SECONDS:
        raise SpecError(f"{where}: {value} is out of range; write 1 to {_MAX_SECONDS} seconds")


def _check_values(volume: VolumeSpec, where: str) -> None:
    if not _NAME.fullmatch(volume.name):
        raise SpecError(f"{where}: not a volume's name; use at most 16 lower-case letters, digits, - and _")
    if not _MOUNTPOINT.fullmatch(volume.mountpoint):
        raise SpecError(f"{where}: {volume.mountpoint!r} is no mount point; write a path such as /var")
    one_of(f"{where}: format", volume.format_policy, (NEVER, IF_BLANK, ALWAYS))
    one_of(f"{where}: header", volume.header, (LUKS2, HEADERLESS))
    one_of(f"{where}: integrity", volume.integrity, INTEGRITIES)
    whole_seconds(f"{where}: provider_timeout", volume.provider_timeout)
    whole_seconds(f"{where}: total_timeout", volume.total_timeout)
    if volume.integrity != "none" and volume.header != LUKS2:
        raise SpecError(f"{where}: integrity {volume.integrity} stands in a header; use header luks2")
    if not volume.providers:
        raise SpecError(f"{where}: has no unlock provider; name one, such as ephemeral")


def _check_root(volume: VolumeSpec, where: str) -> None:
    if (volume.name == ROOT) != (volume.mountpoint == "/"):
        what = f"is mounted on {volume.mountpoint}; the volume on / is named root, and no other is"
        raise SpecError(f"{where}: {what}")
    if volume.name != ROOT:
        return
    if volume.header != LUKS2:
        raise SpecError(
            f"{where}: header {volume.header}; the build gives the root a LUKS2 header, use luks2"
        )
    if volume.format_policy != NEVER:
        raise SpecError(f"{where}: format {volume.format_policy}; the build makes the root, use never")
    if TPM2 in _names(volume):
        what = "the build makes the root and cannot seal for a TPM it does not have"
        raise SpecError(f"{where}: provider {TPM2}: {what}; use another provider")


def _check_provider(provider: Provider, volume: VolumeSpec, where: str, profile: str, network: str) -> None:
    who = f"{where}: provider {provider.name}"
    if volume.kind not in provider.kinds:
        other = HEADERLESS if volume.header == LUKS2 else LUKS2
        what = f"gives a {provider.kinds[0]}, and header {volume.header} wants a {volume.kind}"
        raise SpecError(f"{who} {what}; use header {other}, or another provider")
    if provider.network and network == "none":
        raise SpecError(f"{who} needs a network; set initramfs.network to dhcp or an address")
    if provider.development and profile != "dev":
        raise SpecError(f"{who} is for development; use another, or set profile: dev")
    if provider.name == TYPED and isinstance(volume.kdf, Pbkdf2):
        # The host has the header and may try passphrases for as long as it likes.
        raise SpecError(f"{who} takes what a person typed, which can be guessed; use argon2id as its KDF")
    missing = [name for name in _wanted_files(provider, volume) if name not in volume.files]
    if missing:
        raise SpecError(
            f"{who} wants {', '.join(missing)} in /etc/unlock/{volume.name}.d; give the volume that"
        )
    lacking = [name for name in _NEEDED_OPTIONS.get(provider.name, ()) if name not in volume.options]
    if lacking:
        raise SpecError(f"{who} wants the options {', '.join(lacking)}; give the volume those")


def _wanted_files(provider: Provider, volume: VolumeSpec) -> tuple[str, ...]:
    """The files that its header names; a literal policy of the TPM has no signing key."""
    literal = provider.name == TPM2 and volume.options.get("TPM2_POLICY") == "literal"
    return () if literal else provider.files


def _check_format(volume: VolumeSpec, where: str) -> None:
    names = _names(volume)
    keeping = [name for name in names if name != EPHEMERAL]
    if volume.format_policy == ALWAYS and keeping:
        raise SpecError(
            f"{where}: format always makes a new file system at every boot, so the key that provider "
            f"{keeping[0]} keeps serves nothing; use provider {EPHEMERAL}, or format if-blank"
        )
    if volume.format_policy != ALWAYS and EPHEMERAL in names:
        raise SpecError(
            f"{where}: format {volume.format_policy} keeps the data, and nobody keeps the key of provider "
            f"{EPHEMERAL}; use format always, or another provider"
        )
    if volume.format_policy != NEVER and not any(provider.formats for provider in volume.providers):
        raise SpecError(
            f"{where}: format {volume.format_policy}, and none of the providers {', '.join(names)} has a key "
            "for a new volume; add one that has, or use format never"
        )


def _check_content(volume: VolumeSpec, where: str) -> None:
    if volume.content and (volume.header != HEADERLESS or volume.format_policy != NEVER):
        what = "content is that of a volume without a header that the build made"
        raise SpecError(f"{where}: {what}; use header none and format never, or leave it out")


def _check_token(volume: VolumeSpec, where: str) -> None:
    token, asked = volume.token, TPM2 in _names(volume)
    if token is None:
        if asked:
            what = "keeps its sealed key in a token, and the volume has none"
            raise SpecError(f"{where}: provider {TPM2} {what}; give the token's shape")
        return
    if volume.header != LUKS2:
        raise SpecError(f"{where}: token {token.type} stands in a header; use header luks2")
    one_of(f"{where}: token", token.type, (SYSTEMD_TYPE, COUNTED_TYPE))
    if not asked:
        raise SpecError(f"{where}: token {token.type} is for provider {TPM2}, which is not asked; add it")
    counter = volume.options.get("TPM2_COUNTER", "")
    if (counter != "none") != (token.type == COUNTED_TYPE):
        what = f"TPM2_COUNTER is {counter}, and the token is {token.type}"
        raise SpecError(f"{where}: {what}; a counter goes with {COUNTED_TYPE}, none with {SYSTEMD_TYPE}")


def _check_marker(volume: VolumeSpec, where: str) -> None:
    asked = TPM2 in _names(volume)
    if asked and volume.format_policy != IF_BLANK:
        what = "a TPM knows the volumes that it formatted, and no others"
        raise SpecError(f"{where}: format {volume.format_policy}: {what}; use format if-blank with {TPM2}")
    if volume.marker is None:
        if asked:
            what = "remembers the volume by a marker, and there is none"
            raise SpecError(f"{where}: provider {TPM2} {what}; give the handle of an NV index")
        return
    if volume.marker not in _NV_INDEX:
        first, last = handle(_NV_INDEX[0]), handle(_NV_INDEX[-1])
        raise SpecError(f"{where}: marker {volume.marker:#x} is no NV index; use {first} to {last}")
    if not asked:
        raise SpecError(f"{where}: the marker is in the TPM, and provider {TPM2} is not asked; add it")
    if volume.options.get("TPM2_COUNTER") == handle(volume.marker):
        raise SpecError(f"{where}: marker and TPM2_COUNTER are both {handle(volume.marker)}; use two indexes")


def _check_files(volume: VolumeSpec, where: str, profile: str) -> None:
    wanted = {ESCROW_FILE, *(name for provider in volume.providers for name in provider.files)}
    for name in sorted(volume.files):
        data = volume.files[name]
        if not FILE_NAME.fullmatch(name):
            what = f"{name!r} is not a file's name"
            raise SpecError(f"{where}: {what}; use lower-case letters, digits, dots and hyphens")
        if not data:
            raise SpecError(f"{where}: file {name} is empty; give its content")
        if name in SECRET_FILES and profile != "dev":
            what = f"file {name} is a secret, and whatever is in a release is public"
            raise SpecError(f"{where}: {what}; use another provider, or set profile: dev")
        # A program of a site reads what it likes.
        if name not in wanted and EXEC not in _names(volume):
            raise SpecError(f"{where}: file {name} is for none of its providers; remove it")
        sizes = _KEY_SIZES if volume.header == LUKS2 else range(_VOLUME_KEY_SIZE, _VOLUME_KEY_SIZE + 1)
        if name == KEYFILE and len(data) not in sizes:
            span = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
            raise SpecError(f"{where}: {name} has {len(data)} bytes; a {volume.kind} has {span}")
    if volume.escrow and volume.format_policy != IF_BLANK:
        what = f"{ESCROW_FILE} is for the key of a volume that the guest makes and keeps"
        raise SpecError(f"{where}: {what}; use format if-blank, or remove the file")


def _check_options(volume: VolumeSpec, where: str) -> None:
    prefixes = tuple(f"{_prefix(name)}_" for name in _names(volume))
    for name in sorted(volume.options):
        value = volume.options[name]
        if not _OPTION.fullmatch(name):
            raise SpecError(f"{where}: {name!r} is not an option's name; write one such as KBS_URL")
        # The boot script reads the file as well: no option may be one of its settings.
        if not name.startswith(prefixes):
            raise SpecError(f"{where}: option {name} is of none of its providers; remove it")
        if not _PRINTABLE.fullmatch(value):
            raise SpecError(f"{where}: {name} is {value!r}, which has more than printable ASCII; remove that")
    if TPM2 in _names(volume):
        _check_tpm2(volume, where)
    if EXEC in _names(volume) and not _PROGRAM.fullmatch(volume.options["EXEC_PROGRAM"]):
        path = volume.options["EXEC_PROGRAM"]
        raise SpecError(f"{where}: EXEC_PROGRAM {path!r} is no path; write one such as /usr/bin/site-key")
    if not volume.options.get("TPM2_PCRS") and OPTION_REGISTERS in (
        each for provider in volume.providers for each in provider.registers
    ):
        raise SpecError(f"{where}: TPM2_PCRS names no registers, and a provider depends on those; write them")


def _check_tpm2(volume: VolumeSpec, where: str) -> None:
    options = volume.options
    one_of(f"{where}: TPM2_POLICY", options["TPM2_POLICY"], ("signed", "literal"))
    one_of(f"{where}: TPM2_BANK", options["TPM2_BANK"], _BANKS)
    registers, known = options["TPM2_PCRS"], {str(number) for number in range(PCR_COUNT)}
    words = registers.split(" ") if registers else []
    if not set(words) <= known or sorted(set(words), key=int) != words:
        raise SpecError(f"{where}: TPM2_PCRS {registers!r} is no list of PCRs; write one such as '4 7 11'")
    loose = [word for word in words if int(word) in RESETTABLE]
    if loose:
        what = f"PCR {loose[0]} can be reset by software and binds nothing"
        raise SpecError(f"{where}: TPM2_PCRS {registers!r}: {what}; leave it out")
    signed, digest = options["TPM2_POLICY"] == "signed", options.get("TPM2_DIGEST", "")
    if signed and not _DIGEST.fullmatch(digest):
        raise SpecError(f"{where}: TPM2_DIGEST {digest!r} is no policy digest; write its 64 hex digits")
    counter, release = options["TPM2_COUNTER"], options.get("TPM2_RELEASE", "")
    if counter == "none":
        return
    if not signed:
        what = "a literal policy knows one boot only and needs no counter"
        raise SpecError(f"{where}: TPM2_COUNTER {counter!r}: {what}; write none")
    if not re.fullmatch(r"0x[0-9a-f]{8}", counter) or int(counter, 16) not in _NV_INDEX:
        first, last = handle(_NV_INDEX[0]), handle(_NV_INDEX[-1])
        raise SpecError(f"{where}: TPM2_COUNTER {counter!r} is no NV index; use none, or {first} to {last}")
    if not re.fullmatch(r"[1-9][0-9]{0,18}", release):
        raise SpecError(f"{where}: TPM2_RELEASE {release!r} is no release; write a number from 1 on")


def _names(volume: VolumeSpec) -> tuple[str, ...]:
    return tuple(provider.name for provider in volume.providers)


def _prefix(provider: str) -> str:
    return _PREFIXES.get(provider, provider.upper().replace("-", "_"))
