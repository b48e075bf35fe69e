from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from recipes.steps import digests
from recipes.steps.digests import DigestCache, Sha256Checker, intact, read_sidecar, sidecar, sidecar_text

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4, of no bytes
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, of "abc"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    cache = DigestCache(tmp_path / "cache" / "digests.json")
    monkeypatch.setattr(digests, "DIGESTS", cache)
    return cache


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    found: list[str] = []
    original = hashlib.file_digest

    def file_digest(file: Any, name: str) -> Any:
        found.append(Path(file.name).name)
        return original(file, name)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    return found


def test_a_file_is_hashed_once(tmp_path: Path, cache: DigestCache, hashed: list[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert [cache.sha256(path) for _ in range(3)] == [ABC] * 3
    assert hashed == ["file"]


def test_what_was_learnt_is_kept(tmp_path: Path, cache: DigestCache, hashed: list[str]) -> None:
    path, gone = tmp_path / "file", tmp_path / "gone"
    path.write_bytes(b"abc")
    gone.write_bytes(b"")
    assert (cache.sha256(path), cache.sha256(gone)) == (ABC, EMPTY)
    gone.unlink()
    cache.save()
    again = DigestCache(tmp_path / "cache" / "digests.json")
    assert again.sha256(path) == ABC
    assert hashed == ["file", "gone"]
    assert list(json.loads((tmp_path / "cache" / "digests.json").read_text())) == [str(path)]


def test_other_bytes_under_the_same_size_and_time_are_noticed(tmp_path: Path, cache: DigestCache) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abd")
    before = path.stat()
    assert cache.sha256(path) != ABC
    path.write_bytes(b"abc")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.sha256(path) == ABC


def test_another_file_of_the_same_name_is_noticed(tmp_path: Path, cache: DigestCache) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"abd")
    assert cache.sha256(path) != ABC
    other.write_bytes(b"abc")
    other.replace(path)
    assert cache.sha256(path) == ABC


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "17", '"x"', '{"FILE": 1}', '{"FILE": null}', '{"FILE": []}'),
        *('{"FILE": [1]}', '{"FILE": {"a": 1}}', '{"FILE": "text"}', '{"FILE": [1, 2, 3, 4, "00"]}'),
        "\udcff",
    ],
)
def test_a_damaged_cache_costs_time_only(tmp_path: Path, text: str) -> None:
    path, store = tmp_path / "file", tmp_path / "digests.json"
    path.write_bytes(b"abc")
    store.write_bytes(text.replace("FILE", str(path)).encode("utf-8", "surrogateescape"))
    cache = DigestCache(store)
    assert cache.sha256(path) == ABC
    cache.save()
    assert json.loads(store.read_text())[str(path)][-1] == ABC


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"abc")
    cache = DigestCache(tmp_path / "taken" / "digests.json")
    assert cache.sha256(tmp_path / "taken") == ABC
    cache.save()
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_processes_that_learn_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_bytes(b"abc")
    first, second = (DigestCache(tmp_path / "digests.json") for _ in range(2))
    assert (first.sha256(one), second.sha256(other)) == (ABC, ABC)
    first.save()
    second.save()
    assert sorted(json.loads((tmp_path / "digests.json").read_text())) == [str(one), str(other)]


def test_a_file_has_changed_when_its_bytes_have(tmp_path: Path, cache: DigestCache) -> None:
    path, checker = tmp_path / "file", Sha256Checker()
    path.write_bytes(b"abc")
    state = checker.get_state(str(path), None)
    assert state == ABC
    assert not checker.check_modified(str(path), path.stat(), state)
    path.touch()
    assert not checker.check_modified(str(path), path.stat(), state)
    assert checker.get_state(str(path), state) is None
    path.write_bytes(b"")
    assert checker.check_modified(str(path), path.stat(), state)
    assert checker.get_state(str(path), state) == EMPTY


def test_what_cannot_be_read_counts_as_changed(tmp_path: Path, cache: DigestCache) -> None:
    assert Sha256Checker().check_modified(str(tmp_path), tmp_path.stat(), ABC)


def test_a_sidecar_says_what_a_product_is(tmp_path: Path, cache: DigestCache) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"abc")
    assert sidecar(path) == tmp_path / "disk.raw.digest.json"
    assert sidecar_text(path) == f'{{"sha256": "{ABC}", "size": 3}}\n'
    sidecar(path).write_text(sidecar_text(path))
    assert read_sidecar(path) == (3, ABC)


def test_intact_are_products_that_are_what_their_sidecars_say(tmp_path: Path, cache: DigestCache) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_bytes(b"abc")
        sidecar(path).write_text(sidecar_text(path))
    check = intact((one, other))
    assert check(None, None)
    other.write_bytes(b"abd")
    assert not check(None, None)
    other.write_bytes(b"abc")
    assert check(None, None)
    by_hand = f'{{"sha256": "{ABC}", "size": 4}}'
    for damage in ("", "{}", "[]", '{"sha256": 1}', '{"size": "x", "sha256": ""}', by_hand):
        text = sidecar(one).read_text()
        sidecar(one).write_text(damage)
        assert not check(None, None), damage
        sidecar(one).write_text(text)
    sidecar(other).unlink()
    assert not check(None, None)
    other.unlink()
    assert not check(None, None)


def test_another_name_of_a_file_is_not_hashed(tmp_path: Path, cache: DigestCache, hashed: list[str]) -> None:
    path, new, kit = tmp_path / "file", tmp_path / "new", tmp_path / "kit"
    path.write_bytes(b"abc")
    assert cache.sha256(path) == ABC
    new.mkdir()
    (new / "link").hardlink_to(path)
    assert cache.sha256(path) == ABC
    new.rename(kit)
    assert cache.sha256(kit / "link") == ABC
    (kit / "link").unlink()
    assert cache.sha256(path) == ABC
    assert hashed == ["file"]


def test_other_bytes_under_several_names_are_noticed(tmp_path: Path, cache: DigestCache) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"abd")
    link.hardlink_to(path)
    assert cache.sha256(path) != ABC
    before = path.stat()
    link.write_bytes(b"abc")
    assert (cache.sha256(path), cache.sha256(link)) == (ABC, ABC)
    link.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.sha256(path) == cache.sha256(link) != ABC


def test_what_an_older_version_remembered_is_forgotten(
    tmp_path: Path, cache: DigestCache, hashed: list[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    stat = path.stat()
    row = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, EMPTY]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digests.json").write_text(json.dumps({str(path): row}))
    assert cache.sha256(path) == ABC
    assert hashed == ["file"]
