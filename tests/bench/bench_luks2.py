"""How fast a data segment is encrypted: ``python -m tests.bench.bench_luks2``.

The limit is one core of ``openssl speed`` with the same cipher and piece: it works on one buffer in the
cache, under one tweak. Ours sets a tweak for each sector, and reads and writes a file.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from recipes.formats import luks2
from recipes.formats.luks2_model import Argon2id, Expected, KdfBounds
from recipes.formats.luks2_segment import SectorCipher, encrypt_image
from recipes.units import MIB
from tests.bench.common import Row, measure, print_table

HERE = "tests.bench.bench_luks2"
SIZE = 256 * MIB
KEY = hashlib.shake_256(b"a key for benches").digest(64)


def rows() -> list[Row]:
    """The measured jobs."""
    with tempfile.TemporaryDirectory() as name:
        plain, out = Path(name, "plain"), Path(name, "out")
        with plain.open("wb") as file:
            for number in range(SIZE // MIB):
                file.write(hashlib.shake_256(number.to_bytes(4, "big")).digest(MIB))
        two = measure("luks2 encrypt_image, 2 workers", SIZE, f"{HERE}:job_image", plain, out, 2, runs=2)
        one = measure("luks2 encrypt_image, 1 worker", SIZE, f"{HERE}:job_image", plain, out, 1, runs=2)
    large = measure("aes-xts, sectors of 4096", SIZE, f"{HERE}:job_sectors", 4096, runs=2)
    small = measure("aes-xts, sectors of 512", SIZE, f"{HERE}:job_sectors", 512)
    slot = measure("luks2 format, argon2id 64 MiB x 4", 64 * MIB, f"{HERE}:job_format")
    found = [two.against(one, "1 worker", wall=True), one, large, small, slot]
    limit = _openssl()
    if limit is not None:
        label = "openssl speed"
        found[1:4] = [one.against(limit, label), large.against(limit, label), small.against(limit, label)]
        found.append(limit)
    return found


def _openssl() -> Row | None:
    """One core of openssl, for as many bytes as the other rows."""
    if shutil.which("openssl") is None:
        return None
    argv = ["openssl", "speed", "-mr", "-evp", "aes-256-xts", "-bytes", "4096", "-seconds", "2"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # Its machine-readable line ends in bytes a second.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("+F:")]
    seconds = SIZE / float(line.split(":")[-1])
    return Row("openssl speed -evp aes-256-xts -bytes 4096", SIZE, seconds, seconds, 0)


def job_image(plain: str, out: str, workers: str) -> None:
    """Encrypts a file into another."""
    Path(out).touch()
    encrypt_image(Path(plain), Path(out), key=KEY, offset=0, workers=int(workers))


def job_sectors(sector: str) -> None:
    """Encrypts as many bytes in memory, without a file."""
    cipher, piece = SectorCipher(KEY, int(sector)), bytes(MIB)
    for number in range(SIZE // MIB):
        cipher.encrypt(piece, number * (MIB // 512))


def job_format() -> None:
    """Formats a volume with one key slot of the default costs."""
    expected = Expected(keyslots=(KdfBounds(Argon2id()),))
    luks2.format(
        expected, uuid=uuid.UUID(int=1), seed=luks2.Seed(bytes(32)), volume_key=KEY, passphrases=[b"bench"]
    )


if __name__ == "__main__":
    print_table(rows())
