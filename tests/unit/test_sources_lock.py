from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import SpecError
from recipes.sources import lock
from recipes.sources.lock import Asked, Lock, LockedPackage

TEXT = """\
# What this image is made of: every Debian package by version and digest.
# Made by `python3 dodo.py update:demo`, which resolves the recipe again; do not edit.
suite: trixie
architecture: amd64
epoch: 1752311531
request:
  initramfs: []
  rootfs: [adduser, libc6]
packages:
- {name: adduser, version: '3.152', architecture: all, sha256: DIGEST1, size: 190932, source: adduser, \
source_version: '3.152', filename: pool/main/a/adduser/adduser_3.152_all.deb, groups: [rootfs]}
- {name: libc6, version: 2.41-12+deb13u4, architecture: amd64, sha256: 'DIGEST2', size: 2846580, \
source: glibc, source_version: '1:2', groups: [initramfs, rootfs]}
""".replace("DIGEST1", "ab" * 32).replace("DIGEST2", "12" * 32)

AGAIN = "run `python3 dodo.py update:` for the image, which makes it again"
LOCK = Lock(
    suite="trixie",
    architecture="amd64",
    epoch=1752311531,
    request=(Asked("initramfs", ()), Asked("rootfs", ("adduser", "libc6"))),
    packages=(
        LockedPackage(
            name="adduser",
            version="3.152",
            architecture="all",
            sha256=b"\xab" * 32,
            size=190932,
            source="adduser",
            source_version="3.152",
            groups=("rootfs",),
            filename="pool/main/a/adduser/adduser_3.152_all.deb",
        ),
        LockedPackage(
            name="libc6",
            version="2.41-12+deb13u4",
            architecture="amd64",
            sha256=b"\x12" * 32,
            size=2846580,
            source="glibc",
            source_version="1:2",
            groups=("initramfs", "rootfs"),
        ),
    ),
)


def complaint(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        lock.parse(text if isinstance(text, bytes) else text.encode(), "x.lock")
    return str(caught.value)


def test_text_and_value() -> None:
    assert lock.dump(LOCK, image="demo") == TEXT
    assert lock.parse(TEXT.encode(), "x.lock") == LOCK


def test_packages_are_sorted() -> None:
    asked = (Asked("rootfs", ("libc6", "adduser")), Asked("initramfs", ()))
    turned = replace(LOCK, packages=LOCK.packages[::-1], request=asked)
    assert lock.dump(turned, image="demo") == TEXT
    assert lock.parse(lock.dump(turned).encode(), "x.lock") == LOCK


def test_groups() -> None:
    assert [package.name for package in LOCK.group("rootfs")] == ["adduser", "libc6"]
    assert [package.name for package in LOCK.group("initramfs")] == ["libc6"]
    assert LOCK.group("kernel") == ()


def test_empty() -> None:
    empty = Lock(suite="sid", architecture="arm64", epoch=0, packages=())
    assert lock.parse(lock.dump(empty).encode(), "x.lock") == empty


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "demo.lock"
    with pytest.raises(SpecError) as caught:
        lock.load(path)
    assert str(caught.value) == f"{path}: there is no lock; run `python3 dodo.py update:demo`, which makes it"
    path.write_text(TEXT)
    assert lock.load(path) == LOCK


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("suite: trixie\n", "", f"x.lock:3:1: suite is missing; {AGAIN}"),
        ("suite: trixie", "suite: Trixie", "x.lock:3:8: 'Trixie' is not a suite such as trixie"),
        ("suite: trixie", "suite: 13", "x.lock:3:8: 13 is not text to YAML; write '13'"),
        ("suite: trixie", "suite: [a]", "x.lock:3:8: expected a suite such as trixie"),
        ("suite: trixie", "suite: a\nsuite: b", "x.lock:4:1: suite is there twice"),
        (
            "suite: trixie",
            "suite: a\nmore: b",
            "x.lock:4:1: unknown key more; known are suite, architecture, epoch, request, packages",
        ),
        ("epoch: 1752311531", "epoch: -1", "x.lock:5:8: '-1' is not a whole number"),
        ("epoch: 1752311531", "epoch: 0x10", "x.lock:5:8: '0x10' is not a whole number"),
        ("epoch: 1752311531", "epoch: '1'", "x.lock:5:8: '1' is not a whole number"),
        ("epoch: 1752311531", "epoch: [1]", "x.lock:5:8: this is not a whole number"),
        (
            "epoch: 1752311531",
            "epoch: 9999999999999999",
            "x.lock:5:8: '9999999999999999' is not a whole number",
        ),
        (
            "request:\n  initramfs: []\n  rootfs: [adduser, libc6]\n",
            "",
            f"x.lock:3:1: request is missing; {AGAIN}",
        ),
        (
            "\n  initramfs: []\n  rootfs: [adduser, libc6]\n",
            " [a]\n",
            "x.lock:6:10: expected a mapping from groups to lists of package names",
        ),
        ("  initramfs: []", "  initramfs: busybox", "x.lock:7:14: expected a list"),
        ("  initramfs: []", "  initramfs: [B]", "x.lock:7:15: 'B' is not a package name"),
        ("  initramfs: []", "  initramfs: [ab, ab]", "x.lock:7:19: package ab is there twice"),
        ("  initramfs: []", "  rootfs: []", "x.lock:8:3: group rootfs is there twice"),
        (
            "  initramfs: []",
            "  A: []\n  B: []",
            "x.lock:7:3: 'A' is not a group name\nx.lock:8:3: 'B' is not a group name",
        ),
        ("name: adduser", "name: Add_User", "x.lock:10:10: 'Add_User' is not a package name"),
        ("name: adduser", "name: -f", "x.lock:10:10: '-f' is not a package name"),
        (
            "version: '3.152', arch",
            "version: 3.152, arch",
            "x.lock:10:28: 3.152 is not text to YAML; write '3.152'",
        ),
        ("version: '3.152', arch", "version: 'a b', arch", "x.lock:10:28: 'a b' is not a package version"),
        (
            "architecture: all",
            "architecture: arm64",
            "x.lock:10:51: architecture is arm64, expected amd64 or all",
        ),
        (
            "abab,",
            "abA,",
            f"x.lock:10:64: '{'ab' * 30}abA' is not a SHA-256, 64 hexadecimal digits in lower case",
        ),
        ("size: 190932", "size: none", "x.lock:10:136: 'none' is not a whole number"),
        ("[rootfs]", "[]", "x.lock:10:247: a package belongs to one group at least"),
        ("[rootfs]", "rootfs", "x.lock:10:247: expected a list"),
        ("[rootfs]", "[rootfs, rootfs]", "x.lock:10:256: group rootfs is there twice"),
        (
            "pool/main/a/",
            "/pool/",
            "x.lock:10:196: '/pool/adduser/adduser_3.152_all.deb' is not a path below the archive's root",
        ),
        (
            "pool/main/a/",
            "pool/../",
            "x.lock:10:196: 'pool/../adduser/adduser_3.152_all.deb' is not a path below the archive's root",
        ),
        ("name: libc6, ", "", "x.lock:11:3: name is missing"),
        (
            "- {name: libc6",
            "- x\n- {name: libc6",
            (
                "x.lock:11:3: expected a mapping with name, version, architecture, sha256, size, "
                "source, source_version, groups"
            ),
        ),
        ("suite: trixie", "suite: &a trixie", "x.lock:3:8: anchors and aliases have no place in a lock"),
        ("suite: trixie", "suite: *a", "x.lock:3:8: anchors and aliases have no place in a lock"),
        ("suite: trixie", "suite: [[[[[[", "x.lock:3:11: nested more than 4 deep"),
        (
            "suite: trixie",
            "suite: {",
            "x.lock:5:6: not YAML: while parsing a flow mapping did not find expected ',' or '}'",
        ),
    ],
)
def test_mistakes(old: str, new: str, message: str) -> None:
    assert old in TEXT
    assert complaint(TEXT.replace(old, new, 1)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"",
            f"x.lock:1:1: the lock is empty; {AGAIN}",
        ),
        (b"- a\n", "x.lock:1:1: expected a mapping with suite, architecture, epoch, request, packages"),
        (b"a: \xff\n", "x.lock:1:1: not YAML: 'utf-8' codec can't decode byte #xff: invalid start byte"),
    ],
)
def test_other_texts(text: bytes, message: str) -> None:
    if b"\xff" in text:
        assert complaint(text).startswith("x.lock:1:1: not YAML: ")
    else:
        assert complaint(text) == message


def test_a_package_twice_and_all_mistakes_at_once() -> None:
    text = TEXT.replace("epoch: 1752311531", "epoch: soon") + TEXT.splitlines()[-1] + "\n"
    assert complaint(text) == (
        "x.lock:5:8: 'soon' is not a whole number\nx.lock:12:3: package libc6 (amd64) is there twice"
    )


# Texts that YAML 1.1 reads as numbers, dates, booleans or nothing unless they are quoted.
WORDS = st.sampled_from(
    ["on", "no", "null", "1e3", "1.5", "0x10", "2024-01-02", "2024-99-99", "1:30", "0", "3.0~rc1"]
)
VERSIONS = st.one_of(WORDS, st.from_regex(r"([0-9]{1,2}:)?[0-9A-Za-z][0-9A-Za-z.+~:-]{0,6}", fullmatch=True))
NAMES = st.one_of(
    st.sampled_from(["on", "no", "null", "1e3", "yes"]),
    st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,6}", fullmatch=True),
)
GROUPS = st.sampled_from(["rootfs", "null", "on", "1e3"])
PACKAGES = st.builds(
    LockedPackage,
    name=NAMES,
    version=VERSIONS,
    architecture=st.sampled_from(["all", "amd64"]),
    sha256=st.one_of(st.just(b"\x12" * 32), st.just(b"\x12\xe3" * 16), st.binary(min_size=32, max_size=32)),
    size=st.integers(0, 1 << 40),
    source=NAMES,
    source_version=VERSIONS,
    groups=st.sampled_from([("rootfs",), ("initramfs", "rootfs"), ("null",), ("on",)]),
    filename=st.sampled_from(["", "pool/main/1", "1.5", "a_1%3a2~3+b.deb"]),
)


@settings(max_examples=60)
@given(
    st.lists(PACKAGES, max_size=4, unique_by=lambda package: (package.name, package.architecture)),
    st.dictionaries(GROUPS, st.sets(NAMES, max_size=3), max_size=3),
)
def test_round_trip(packages: list[LockedPackage], asked: dict[str, set[str]]) -> None:
    value = Lock(
        suite="trixie",
        architecture="amd64",
        epoch=1,
        packages=tuple(sorted(packages, key=lambda p: p.key)),
        request=tuple(Asked(name, tuple(sorted(asked[name]))) for name in sorted(asked)),
    )
    text = lock.dump(value)
    assert lock.parse(text.encode(), "x.lock") == value
    # Another reader takes every word for text too.
    plain = yaml.safe_load(text)["packages"]
    assert sorted((item["name"], item["version"]) for item in plain) == [
        item.key[:2] for item in value.packages
    ]


@settings(max_examples=100)
@given(
    st.integers(0, len(TEXT)),
    st.one_of(st.binary(max_size=4), st.text("{}[]:,&*!|>'\"%@`#-? \n\tab01", max_size=6)),
)
def test_mutations_never_escape(offset: int, patch: bytes | str) -> None:
    data = TEXT.encode()
    data = data[:offset] + (patch if isinstance(patch, bytes) else patch.encode()) + data[offset:]
    with contextlib.suppress(SpecError):
        lock.parse(data, "x.lock")


@settings(max_examples=60)
@given(st.binary(max_size=80))
def test_random_bytes_never_escape(data: bytes) -> None:
    with pytest.raises(SpecError):
        lock.parse(data, "x.lock")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000])
def test_deep_nesting(text: str) -> None:
    assert "nested more than 4 deep" in complaint(text)
