"""``goldsmith measure`` for AMD SEV: a QEMU command line or a described machine, replayed from its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, MeasureError
from ..measure.sev import HashedFile, SevFirmware, SevLaunch
from ..units import KIB, MIB, format_size
from ..vmm.sev_values import ParsedSev, SevHost
from .blobs import FileBlob

if TYPE_CHECKING:
    from ..formats.p384 import SigningKey

# Builds have 512 KiB (stage0) to 16 MiB; no more is read. Spec: QEMU 10.0 hw/i386/pc_sysfw.c
# FLASH_SIZE_LIMIT, 8 MiB for flash.
MAX_FIRMWARE = 64 * MIB
# Ours: a process that measures one launch is small, and larger pieces are no faster.
_WINDOW = 256 * KIB
# Ours: a P-384 key in any form has a few hundred bytes.
_MAX_KEY = 16384
# Where a kernel has its magic and the version of its boot protocol, and the first version whose header says
# how long a command line may be. Spec: Linux 6.12 Documentation/arch/x86/boot.rst; QEMU 10.0
# hw/i386/x86-common.c x86_load_linux().
_MAGIC, _PROTOCOL = 0x202, 0x206
_OLDEST = 0x206


@dataclass(frozen=True, kw_only=True)
class OpenedSev:
    """A launch with the files it names.

    Attributes:
        ignored: options that the digest does not depend on.
        notes: what was assumed, for people.
    """

    launch: SevLaunch
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def open_command_line(argv: Sequence[str], host: SevHost, *, name: str = "command line") -> OpenedSev:
    """The launch of a QEMU command line.

    Raises:
        ImageError: the command line is not modelled, or a file it names cannot be read.
    """
    from ..vmm.sev_parse import parse

    return _open(parse(argv, name=name, host=host, file_size=lambda path: FileBlob.of(Path(path)).size))


def open_described(text: str, host: SevHost) -> OpenedSev:
    """The launch of a machine that is described as ``vmm=ec2,firmware=F,vcpus=N``.

    Raises:
        ImageError: the description is wrong, or a file it names cannot be read.
    """
    from ..vmm.sev_described import parse_described

    return _open(parse_described(text, host=host))


def read_firmware(path: Path) -> SevFirmware:
    """A firmware file, read in pieces.

    Raises:
        FormatError: it is no regular file, or too large for one.
    """
    blob = FileBlob.of(path)
    if blob.size > MAX_FIRMWARE:
        what = f"{format_size(blob.size)}, at most {format_size(MAX_FIRMWARE)} are taken for firmware"
        raise FormatError(str(path), f"{what}; give the firmware file")
    return SevFirmware.of(blob.name, blob.windows(_WINDOW))


def read_signing_key(path: Path) -> SigningKey:
    """The P-384 key of a PEM file.

    Raises:
        FormatError: it is none, or is encrypted.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from ..formats.p384 import SigningKey

    make = "make one with `openssl ecparam -genkey -name secp384r1 -noout`"
    blob = FileBlob.of(path)
    if blob.size > _MAX_KEY:
        raise FormatError(str(path), f"{blob.size} bytes are no key file; {make}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError(str(path), f"no PEM file of an unencrypted private key; {make}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FormatError(str(path), f"not a key on P-384, and ID blocks take no other; {make}")
    return SigningKey.from_scalar(key.private_numbers().private_value, str(path))


def _open(parsed: ParsedSev) -> OpenedSev:
    files = parsed.files
    launch = SevLaunch(
        machine=parsed.machine,
        firmware=read_firmware(Path(files.firmware)),
        kernel=_hashed(files.kernel),
        initrd=_hashed(files.initrd),
        svsm=read_firmware(Path(files.svsm)) if files.svsm else None,
        linux=files.kernel is not None and _is_linux(Path(files.kernel)),
    )
    return OpenedSev(launch=launch, ignored=parsed.ignored, notes=parsed.notes)


def _is_linux(path: Path) -> bool:
    """Whether a file has the header of a Linux kernel that QEMU hands to the firmware as it is."""
    head = FileBlob.of(path).head(_PROTOCOL + 2)
    version = int.from_bytes(head[_PROTOCOL:], "little")
    return head[_MAGIC:_PROTOCOL] == b"HdrS" and version >= _OLDEST


def _hashed(path: str | None) -> HashedFile | None:
    """A file that is hashed as a whole, in pieces."""
    if path is None:
        return None
    blob, state, size = FileBlob.of(Path(path)), hashlib.sha256(), 0
    for window in blob.windows(_WINDOW):
        state.update(window)
        size += len(window)
    if size != blob.size:
        what = f"had {blob.size} bytes and now has {size}; leave it alone while it is measured"
        raise MeasureError(f"{path}: {what}")
    return HashedFile(name=blob.name, size=size, sha256=state.digest())
