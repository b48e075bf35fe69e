from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path

import pytest

from recipes.formats.gzip import compress_gzip
from tests.support import require_tool

pytestmark = pytest.mark.tool

CONTENT = {
    "empty": b"",
    "one byte": b"a",
    "text": b"".join(b"%d: the quick brown fox, %x\n" % (number, number**5) for number in range(9000)),
    "zeros": bytes(3_000_000),
    "noise": random.Random(1).randbytes(400_000),
    "both": bytes(200_000) + random.Random(2).randbytes(200_000) + bytes(100) * 900,
}


def packed(data: bytes) -> bytes:
    out = io.BytesIO()
    compress_gzip(io.BytesIO(data), out)
    return out.getvalue()


def run(*argv: str, data: bytes) -> bytes:
    done = subprocess.run([require_tool(argv[0]), *argv[1:]], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.mark.parametrize("name", CONTENT)
def test_gnu_gzip_and_busybox_unpack(name: str) -> None:
    data = CONTENT[name]
    stream = packed(data)
    assert run("gzip", "-t", data=stream) == b""
    assert run("gzip", "-dc", data=stream) == data
    assert run("busybox", "gunzip", "-c", data=stream) == data


def test_a_program_is_hardly_larger_than_gnu_gzip_makes_it() -> None:
    """Machine code is what an initramfs is full of; the program itself serves as an example."""
    data = Path(require_tool("busybox")).read_bytes()
    stream = packed(data)
    assert run("busybox", "gunzip", "-c", data=stream) == data
    assert run("gzip", "-dc", data=stream) == data
    assert len(stream) < 1.15 * len(run("gzip", "-6nc", data=data))


def test_gnu_gzip_knows_no_name_and_no_time(tmp_path: Path) -> None:
    path = tmp_path / "archive.gz"
    path.write_bytes(packed(CONTENT["text"]))
    listed = subprocess.run([require_tool("gzip"), "-lvN", path], capture_output=True, text=True, check=True)
    fields = listed.stdout.splitlines()[1].split()
    assert fields[0] == "defla"
    assert int(fields[6]) == len(CONTENT["text"])
    assert fields[-1] == str(tmp_path / "archive")
