"""Files that decide whom the broker believes are refused where anybody else may have written them."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from recipes.broker import owned
from recipes.broker.config import read_golden, read_rules
from recipes.broker.endorsement import read_authorities
from recipes.broker.owned import check_owned, open_owned, read_owned
from recipes.broker.tee_policy import read_measurements
from recipes.errors import FormatError, ImageError, SpecError
from tests.unit.test_broker_trust import ROOT

GOLDEN = b'{"schema": 1, "image": "i", "version": "1", "artefacts": [], "unmeasured": [], "machines": []}'
HINT = "`chmod go-w` it, and look whom it makes the broker believe"


def put(path: Path, data: bytes = b"content", mode: int = 0o644) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "any": (lambda path: read_owned(path, 100), b"content"),
    "CAs": (lambda path: read_authorities([path]), ROOT.certificate.public_bytes(Encoding.PEM)),
    "rules": (read_rules, b"volumes: [{volume: data}]"),
    "golden": (read_golden, GOLDEN),
    "measurements": (read_measurements, b"ab" * 48),
}


@pytest.mark.parametrize("kind", READERS)
def test_what_others_may_write_is_not_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "_is_own_group", lambda found: False)
    read, data = READERS[kind]
    path = put(tmp_path / "file", data)
    expected = read(path)
    assert expected
    for mode in (0o664, 0o646, 0o666, 0o620):
        path.chmod(mode)
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: mode {mode:04o} lets others write; {HINT}"
    for mode in (0o400, 0o600, 0o755):
        path.chmod(mode)
        assert read(path) == expected
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ImageError, match=f"^{path}: not a regular file; "):
        read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("kind", READERS)
def test_what_is_anothers_is_not_read(tmp_path: Path, kind: str) -> None:
    read, data = READERS[kind]
    path = put(tmp_path / "file", data)
    os.chown(path, 4711, 4711)
    with pytest.raises(
        ImageError, match=f"^{path}: belongs to user 4711, this is user 0; whom to believe is"
    ):
        read(path)


def found_as(user: int, group: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, user, group, 0, 0, 0, 0))


# The owner's name, the group's, its members, and whether nobody else is in it.
# Of a file: its owner, its group, those who are in the group by its list, and those whose first group it is.
GROUPS: dict[str, tuple[str, str, list[str], list[str], bool]] = {
    "alone": ("builder", "builder", [], ["builder"], True),
    "named as member": ("builder", "builder", ["builder"], ["builder"], True),
    "another member": ("builder", "builder", ["builder", "other"], ["builder"], False),
    "another's only": ("builder", "builder", ["other"], [], False),
    "another's first": ("builder", "builder", [], ["builder", "other"], False),
    "a common group": ("builder", "users", [], [], False),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_one(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A umask of 002 is usual there, and a manifest in the output folder has it."""
    user, group, members, first, good = GROUPS[name]
    users = [SimpleNamespace(pw_name=each, pw_gid=77) for each in first]
    users.append(SimpleNamespace(pw_name="stranger", pw_gid=78))
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_name=user))
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name=group, gr_mem=members))
    here = os.geteuid()
    if good:
        check_owned(tmp_path, found_as(here, 77, 0o664), own_group=True)
        assert read_golden(put(tmp_path / "golden.json", GOLDEN, 0o664)).image == "i"
    for mode in (0o666, 0o646) if good else (0o664, 0o666):
        with pytest.raises(ImageError, match=f"mode {mode:04o} lets others write"):
            check_owned(tmp_path, found_as(here, 77, mode), own_group=True)
    # What an operator writes by hand has no such excuse.
    with pytest.raises(ImageError, match="mode 0664 lets others write"):
        check_owned(tmp_path, found_as(here, 77, 0o664))


def test_a_group_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> object:
        raise KeyError(number)

    for module, function in ((pwd, "getpwuid"), (grp, "getgrgid")):
        with monkeypatch.context() as patch:
            patch.setattr(module, function, unknown)
            with pytest.raises(ImageError, match="mode 0664 lets others write"):
                check_owned(tmp_path, found_as(os.geteuid(), os.getegid(), 0o664), own_group=True)


def test_roots_files_are_everybodys_to_believe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for user in (0, 1000):
        check_owned(tmp_path, found_as(user, user, 0o644))
    with pytest.raises(
        ImageError, match="belongs to user 1001, this is user 1000; whom to believe is its own"
    ):
        check_owned(tmp_path, found_as(1001, 1001, 0o600))


def test_the_file_that_is_read_is_the_one_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = put(tmp_path / "file"), put(tmp_path / "other", b"planted", 0o666)
    looked = owned.check_owned

    def swapped(path: Path, found: os.stat_result, *, own_group: bool = False) -> None:
        looked(path, found, own_group=own_group)
        other.replace(path)

    monkeypatch.setattr(owned, "check_owned", swapped)
    assert read_owned(path, 100) == b"content"
    assert path.read_bytes() == b"planted"


def test_a_folder_stays_the_one_that_was_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    put(folder / "b.pub", b"one")
    put(folder / "a.pub", b"two")
    put(folder / "a.txt")
    with open_owned(folder, "for keys") as opened:
        folder.rename(tmp_path / "moved")
        folder.mkdir(mode=0o777)
        put(folder / "a.pub", b"planted")
        assert {name: opened.read(name, 100) for name in opened.names(".pub")} == {
            "a.pub": b"two",
            "b.pub": b"one",
        }
        with pytest.raises(FileNotFoundError) as caught:
            opened.read("c.pub", 100)
        assert caught.value.filename == str(folder / "c.pub")
    with (
        pytest.raises(ImageError, match=f"^{tmp_path}/none: no folder; make it, for keys$"),
        open_owned(tmp_path / "none", "for keys"),
    ):
        pass


def test_files_are_read_to_a_bound(tmp_path: Path) -> None:
    path = put(tmp_path / "file", bytes(1001))
    assert len(read_owned(path, 1000)) == 1000
    put(path, bytes(2**20 + 1))
    with pytest.raises(SpecError, match=f"^{path}: more than 1048576 bytes; write a rule for each volume"):
        read_rules(path)
    with path.open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(FormatError, match=f"^{path}: more than 67108864 bytes; name a golden.json"):
        read_golden(path)
