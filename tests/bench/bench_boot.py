"""How long the boot files take, beside tools that do the same.

A UKI with 32 MiB of random payload is assembled, hashed, signed and verified; it goes into a 64 MiB EFI
system partition, which is read back.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from recipes.formats import authenticode, secureboot_keys, uki
from recipes.formats.authenticode_verify import verify
from recipes.formats.fat import write
from recipes.formats.fat_reader import FatFilesystem
from recipes.formats.tree import FilePayload
from recipes.formats.uki import UkiSection
from recipes.units import MIB
from tests.bench.common import Row, measure
from tests.unit.boot_images import kernel, signing_key, stub

HERE = "tests.bench.bench_boot"
PAYLOAD = 32 * MIB
ESP_SIZE = 64 * MIB
BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"


def rows() -> list[Row]:
    """The measured jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "db.key").write_bytes(signing_key().private_key)
        (folder / "db.pem").write_bytes(signing_key().certificate)
        job_build(name)
        size = (folder / "uki.efi").stat().st_size
        build = measure("uki.build", size, f"{HERE}:job_build", name, runs=3)
        digests = measure("authenticode.image_digests, 4 banks", size, f"{HERE}:job_digests", name, runs=3)
        plain = measure("hashlib, the same 4 banks", size, f"{HERE}:job_hashlib", name, runs=3)
        sign = measure("authenticode.sign", size, f"{HERE}:job_sign", name, runs=3)
        check = measure("authenticode_verify.verify", size, f"{HERE}:job_verify", name, runs=3)
        esp = measure("fat.write", size, f"{HERE}:job_write_esp", name, runs=3)
        back = measure("fat_reader", size, f"{HERE}:job_read_esp", name, runs=3)
        keys = ("--key", folder / "db.key", "--cert", folder / "db.pem")
        sbsign = ("sbsign", *keys, "--output", folder / "out.efi", folder / "uki.efi")
        mcopy = ("mcopy", "-D", "o", "-i", folder / "esp", folder / "signed.efi", f"::/{BOOT_PATH}")
        return [
            build,
            digests.against(plain, "hashlib"),
            plain,
            *_beside(sign, size, "sbsign", sbsign),
            *_beside(check, size, "sbverify", ("sbverify", *keys[2:], folder / "signed.efi")),
            *_beside(esp, size, "mcopy", mcopy),
            back,
        ]


def _beside(row: Row, size: int, program: str, argv: Sequence[str | Path]) -> list[Row]:
    """Our row with its ratio to another program's, where that is installed."""
    if shutil.which(program) is None:
        return [row]
    theirs = measure(program, size, argv, runs=3)
    return [row.against(theirs, program), theirs]


def job_build(folder: str) -> None:
    """Assembles the UKI."""
    payload = random.Random(1).randbytes(PAYLOAD)
    sections = [
        UkiSection(".linux", kernel()),
        UkiSection(".initrd", payload),
        UkiSection(".cmdline", b"console=ttyS0"),
    ]
    Path(folder, "uki.efi").write_bytes(uki.build(stub(), sections))


def job_digests(folder: str) -> None:
    """Its Authenticode digest in four banks."""
    authenticode.image_digests(Path(folder, "uki.efi").read_bytes())


def job_hashlib(folder: str) -> None:
    """The same bytes through the same hashes, and nothing else."""
    data = Path(folder, "uki.efi").read_bytes()
    for name in ("sha1", "sha256", "sha384", "sha512"):
        hashlib.new(name, data).digest()


def job_sign(folder: str) -> None:
    """Signs it."""
    key = secureboot_keys.load_key(Path(folder, "db.key").read_bytes(), "db.key")
    certificate = secureboot_keys.load_certificate(Path(folder, "db.pem").read_bytes(), "db.pem")
    signed = authenticode.sign(Path(folder, "uki.efi").read_bytes(), key, certificate)
    Path(folder, "signed.efi").write_bytes(signed)


def job_verify(folder: str) -> None:
    """Verifies the signed one."""
    certificate = secureboot_keys.load_certificate(Path(folder, "db.pem").read_bytes(), "db.pem")
    verify(Path(folder, "signed.efi").read_bytes(), [certificate])


def job_write_esp(folder: str) -> None:
    """Puts it into an EFI system partition."""
    path = Path(folder, "signed.efi")
    with Path(folder, "esp").open("wb") as out:
        files = {BOOT_PATH: FilePayload(path, 0, path.stat().st_size)}
        write(out, size=ESP_SIZE, volume_id=1, label="ESP", epoch=1700000000, files=files)


def job_read_esp(folder: str) -> None:
    """Reads it back."""
    with Path(folder, "esp").open("rb") as file:
        FatFilesystem.open(file, 0, "esp").file(BOOT_PATH).read()
