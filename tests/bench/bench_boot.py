"""How long the boot files take, beside tools that do the same: ``python -m tests.bench.bench_boot``.

A UKI with 32 MB of random payload is assembled, hashed, signed and verified; it goes into a 64 MiB ESP, which
is read back. Times are the best of three, in seconds of wall clock.
"""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipes.formats import authenticode, uki
from recipes.formats.authenticode_verify import verify
from recipes.formats.fat import write
from recipes.formats.fat_reader import FatFilesystem
from recipes.formats.tree import FilePayload
from recipes.formats.uki import UkiSection
from recipes.units import MIB
from tests.unit.boot_images import kernel, key_pair, signing_key, stub

PAYLOAD = 32 * MIB
ESP_SIZE = 64 * MIB


@dataclass(frozen=True)
class Row:
    """One line of the table; ``foreign`` is the same work by another program, in seconds."""

    name: str
    seconds: float
    size: int
    foreign: float | None = None
    program: str = ""


def best(action: Callable[[], object], runs: int = 3) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def foreign(*argv: str | Path) -> float | None:
    """Seconds that another program takes, None where it is not installed."""
    if shutil.which(str(argv[0])) is None:
        return None
    return best(lambda: subprocess.run([str(part) for part in argv], check=True, capture_output=True))


def rows() -> list[Row]:
    """The measured lines."""
    with tempfile.TemporaryDirectory() as folder:
        return _rows(Path(folder))


def _rows(folder: Path) -> list[Row]:
    sections = [
        UkiSection(".linux", kernel()),
        UkiSection(".initrd", random.Random(1).randbytes(PAYLOAD)),
        UkiSection(".cmdline", b"console=ttyS0"),
    ]
    image = uki.build(stub(), sections)
    key, certificate = key_pair()
    signed = authenticode.sign(image, key, certificate)
    unsigned_path, signed_path, esp = folder / "uki.efi", folder / "BOOTX64.EFI", folder / "esp"
    unsigned_path.write_bytes(image)
    signed_path.write_bytes(signed)
    (folder / "db.key").write_bytes(signing_key().private_key)
    (folder / "db.pem").write_bytes(signing_key().certificate)
    keys = ("--key", folder / "db.key", "--cert", folder / "db.pem")
    payload = FilePayload(signed_path, 0, len(signed))

    def make_esp() -> None:
        with esp.open("wb") as out:
            files = {"EFI/BOOT/BOOTX64.EFI": payload}
            write(out, size=ESP_SIZE, volume_id=1, label="ESP", epoch=1700000000, files=files)

    make_esp()
    content = esp.read_bytes()

    def read_esp() -> bytes:
        return FatFilesystem.open(io.BytesIO(content), 0, "esp").file("EFI/BOOT/BOOTX64.EFI").read()

    return [
        Row("uki.build", best(lambda: uki.build(stub(), sections)), len(image)),
        Row("authenticode.image_digests (4)", best(lambda: authenticode.image_digests(image)), len(image)),
        Row(
            "authenticode.sign",
            best(lambda: authenticode.sign(image, key, certificate)),
            len(image),
            foreign("sbsign", *keys, "--output", folder / "out.efi", unsigned_path),
            "sbsign",
        ),
        Row(
            "authenticode_verify.verify",
            best(lambda: verify(signed, [certificate])),
            len(signed),
            foreign("sbverify", *keys[2:], signed_path),
            "sbverify",
        ),
        Row(
            "fat.write",
            best(make_esp),
            len(signed),
            foreign("mcopy", "-D", "o", "-i", esp, signed_path, "::/EFI/BOOT/BOOTX64.EFI"),
            "mcopy alone",
        ),
        Row("fat_reader", best(read_esp), len(signed)),
    ]


def main() -> None:
    """Prints the table."""
    for row in rows():
        speed = row.size / MIB / row.seconds
        other = f"   {row.program} {row.foreign:.3f} s" if row.foreign is not None else ""
        print(f"{row.name:32} {row.seconds:7.3f} s {speed:8.0f} MiB/s{other}")


if __name__ == "__main__":
    main()
