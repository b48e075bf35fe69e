from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from recipes.errors import VerifyError
from recipes.formats import verity
from tests.support import require_tool
from tests.unit.test_formats_verity import pattern

pytestmark = pytest.mark.tool

UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")


def veritysetup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [require_tool("veritysetup"), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def root_of(output: str) -> bytes:
    (line,) = [line for line in output.splitlines() if line.startswith("Root hash:")]
    return bytes.fromhex(line.split()[-1])


@pytest.mark.parametrize(
    ("blocks", "salt"),
    [
        (1, b"\x11" * 32),
        (2, b""),
        (127, b"\x01"),
        (128, b"\x11" * 32),
        (129, bytes(range(255))),
        (1000, bytes(256)),
        (16384, b"\x11" * 32),
        (16385, b""),
    ],
)
def test_hash_files_are_equal(tmp_path: Path, blocks: int, salt: bytes) -> None:
    data = tmp_path / "data"
    with data.open("wb") as file:  # data at both ends and a hole between
        ends = pattern(min(blocks, 3))
        file.write(ends)
        file.seek(max(blocks * 4096 - len(ends), 0))
        file.write(ends)
        assert file.tell() == blocks * 4096
    theirs = veritysetup(
        "format", data, tmp_path / "theirs", "--uuid", str(UUID), "--salt", salt.hex() or "-"
    )
    assert theirs.returncode == 0, theirs.stderr
    for workers in (1, 2):
        ours = verity.format(data, tmp_path / "ours", salt=salt, uuid=UUID, workers=workers)
        assert ours.root_hash == root_of(theirs.stdout)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert veritysetup("verify", data, tmp_path / "ours", ours.root_hash.hex()).returncode == 0
    verity.verify(data, tmp_path / "theirs", root_of(theirs.stdout))


def test_both_refuse_the_same_damage(tmp_path: Path) -> None:
    data, hashes = tmp_path / "data", tmp_path / "hashes"
    data.write_bytes(pattern(300))
    tree = verity.format(data, hashes, salt=b"salt", uuid=UUID)
    for path, offset in ((data, 299 * 4096 + 4095), (hashes, 4096 + 5), (hashes, 8192)):
        whole = path.read_bytes()
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x80]) + whole[offset + 1 :])
        assert veritysetup("verify", data, hashes, tree.root_hash.hex()).returncode != 0
        with pytest.raises(VerifyError):
            verity.verify(data, hashes, tree.root_hash)
        path.write_bytes(whole)


def test_dump_shows_the_superblock(tmp_path: Path) -> None:
    data, hashes = tmp_path / "data", tmp_path / "hashes"
    data.write_bytes(pattern(5))
    verity.format(data, hashes, salt=b"\xab\xcd", uuid=UUID)
    output = veritysetup("dump", hashes).stdout
    rows = {
        line.split(":")[0].strip(): line.split(":")[1].strip() for line in output.splitlines() if ":" in line
    }
    assert (rows["UUID"], rows["Data blocks"], rows["Salt"]) == (str(UUID), "5", "abcd")
    assert (rows["Hash algorithm"], rows["Hash type"]) == ("sha256", "1")
