"""What a publishing kit is made of, as its templates see it, and the files that go into it."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import FormatError
from ..record import dataclass, replace
from ..schema.publish import Parameter
from ..units import GIB
from . import keys
from .templates import render

if TYPE_CHECKING:
    from ..clouds.cloud import MachineDisks
    from ..clouds.secure_boot import Certificates, Sign
    from .publish_golden import CloudGolden

SECURE_BOOT = "secure-boot"


@dataclass(frozen=True, kw_only=True)
class KitFile:
    """A file of the kit besides the disk; its name is relative to the kit."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class KitDisk:
    """The disk: ``size`` and ``sha256`` are those of its file, ``virtual_size`` is what a machine sees."""

    file: str
    format: str
    size: int
    sha256: str
    virtual_size: int


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """SHA-256 of a certificate, DER."""

    role: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A cloud for people, and the command line program that deploys there.

    Attributes:
        absent: the exit status with which it says that what is looked for is not there; None if it has none.
    """

    title: str
    name: str
    install: str
    absent: int | None


# Exit status 3: Microsoft Learn, "Use the Azure CLI successfully", "Exit codes": a resource is missing.
PROGRAMS = {
    "azure": Program(
        title="Azure", name="az", install="https://learn.microsoft.com/cli/azure/install-azure-cli", absent=3
    ),
    "gcp": Program(
        title="Google Cloud", name="gcloud", install="https://cloud.google.com/sdk/docs/install", absent=None
    ),
    "aws": Program(title="AWS", name="aws", install="https://aws.amazon.com/cli/", absent=None),
}


@dataclass(frozen=True, kw_only=True)
class Kit:
    """Everything that a kit's templates say.

    Attributes:
        disk_name: what the disk is called in the cloud.
        parameters: keys of the recipe, as they are options of the script.
        effective: the same with what the script puts in for empty ones, as far as that is known.
        sizes: what protects a machine, and the kind of machine that is used for it; in ``size_key``.
        image_version: three numbers, for Azure.
        root_hash: of dm-verity, hex; empty without.
        keys: whether Secure Boot keys are among the files.
    """

    cloud: str
    image: str
    version: str
    architecture: str
    disk: KitDisk
    disk_name: str
    parameters: tuple[Parameter, ...]
    effective: tuple[Parameter, ...]
    sizes: tuple[tuple[str, str], ...]
    size_key: str
    image_version: str
    root_hash: str
    owner: str
    keys: bool
    certificates: tuple[Fingerprint, ...]
    golden: CloudGolden
    files: tuple[KitFile, ...]

    @property
    def program(self) -> Program:
        """What deploys it."""
        return PROGRAMS[self.cloud]

    @property
    def machine_disks(self) -> MachineDisks:
        """How large the disk of a machine may be."""
        from ..clouds.registry import lookup

        return lookup(self.cloud).machine_disks

    @property
    def disk_gib(self) -> int:
        """GiB that hold the disk."""
        return -(-self.disk.virtual_size // GIB)

    @property
    def verify(self) -> str:
        """The command that holds a machine's console log against the prediction."""
        return f"goldsmith verify {golden_name(self.cloud)} --report console.log"

    def file(self, name: str) -> KitFile:
        """One of the files."""
        return next(item for item in self.files if item.file == name)


def golden_name(cloud: str) -> str:
    """File of the golden manifest for machines of a cloud."""
    return f"golden.{cloud}.json"


def write_texts(target: Path, kit: Kit, script: Path, common: Path, metadata: Path) -> None:
    """Writes the script and the file for programs; ``script``, ``common`` and ``metadata`` are templates."""
    shared = render(common, kit=kit, sh=shlex.quote)
    deploy = target / "deploy.sh"
    deploy.write_text(render(script, kit=kit, common=shared, sh=shlex.quote), encoding="utf-8")
    deploy.chmod(0o755)
    data = deploy.read_bytes()
    named = KitFile(file=deploy.name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    whole = replace(kit, files=tuple(sorted((*kit.files, named), key=lambda item: item.file)))
    add_file(target, "metadata.json", render(metadata, kit=whole).encode())


def add_file(target: Path, name: str, data: bytes) -> KitFile:
    """Writes a file of the kit, for everybody to read."""
    path = target / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
    return KitFile(file=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def add_disk(source: Path, target: Path) -> None:
    """Gives the disk a second name, or copies it where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links; what else is wrong, the copy will say.
        shutil.copyfile(source, target)


def add_keys(target: Path, cloud: str, owner: UUID) -> tuple[KitFile, ...]:
    """Writes the Secure Boot keys in every shape that the cloud takes."""
    from ..clouds.secure_boot import material

    found = material(cloud, certificates(), owner, signer())
    return tuple(add_file(target, f"{SECURE_BOOT}/{name}", data) for name, data in found)


def certificates() -> Certificates:
    """The certificates of ``keys/``."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from ..clouds.secure_boot import Certificates
    from ..formats import secureboot_keys

    pem = {role: keys.certificate_path(role) for role in keys.ROLES}
    der = [
        secureboot_keys.load_certificate(path.read_bytes(), f"keys/{path.name}").public_bytes(Encoding.DER)
        for path in pem.values()
    ]
    return Certificates(pk=der[0], kek=der[1], db=der[2])


def signer() -> Sign:
    """What signs with the private keys of ``keys/``."""
    from ..formats import efi_auth, secureboot_keys

    signers: dict[str, Callable[[bytes], bytes]] = {}

    def sign(role: str, data: bytes) -> bytes:
        if role not in signers:
            path = keys.key_path(role)
            signers[role] = efi_auth.rsa_signer(
                secureboot_keys.load_key(path.read_bytes(), f"keys/{path.name}")
            )
        return signers[role](data)

    return sign


def fingerprints(found: Certificates) -> tuple[Fingerprint, ...]:
    """SHA-256 of each certificate."""
    der = (found.pk, found.kek, found.db)
    return tuple(
        Fingerprint(role=role, sha256=hashlib.sha256(data).hexdigest())
        for role, data in zip(keys.ROLES, der, strict=True)
    )


def raise_findings(name: str, findings: Sequence[object]) -> None:
    """Returns if a cloud has nothing to say against the finished disk.

    Raises:
        FormatError: it has.
    """
    if findings:
        raise FormatError(name, "; ".join(str(item) for item in findings))
