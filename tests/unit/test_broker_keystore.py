from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from recipes.broker.keystore import KeyFileError, KeyStore
from tests.unit.test_broker_guest import KEY, write_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys", data=KEY, root=KEY[:32])


def test_keys_are_read_and_zeroed(folder: Path) -> None:
    store = KeyStore(folder)
    assert store.volumes() == ("data", "root")
    with store.key("data") as found:
        assert found.data == KEY
        assert repr(found) == str(found) == "<key of data>"
    assert found.data == bytes(64)
    (folder / "data").write_bytes(KEY[::-1])
    with store.key("data") as found:
        assert found.data == KEY[::-1]


def refused(folder: Path, volume: str = "data") -> str:
    with pytest.raises(KeyFileError) as caught:
        KeyStore(folder).key(volume)
    return str(caught.value).removeprefix(str(folder))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o601, 0o620, 0o666])
def test_a_key_that_others_may_touch(folder: Path, mode: int) -> None:
    (folder / "data").chmod(mode)
    hint = f"`chmod 600 {folder}/data`, and replace keys that may have been read"
    assert refused(folder) == f"/data: mode {mode:04o} lets others in; {hint}"
    (folder / "data").chmod(0o400)
    with KeyStore(folder).key("data") as found:
        assert found.data == KEY


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755, 0o777])
def test_a_folder_that_others_may_enter(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    hint = f"`chmod 700 {folder}`, and replace keys that may have been read"
    what = f"mode {mode:04o} lets others in; {hint}"
    assert refused(folder) == f": {what}"
    with pytest.raises(KeyFileError, match=re.escape(what)):
        KeyStore(folder).volumes()


@pytest.mark.parametrize("size", [0, 31, 513, 4096])
def test_a_key_of_a_wrong_size(folder: Path, size: int) -> None:
    (folder / "data").write_bytes(bytes(size))
    what = f"key of {size} bytes, expected 32 to 512 raw ones; make one with `head -c 64 /dev/urandom`"
    assert refused(folder) == f"/data: {what}"


def test_what_is_no_key_file(folder: Path) -> None:
    assert refused(folder, "none") == "/none: No such file or directory; put the volume's key there"
    (folder / "link").symlink_to(folder / "data")
    assert refused(folder, "link").startswith("/link: Too many levels of symbolic links; ")
    os.mkfifo(folder / "pipe", 0o600)
    assert refused(folder, "pipe") == "/pipe: not a regular file; keep keys alone in this folder"
    (folder / "folder").mkdir(0o700)
    assert refused(folder, "folder") == "/folder: not a regular file; keep keys alone in this folder"
    assert refused(folder, "../keys/data").startswith(": '../keys/data' is no volume's name; ")
    assert refused(folder / "none").endswith("No such file or directory; put the volume's key there")
    assert refused(folder / "data").endswith("Not a directory; put the volume's key there")


def test_other_files_among_keys(folder: Path) -> None:
    (folder / ".hidden").touch(0o600)
    with pytest.raises(KeyFileError, match=r"'\.hidden' is no volume's name; keep keys alone in this folder"):
        KeyStore(folder).volumes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_keys_of_another_user(folder: Path) -> None:
    os.chown(folder / "data", 65534, 65534)
    assert refused(folder).startswith("/data: belongs to user 65534, this is user 0; ")
    os.chown(folder, 65534, 65534)
    assert refused(folder, "root").startswith(": belongs to user 65534, this is user 0; ")
