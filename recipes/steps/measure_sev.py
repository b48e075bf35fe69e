"""``goldsmith measure`` for AMD SEV: a QEMU command line or a described machine, replayed from its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import FormatError, MeasureError
from ..machine.sev import SevMode, SevVmm
from ..measure.sev import HashedFile, SevFirmware, SevLaunch, matrix, replay
from ..record import TYPE_CHECKING, dataclass, replace
from ..units import GIB, KIB, MIB, format_size
from ..vmm.sev_values import ParsedSev, SevFiles, SevHost
from .blobs import FileBlob
from .sev_files import check_files, check_no_image, is_linux

if TYPE_CHECKING:
    from ..formats.p384 import SigningKey
    from ..machine.sev import SevMachine
    from ..machine.sev_cpus import CpuSignature
    from ..measure.igvm import IgvmLaunch
    from ..measure.igvm_image import IgvmImage
    from ..measure.sev import MatrixEntry, SevPrediction

# Ours: builds have 512 KiB (stage0) to 16 MiB.
MAX_FIRMWARE = 64 * MIB
# Ours: IGVM files may hold kernel and initrd. Nothing of their size is kept.
MAX_IGVM = 1 * GIB
# Ours: a process that measures one launch is small, and larger pieces are no faster.
_WINDOW = 256 * KIB
# Ours: a P-384 key in any form has a few hundred bytes.
_MAX_KEY = 16384


@dataclass(frozen=True, kw_only=True)
class OpenedSev:
    """A launch with the files it names.

    Attributes:
        ignored: options that the digest does not depend on.
        notes: what was assumed, for people.
    """

    launch: SevLaunch | IgvmLaunch
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    def replay(self) -> SevPrediction:
        """What it measures.

        Raises:
            FormatError: the firmware's table is missing or damaged.
            MeasureError: the machine cannot be launched like that, or it is not modelled.
        """
        if isinstance(self.launch, SevLaunch):
            return replay(self.launch)
        from ..measure.igvm import replay as replay_igvm

        return replay_igvm(self.launch)

    def matrix(self, vcpus: Sequence[int], cpus: Sequence[CpuSignature]) -> tuple[MatrixEntry, ...]:
        """The digests of the machine with other CPUs and numbers of them.

        Raises:
            FormatError: the firmware's table is missing or damaged.
            MeasureError: a shape cannot be launched.
        """
        if isinstance(self.launch, SevLaunch):
            return matrix(self.launch, vcpus, cpus)
        from ..measure.igvm import matrix as matrix_igvm

        return matrix_igvm(self.launch, vcpus, cpus)


def open_command_line(
    argv: Sequence[str], host: SevHost, *, name: str = "command line", with_sha256: bool = True
) -> OpenedSev:
    """The launch of a QEMU command line.

    Args:
        name: what to call the machine.
        with_sha256: whether SHA-256 of files will be asked for that are measured by page.

    Raises:
        ImageError: the command line is not modelled, or a file it names cannot be read.
    """
    from ..vmm.sev_parse import parse

    parsed = parse(argv, name=name, host=host, file_size=lambda path: FileBlob.of(Path(path)).size)
    return open_parsed(parsed, with_sha256=with_sha256)


def open_described(text: str, host: SevHost, *, with_sha256: bool = True) -> OpenedSev:
    """The launch of a machine that is described as ``vmm=ec2,firmware=F,vcpus=N``.

    Args:
        with_sha256: whether SHA-256 of files will be asked for that are measured by page.

    Raises:
        ImageError: the description is wrong, or a file it names cannot be read.
    """
    from ..vmm.sev_described import parse_described

    return open_parsed(parse_described(text, host=host), with_sha256=with_sha256)


def read_firmware(path: Path, *, with_sha256: bool = True, raw: bool = False) -> SevFirmware:
    """A firmware file, read in pieces.

    Args:
        with_sha256: whether the file as a whole is hashed as well.
        raw: it is taken as it is, whatever is in it.

    Raises:
        FormatError: it is no regular file, a disk image, or too large for one.
    """
    if not raw:
        check_no_image(path)
    blob = FileBlob.of(path)
    if blob.size > MAX_FIRMWARE:
        what = f"{format_size(blob.size)}, at most {format_size(MAX_FIRMWARE)} are taken for firmware"
        raise FormatError(str(path), f"{what}; give the firmware file")
    return SevFirmware.of(blob.name, blob.windows(_WINDOW), with_sha256=with_sha256)


def read_igvm(path: Path) -> IgvmImage:
    """An IGVM file, read in pieces: once for its hash, then page by page.

    Raises:
        FormatError: it is no IGVM file, is damaged, or is too large.
        MeasureError: it is not for SEV-SNP, or QEMU does not load it.
    """
    from ..formats.igvm import FIXED_SIZE, parse_fixed, parse_igvm
    from ..measure.igvm_image import IgvmImage

    blob = FileBlob.of(path)
    if blob.size > MAX_IGVM:
        what = f"{format_size(blob.size)}, at most {format_size(MAX_IGVM)} are taken for an IGVM file"
        raise FormatError(str(path), f"{what}; give the file that QEMU loads")
    fixed = parse_fixed(blob.head(FIXED_SIZE), blob.name, size=blob.size)
    file = parse_igvm(blob.head(fixed.headers_end), blob.name, size=blob.size)
    state = hashlib.sha256()
    for window in blob.windows(_WINDOW):
        state.update(window)
    with path.open("rb") as source:

        def read(offset: int, size: int) -> bytes:
            source.seek(offset)
            return source.read(size)

        return IgvmImage.of(blob.name, file, sha256=state, read=read)


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


def open_parsed(parsed: ParsedSev, *, with_sha256: bool = True) -> OpenedSev:
    """The launch of a machine and the files it names.

    Args:
        with_sha256: whether SHA-256 of files will be asked for that are measured by page.

    Raises:
        ImageError: a file cannot be read, or is no firmware.
    """
    files = parsed.files
    if files.igvm:
        return _open_igvm(parsed, Path(files.igvm))
    launch = read_launch(parsed.machine, files, with_sha256=with_sha256)
    return OpenedSev(launch=launch, ignored=parsed.ignored, notes=parsed.notes)


def read_launch(machine: SevMachine, files: SevFiles, *, with_sha256: bool = True) -> SevLaunch:
    """A machine with the files that it starts with.

    Args:
        with_sha256: whether SHA-256 of files will be asked for that are measured by page.

    Raises:
        ImageError: a file cannot be read, or is no firmware.
    """
    check_files(files)
    # Without SEV-SNP the launch digest goes on from the file's.
    whole = with_sha256 or machine.mode is not SevMode.SEV_SNP
    direct = files.kernel if machine.vmm in (SevVmm.QEMU, SevVmm.SVSM) else None
    return SevLaunch(
        machine=machine,
        firmware=read_firmware(Path(files.firmware), with_sha256=whole, raw=files.firmware in files.raw),
        kernel=hashed_file(files.kernel),
        initrd=hashed_file(files.initrd),
        svsm=_svsm(files, with_sha256=whole),
        linux=direct is not None and is_linux(Path(direct)),
    )


def _svsm(files: SevFiles, *, with_sha256: bool) -> SevFirmware | None:
    if files.svsm is None:
        return None
    return read_firmware(Path(files.svsm), with_sha256=with_sha256, raw=files.svsm in files.raw)


def _open_igvm(parsed: ParsedSev, path: Path) -> OpenedSev:
    from ..measure.igvm import IgvmLaunch

    image = read_igvm(path)
    machine, notes = _with_image(parsed, image)
    files = parsed.files
    launch = IgvmLaunch(
        machine=machine, igvm=image, kernel=hashed_file(files.kernel), initrd=hashed_file(files.initrd)
    )
    return OpenedSev(launch=launch, ignored=parsed.ignored, notes=(*parsed.notes, *notes))


def _with_image(parsed: ParsedSev, image: IgvmImage) -> tuple[SevMachine, tuple[str, ...]]:
    """The machine with what the IGVM file says of it, and notes on that."""
    machine, notes = parsed.machine, []
    features, policy = image.features, image.policy
    if features is None and not parsed.stated_features:
        notes.append(f"SEV_FEATURES {machine.features:#x} assumed: {image.name} does not describe vCPU 0")
    if features is not None and parsed.stated_features and features != machine.features:
        what = f"the VMSA in {image.name} has {features:#x}, and KVM takes them from there"
        raise MeasureError(f"--host sev-features={machine.features:#x}: {what}; leave it out")
    if policy and parsed.stated_policy and policy != machine.policy:
        notes.append(f"policy {policy:#x} of {image.name} is in force, not {machine.policy:#x}")
    return replace(
        machine,
        features=machine.features if features is None else features,
        policy=policy or machine.policy,
    ), tuple(notes)


def hashed_file(path: str | None) -> HashedFile | None:
    """A file that is hashed as a whole, or None where there is none."""
    return None if path is None else hash_file(Path(path))


def hash_file(path: Path) -> HashedFile:
    """A file that is hashed as a whole, in pieces.

    Raises:
        FormatError: it is no regular file.
        MeasureError: it changed meanwhile.
    """
    blob, state, size = FileBlob.of(path), hashlib.sha256(), 0
    for window in blob.windows(_WINDOW):
        state.update(window)
        size += len(window)
    if size != blob.size:
        what = f"had {blob.size} bytes and now has {size}; leave it alone while it is measured"
        raise MeasureError(f"{path}: {what}")
    return HashedFile(name=blob.name, size=size, sha256=state.digest())
