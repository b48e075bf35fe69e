"""What a recipe decides about an encrypted volume, and the files that tell the initramfs.

``/etc/unlock/<volume>.conf`` are settings as a shell reads them, ``<volume>.header`` the one LUKS2 header
that is opened (``formats.luks2_template``), ``<volume>.d/`` what the providers need. All of it is measured
with the initramfs. ``volume_checks`` says which volumes there can be.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import FormatError, SpecError
from ..formats.luks2_model import Expected, Integrity, Kdf, KdfBounds, Pbkdf2, TokenShape
from ..formats.luks2_template import Template, check, pin, template
from ..formats.luks2_template import shell_table as header_table
from ..formats.tpm2_token import blob_place
from ..formats.tree import FileTree
from .providers import OPTION_REGISTERS, PASSPHRASE, VOLUME_KEY, Provider

ROOT = "root"  # the volume that is the root file system; also what the initramfs calls its mapping
ETC = "etc/unlock"
LUKS2, HEADERLESS = "luks2", "none"
NEVER, IF_BLANK, ALWAYS = "never", "if-blank", "always"
INTEGRITIES = {"none": Integrity.NONE, "hmac-sha256": Integrity.HMAC_SHA256}
ESCROW_FILE = "escrow.pem"
# A key that a machine drew has nothing that could be guessed.
CHEAPEST = Pbkdf2(1000)
# Holes of a LUKS2 header that name its volume key.
PINNED = frozenset({"digests.0.salt", "digests.0.digest"})
SECRET_FILES = frozenset({"keyfile"})
# What a volume without a header begins with: the note that it is finished (initrd/note.sh), and behind the
# note's block which content the build made it with. The guest reads the note alone and is told the content.
NOTE = b"goldsmith volume 1 formatted"
CONTENT_OFFSET, CONTENT_SIZE = 512, 32


@dataclass(frozen=True, kw_only=True)
class VolumeSpec:
    """A volume the initramfs opens.

    Attributes:
        name: of the device-mapper device; ``root`` is the root file system.
        partition_uuid: PARTUUID of the partition, fixed when the disk is laid out; also of the LUKS2 header.
        providers: who is asked for the key, in order.
        format_policy: ``never``, ``if-blank``, or ``always``: a new file system at every boot.
        header: ``luks2``, or ``none`` for a volume key that goes straight into a dm-crypt table.
        integrity: ``none`` or ``hmac-sha256``.
        kdf: costs of the key slot.
        token: the token that provider tpm2 keeps its sealed key in.
        pinned: what the LUKS2 header of a volume that the build made says, by name of the hole. No other
            volume is opened then, an older release's neither.
        content: of a volume without a header that the build made, which content its key is bound to.
        marker: handle of the NV index where provider tpm2 remembers which volume the TPM formatted.
        files: for ``/etc/unlock/<volume>.d``, by name; a new volume's key is encrypted to ``escrow.pem``.
        options: of the providers, such as ``KBS_URL``.
        provider_timeout: seconds one run of a provider may take.
        total_timeout: seconds until the volume must be open.
    """

    name: str
    partition_uuid: uuid.UUID
    providers: tuple[Provider, ...]
    mountpoint: str = "/var"
    format_policy: str = ALWAYS
    header: str = HEADERLESS
    integrity: str = "none"
    kdf: Kdf = CHEAPEST
    token: TokenShape | None = None
    pinned: Mapping[str, bytes] = field(default_factory=dict)
    content: bytes = b""
    marker: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    provider_timeout: int = 20
    total_timeout: int = 60

    @property
    def kind(self) -> str:
        """The kind of key that opens it."""
        return PASSPHRASE if self.header == LUKS2 else VOLUME_KEY

    @property
    def escrow(self) -> bool:
        """Whether the key of a new volume is encrypted to the operator."""
        return ESCROW_FILE in self.files

    @property
    def secrets(self) -> tuple[str, ...]:
        """Tree paths of its files that are secret, sorted; development images alone have any."""
        return tuple(f"{ETC}/{self.name}.d/{name}" for name in sorted(SECRET_FILES & set(self.files)))

    @property
    def registers(self) -> tuple[str, ...]:
        """Measured registers that its providers' answers depend on, such as ``sha256:11``, each once."""
        bank, numbers = self.options.get("TPM2_BANK", ""), self.options.get("TPM2_PCRS", "").split()
        own = tuple(f"{bank}:{number}" for number in numbers)
        named = (each for provider in self.providers for each in provider.registers)
        listed = (item for each in named for item in (own if each == OPTION_REGISTERS else (each,)))
        return tuple(dict.fromkeys(listed))


def expected_header(volume: VolumeSpec) -> Expected:
    """What the LUKS2 header of a volume must say: one key slot of one cost, and the token of its provider.

    Raises:
        FormatError: no such header is possible.
    """
    return Expected(
        keyslots=(KdfBounds(volume.kdf),),
        integrity=INTEGRITIES[volume.integrity],
        tokens=() if volume.token is None else (volume.token,),
        uuid=volume.partition_uuid,
    )


def header_shape(volume: VolumeSpec) -> Template:
    """The LUKS2 headers of a volume that the initramfs opens.

    Raises:
        FormatError: its header has no fixed form, or what is pinned has no place in it.
    """
    return pin(template(expected_header(volume)), volume.pinned)


def pin_volume(volume: VolumeSpec, metadata: bytes) -> VolumeSpec:
    """The volume, opened only with the volume key of the one that the build made.

    The digest of a LUKS2 header says which volume key is the right one, and a build draws another key for
    other content. Key slots stay open: a passphrase may be changed. ``metadata`` are the first
    ``METADATA_SIZE`` bytes. Without a header the content itself decides what follows from a provider's key,
    and that is what such a volume is encrypted with.

    Raises:
        FormatError: the initramfs would not open this volume.
    """
    if volume.header != LUKS2:
        content = metadata[CONTENT_OFFSET : CONTENT_OFFSET + CONTENT_SIZE]
        if not metadata.startswith(NOTE) or len(content) != CONTENT_SIZE or not any(content):
            what = "does not begin as the build writes it; build the volume again"
            raise FormatError(f"volume {volume.name}", what)
        return replace(volume, content=content)
    shape = template(expected_header(volume))
    check(metadata, shape, f"volume {volume.name}")
    holes = (hole for hole in shape.holes if hole.name in PINNED)
    return replace(
        volume, pinned={hole.name: metadata[hole.offset : hole.offset + hole.size] for hole in holes}
    )


def add_volume(tree: FileTree, volume: VolumeSpec) -> None:
    """Adds the files of a volume that passed the checks.

    Raises:
        FormatError: its header has no fixed form, or its token no place for the sealed key.
        SpecError: an option has the name of another setting.
    """
    base = f"{ETC}/{volume.name}"
    tree.add_file(f"{base}.conf", assignments(settings(volume)))
    if volume.header == LUKS2:
        table = header_table(header_shape(volume))
        tree.add_file(f"{base}.header", table.encode("ascii"))
    for name in sorted(volume.files):
        mode = 0o600 if name in SECRET_FILES else 0o644
        tree.add_file(f"{base}.d/{name}", volume.files[name], mode, source=f"volume {volume.name}")


def settings(volume: VolumeSpec) -> dict[str, str]:
    """Names and values of ``<volume>.conf``, in the order of the file.

    Raises:
        FormatError: its header has no fixed form, or its token no place for the sealed key.
        SpecError: an option has the name of another setting.
    """
    header = expected_header(volume)
    offset, size = (0, 0) if volume.token is None else blob_place(header)
    values = {
        "PARTUUID": str(volume.partition_uuid),
        "MOUNTPOINT": volume.mountpoint,
        "FORMAT": volume.format_policy,
        "HEADER": volume.header,
        "INTEGRITY": volume.integrity,
        "KDF": _costs(volume.kdf) if volume.header == LUKS2 else "none",
        "PROVIDERS": " ".join(provider.name for provider in volume.providers),
        "REMEMBERS": " ".join(provider.name for provider in volume.providers if provider.remembers),
        "PROVIDER_TIMEOUT": str(volume.provider_timeout),
        "TOTAL_TIMEOUT": str(volume.total_timeout),
        "METADATA_SIZE": str(header.metadata_size if volume.header == LUKS2 else 0),
        "CONTENT": volume.content.hex(),
        "TOKEN": "none" if volume.token is None else volume.token.type,
        "TOKEN_BLOB_OFFSET": str(offset),
        "TOKEN_BLOB_SIZE": str(size),
        "MARKER": "none" if volume.marker is None else handle(volume.marker),
        "ESCROW": f"/{ETC}/{volume.name}.d/{ESCROW_FILE}" if volume.escrow else "none",
    }
    for name in sorted(volume.options):
        if name in values:
            raise SpecError(f"volume {volume.name}: {name} is no option, the builder sets it; remove it")
        values[name] = volume.options[name]
    return values


def handle(value: int) -> str:
    """A TPM handle as the settings have it: ``0x01800000``."""
    return f"0x{value:08x}"


def assignments(values: Mapping[str, str]) -> bytes:
    """Lines a shell can read with ``.``: a quote ends the quoted text, stands escaped and begins it again."""
    quoted = {key: value.replace("'", "'\\''") for key, value in values.items()}
    return "".join(f"{key}='{value}'\n" for key, value in quoted.items()).encode("ascii")


def _costs(kdf: Kdf) -> str:
    if isinstance(kdf, Pbkdf2):
        return f"pbkdf2 {kdf.iterations}"
    return f"argon2id {kdf.time} {kdf.memory} {kdf.cpus}"
