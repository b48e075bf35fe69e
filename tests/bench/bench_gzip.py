"""How long a gzip file takes whose bytes never change: ``python -m tests.bench.bench_gzip``.

Works on the initramfs of the default image as it stands in ``out/``, which is programs, modules and scripts.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import zstandard

from recipes.formats.gzip import compress_gzip
from tests.bench.common import ROOT, Row, measure, print_table

HERE = "tests.bench.bench_gzip"
ARCHIVE = ROOT / "out" / "debian-cvm" / "initramfs.cpio.zst"


def rows() -> list[Row]:
    """The measured jobs; without a built image there is nothing to measure."""
    if not ARCHIVE.exists():
        return []
    with tempfile.TemporaryDirectory() as name:
        plain, ours, theirs = (Path(name, file) for file in ("plain", "ours", "theirs"))
        with ARCHIVE.open("rb") as source, plain.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(source, out)
        size = plain.stat().st_size
        two = measure("compress_gzip, 2 workers", size, f"{HERE}:job_gzip", plain, ours, 2, runs=2)
        one = measure("compress_gzip, 1 worker", size, f"{HERE}:job_gzip", plain, ours, 1, runs=2)
        made = ours.stat().st_size
        found = [two.against(one, "1 worker", wall=True), one]
        if shutil.which("gzip"):
            argv: list[str | Path] = ["/bin/sh", "-c", f"gzip -6nc '{plain}' > '{theirs}'"]
            gnu = measure("gzip -6", size, argv, runs=2)
            larger = 100 * made / theirs.stat().st_size - 100
            found = [found[0], one.against(gnu, f"gzip -6 ({larger:+.0f} % bytes)"), gnu]
        return found


def job_gzip(plain: str, out: str, workers: str) -> None:
    """Compresses a file."""
    with Path(plain).open("rb") as source, Path(out).open("wb") as target:
        compress_gzip(source, target, workers=int(workers))


if __name__ == "__main__":
    print_table(rows())
