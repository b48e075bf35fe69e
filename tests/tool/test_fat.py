from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import FormatError
from recipes.formats.fat import write
from recipes.formats.fat_reader import FatFilesystem
from recipes.formats.tree import BytesPayload
from recipes.units import MIB
from tests.support import require_tool

pytestmark = pytest.mark.tool

EPOCH = 1700000000
ENVIRONMENT = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "0"}
SAMPLE = {
    "EFI/BOOT/BOOTX64.EFI": random.Random(1).randbytes(300_001),
    "EFI/Linux/debian-cvm.efi": b"uki" * 999,
    "EFI/Linux/debian-cvm.efi.extra.d/cred.cred": b"c",
    "loader/addons/x.addon.efi": b"",
    "loader/loader.conf": b"timeout 0\n",
    "loader/entries.srel": b"type1\n",
    "Mixed Case and spaces.Text": b"m" * 512,
    "größe/ünïcode.naïve": b"u" * 513,
    "exactly13chars": b"1",
    "README": b"R",
    "lower.txt": b"l",
}


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, check=False, env=ENVIRONMENT)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def make(path: Path, files: dict[str, bytes], size: int = 34 * MIB, label: str = "ESP") -> None:
    payloads = {name: BytesPayload(data) for name, data in files.items()}
    with path.open("wb") as out:
        write(out, size=size, volume_id=0x12345678, label=label, epoch=EPOCH, files=payloads)
    assert path.stat().st_size == size


def check(path: Path) -> str:
    output = run(require_tool("fsck.fat"), "-n", "-v", path)
    for complaint in (
        "differ",
        "Wrong",
        "wrong",
        "Bad",
        "bad",
        "expected",
        "Warning",
        "WARNING",
        "Orphan",
    ):
        assert complaint not in output, output
    return output


def extract(path: Path, out: Path) -> dict[str, bytes]:
    """What mtools copies out of a file system."""
    out.mkdir()
    run(require_tool("mcopy"), "-s", "-n", "-i", path, "::", out)
    return {
        str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()
    }


@pytest.mark.parametrize("size", [34 * MIB, 64 * MIB, 256 * MIB, 260 * MIB, 512 * MIB])
def test_fsck_and_mtools(size: int, tmp_path: Path) -> None:
    path = tmp_path / "esp"
    make(path, SAMPLE, size)
    # fsck counts the 7 directories and the label as well.
    assert f"{len(SAMPLE) + 8} files" in check(path)
    assert extract(path, tmp_path / "out") == SAMPLE


def test_free_space_is_not_written(tmp_path: Path) -> None:
    make(tmp_path / "esp", {"a": b"a"}, 512 * MIB)
    assert (tmp_path / "esp").stat().st_blocks * 512 < 1 * MIB


def test_mdir_shows_label_serial_and_times(tmp_path: Path) -> None:
    make(tmp_path / "esp", SAMPLE)
    output = run(require_tool("mdir"), "-i", tmp_path / "esp", "::")
    assert "Volume in drive : is ESP" in output
    assert "Volume Serial Number is 1234-5678" in output
    assert "README" in output
    lines = [line for line in output.splitlines() if line.startswith(("README", "EFI", "lower"))]
    assert len(lines) == 3
    # 1700000000 is 22:13:20 UTC on 2023-11-14.
    assert all("2023-11-14  22:13" in line for line in lines)


def test_directories_of_many_clusters(tmp_path: Path) -> None:
    files = {f"d/{number:05d}.bin": b"x" for number in range(700)}
    files |= {f"e/long file name {number}": b"" for number in range(200)}
    make(tmp_path / "esp", files)
    check(tmp_path / "esp")
    assert extract(tmp_path / "esp", tmp_path / "out") == files


def test_empty_file_system_without_label(tmp_path: Path) -> None:
    make(tmp_path / "esp", {}, label="")
    check(tmp_path / "esp")
    assert "has no label" in run(require_tool("mlabel"), "-s", "-i", tmp_path / "esp", "::")


def test_mtools_can_write_on(tmp_path: Path) -> None:
    """A foreign program adds, deletes and renames; we read what it left."""
    path, extra = tmp_path / "esp", tmp_path / "Extra file.addon.efi"
    extra.write_bytes(b"extra" * 1000)
    make(path, SAMPLE)
    run(require_tool("mcopy"), "-i", path, extra, "::/loader/addons/")
    run(require_tool("mdel"), "-i", path, "::/Mixed Case and spaces.Text", "::/README")
    run(require_tool("mren"), "-i", path, "::/lower.txt", "::/Renamed to long.txt")
    check(path)
    with path.open("rb") as file:
        filesystem = FatFilesystem.open(file, 0, "esp")
        found = {name: each.read() for name, each in filesystem.files.items()}
    expected = {
        **SAMPLE,
        "loader/addons/Extra file.addon.efi": extra.read_bytes(),
        "Renamed to long.txt": b"l",
    }
    for gone in ("Mixed Case and spaces.Text", "README", "lower.txt"):
        del expected[gone]
    assert found == expected


@pytest.mark.parametrize("maker", ["mformat", "mkfs.fat"])
def test_we_read_what_others_make(maker: str, tmp_path: Path) -> None:
    path, source = tmp_path / "disk", tmp_path / "source"
    with path.open("wb") as out:
        out.truncate(70 * MIB)
    offset = MIB
    where = f"{path}@@{offset}"
    if maker == "mformat":
        run(require_tool("mformat"), "-F", "-c", "1", "-T", str(130000), "-v", "ESP", "-i", where)
    else:
        run(
            require_tool("mkfs.fat"),
            "-F",
            "32",
            "-n",
            "ESP",
            "--offset",
            str(offset // 512),
            path,
            str(69 * 1024),
        )
    for name, data in SAMPLE.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    run(require_tool("mcopy"), "-s", "-i", where, *sorted(source.iterdir()), "::")
    with path.open("rb") as file:
        filesystem = FatFilesystem.open(file, offset, "disk")
        assert {name: each.read() for name, each in filesystem.files.items()} == SAMPLE


@pytest.mark.parametrize(("kind", "size"), [("12", 2), ("16", 16)])
def test_small_kinds_are_refused_by_name(kind: str, size: int, tmp_path: Path) -> None:
    with (tmp_path / "fat").open("wb") as out:
        out.truncate(size * MIB)
    run(require_tool("mkfs.fat"), "-F", kind, tmp_path / "fat")
    with (
        (tmp_path / "fat").open("rb") as file,
        pytest.raises(FormatError, match=f"this is FAT{kind}; only FAT32"),
    ):
        FatFilesystem.open(file, 0, "fat")


letters = st.sampled_from("abcXYZ019 .-_+~äÖ€")
components = st.text(letters, min_size=1, max_size=30).filter(
    lambda name: name[-1] not in ". " and name[0] not in " ."
)
paths = st.lists(components, min_size=1, max_size=3).map("/".join)


@settings(max_examples=20)
@given(st.dictionaries(paths, st.binary(max_size=2000), max_size=12))
def test_fsck_accepts_any_names(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("fat")
    try:
        make(folder / "esp", files)
    except FormatError as error:
        assert "same name" in str(error) or "both a file and a directory" in str(error)
        return
    check(folder / "esp")
    assert extract(folder / "esp", folder / "out") == files
