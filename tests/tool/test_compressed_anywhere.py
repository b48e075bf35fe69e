"""Compressed bytes do not depend on the processor: QEMU plays old and new ones, and all make the same."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

# Of x86: with SSE2 and SSE3 alone; with SSE4.2 and carry-less multiplication; with AVX2 and all else
# that QEMU has. Of ARM: with NEON and CRC-32; with everything.
PROCESSORS = {
    "x86_64": ("qemu64", "Westmere", "max"),
    "aarch64": ("cortex-a53", "max"),
}

PROGRAM = """
import hashlib, io, random, sys
from recipes.disks.compressed import DEFLATE, ZLIB, ZSTD
from recipes.formats.gzip import compress_gzip

chance = random.Random(7)
copies, runs = bytearray(), bytearray()
while len(copies) < 600_000:
    copies += bytes(chance.choices(b"abcdefgh\\0", k=200)) + copies[-chance.randrange(1, 40_000):][:100]
while len(runs) < 200_000:
    runs += chance.randbytes(chance.randrange(1, 40)) + bytes(chance.randrange(1, 300))
    runs += bytes((chance.randrange(256),)) * chance.randrange(1, 300)
with open(sys.argv[1], "rb") as file:
    program = file.read(700_000)
text = b"".join(b"%d: the quick brown fox, %x\\n" % (number, number**5) for number in range(5000))
for name, data in {
    "nothing": b"", "short": b"abcabcabc", "zeros": bytes(200_000), "noise": chance.randbytes(200_000),
    "copies": bytes(copies), "runs": bytes(runs), "text": text, "program": program,
}.items():
    out = io.BytesIO()
    compress_gzip(io.BytesIO(data), out, workers=2)
    print(name, "gzip", hashlib.sha256(out.getvalue()).hexdigest())
    for codec in (DEFLATE, ZLIB, ZSTD):
        compress, state = codec.compressor(), hashlib.sha256()
        for start in range(0, len(data), 65536):
            state.update(compress(data[start:start + 65536]))
        print(name, codec.name, state.hexdigest())
"""


def digests(*emulator: str) -> str:
    """What the program prints on this processor, or on one that QEMU plays."""
    done = subprocess.run(
        [*emulator, sys.executable, "-c", PROGRAM, str(Path(sys.executable).resolve())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def here() -> str:
    """What this processor makes."""
    found = digests()
    assert len(set(found.split())) > 8 * 3
    return found


@pytest.mark.parametrize("processor", PROCESSORS.get(platform.machine(), ()))
def test_another_processor_makes_the_same(here: str, processor: str) -> None:
    emulator = require_tool(f"qemu-{platform.machine()}")
    assert digests(emulator, "-cpu", processor) == here
