from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from recipes.errors import FormatError, SpecError, ToolError
from recipes.sources import apt, aptget, index, mirror
from recipes.sources.aptget import AptGet
from recipes.sources.lock import Asked, Lock, LockedPackage
from recipes.sources.mirror import Archives
from recipes.sources.request import Closure, Group, Request
from tests.packages import DATE, EPOCH, control, deb

ARCHIVES = Archives(main="file:/main", security="file:/security", keyring=Path("/keys/debian.pgp"))
REQUEST = Request(
    image="demo",
    recipe="demo.yaml",
    suite="trixie",
    architecture="amd64",
    groups=(Group("rootfs", ("hello",), place="rootfs.packages"),),
)
CONTENT = deb(control("hello"))
# Answers of apt-get come from a script of this name, first on PATH; it writes down what it was asked.
FAKE = """#!/bin/sh
echo "$LC_ALL $@" >> {log}
case "$*" in
{cases}
*) exit 0 ;;
esac
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tmp_path / "asked"


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **cases: tuple[int, str, str]) -> None:
    """An apt-get that answers with status, output and messages where its arguments have a word in them."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    lines = []
    for word, (status, output, messages) in cases.items():
        (folder / f"{word}.out").write_text(output)
        (folder / f"{word}.err").write_text(messages)
        lines.append(f"*{word}*) cat {folder}/{word}.out; cat {folder}/{word}.err >&2; exit {status} ;;")
    script = folder / "apt-get"
    script.write_text(FAKE.format(log=tmp_path / "asked", cases="\n".join(lines)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in (mirror.MIRROR, mirror.SECURITY_MIRROR, mirror.SNAPSHOT):
        monkeypatch.delenv(name, raising=False)


def locked(data: bytes, name: str = "hello") -> LockedPackage:
    return LockedPackage(
        name=name,
        version="1",
        architecture="amd64",
        sha256=hashlib.sha256(data).digest(),
        size=len(data),
        source=name,
        source_version="1",
        groups=("rootfs",),
    )


def fetch(tmp_path: Path, *packages: LockedPackage, locked_only: bool = False) -> Lock:
    lock = Lock(
        suite="trixie",
        architecture="amd64",
        epoch=0,
        request=(Asked("rootfs", ("hello",)),),
        packages=packages,
    )
    return apt.fetch(
        lock,
        tmp_path / "cache",
        tmp_path / "work",
        request=REQUEST,
        locked_only=locked_only,
        notify=pytest.fail,
        progress=lambda done, total: None,
        archives=ARCHIVES,
    )


def test_everything_cached_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path
) -> None:
    fake(tmp_path, monkeypatch)
    package = locked(CONTENT)
    (tmp_path / "cache").mkdir()
    apt.cached_path(tmp_path / "cache", package).write_bytes(CONTENT)
    lock = fetch(tmp_path, package, locked_only=True)
    assert lock.packages == (package,)
    assert not asked.exists()
    assert not (tmp_path / "work").exists()
    assert apt.cached_path(tmp_path / "cache", package).name == f"{hashlib.sha256(CONTENT).hexdigest()}.deb"


@pytest.mark.parametrize("content", [b"", b"contenT", b"content!"])
def test_a_damaged_cache_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path, content: bytes
) -> None:
    fake(tmp_path, monkeypatch, update=(100, "", "E: Some index files failed to download.\n"))
    package = locked(b"content")
    (tmp_path / "cache").mkdir()
    apt.cached_path(tmp_path / "cache", package).write_bytes(content)
    with pytest.raises(ToolError):
        fetch(tmp_path, package)
    assert asked.read_text().startswith("C -c ")


def test_what_apt_get_brings_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, digest = locked(b"content"), hashlib.sha256(b"content").hexdigest()
    listing = f"Package: hello\nVersion: 1\nArchitecture: amd64\nSize: 7\nSHA256: {digest}\n"
    (tmp_path / "Packages").write_text(listing)
    fake(tmp_path, monkeypatch, indextargets=(0, f"{tmp_path}/Packages\n", ""), download=(0, "", ""))
    script = tmp_path / "bin/apt-get"
    script.write_text(
        script.read_text().replace("*download*)", "*download*) echo other > hello_1_amd64.deb;")
    )
    with pytest.raises(SpecError) as caught:
        fetch(tmp_path, package)
    other = hashlib.sha256(b"other\n").hexdigest()
    assert str(caught.value) == (
        f"lock of demo: hello 1 should have sha256 {digest} and 7 bytes, the archive's has {other} and 6; "
        "find out why before you run `python3 dodo.py update:demo`"
    )
    assert list((tmp_path / "cache").iterdir()) == []


# --- where the archives are

DEBIAN = "http://m.example/debian/\t{0}\tmain\t{1}\t{2}\t{3}\n"
SECURITY = "http://m.example/debian-security/\t{0}\tmain\t{1}\t{2}\t{3}\n"


def discover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, **environment: str) -> Archives:
    fake(tmp_path, monkeypatch, indextargets=(0, rows, ""))
    monkeypatch.setattr(mirror, "KEYRINGS", ())
    return mirror.discover(environment)


@pytest.mark.parametrize(
    "rows",
    [
        DEBIAN.format("bookworm", "Debian", "Debian", "")
        + SECURITY.format("bookworm-security", "Debian", "Debian-Security", ""),
        DEBIAN.format("bookworm", "", "", "") + SECURITY.format("bookworm-security", "", "", ""),
        SECURITY.format("bookworm-security", "", "", "") + DEBIAN.format("bookworm", "", "", ""),
        "http://other.example/debian/\tstable\tmain\tOther\tOther\t\n"
        "http://more.example/apt/\tstable\tmain\t\t\t\n"
        "http://back.example/debian/\tbookworm-backports\tmain\t\t\t\n"
        "http://m.example/debian/\tbookworm\tcontrib\tDebian\tDebian\t\n"
        + DEBIAN.format("bookworm", "Debian", "Debian", "")
        + SECURITY.format("bookworm-security", "Debian", "Debian-Security", ""),
    ],
)  # fmt: skip
def test_the_machine_s_own_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path, rows: str
) -> None:
    found = discover(tmp_path, monkeypatch, rows)
    assert found == Archives(main="http://m.example/debian", security="http://m.example/debian-security")
    assert asked.read_text().startswith("C indextargets --format ")


def test_a_machine_that_has_never_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path
) -> None:
    printed = (
        "'http://m.example/debian/dists/trixie/InRelease' m.example_InRelease 0 \n"
        "'http://o.example/other/dists/x/main/binary-amd64/Packages.xz' o.example_Packages 0 \n"
        "'http://m.example/debian/dists/trixie/main/binary-amd64/Packages.xz' m.example_Packages 0 \n"
        "'http://m.example/debian/dists/trixie/main/binary-all/Packages.xz' m.example_Packages 0 \n"
        "'http://m.example/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz' m 0 \n"
    )
    fake(tmp_path, monkeypatch, indextargets=(0, "", ""), update=(0, printed, ""))
    monkeypatch.setattr(mirror, "KEYRINGS", ())
    found = mirror.discover({})
    assert found == Archives(main="http://m.example/debian", security="http://m.example/debian-security")
    assert "update --print-uris" in asked.read_text()


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    found = discover(
        tmp_path,
        monkeypatch,
        "",
        GOLDSMITH_MIRROR="file:/srv/debian/",
        GOLDSMITH_SECURITY_MIRROR="none",
        GOLDSMITH_SNAPSHOT="http://s.example/archive",
    )
    assert found == Archives(main="file:/srv/debian", security="", snapshot="http://s.example/archive")
    assert not asked.exists()


def test_a_mirror_with_the_machine_s_security_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = SECURITY.format("bookworm-security", "", "", "")
    found = discover(tmp_path, monkeypatch, rows, GOLDSMITH_MIRROR="file:/srv/debian")
    assert found == Archives(main="file:/srv/debian", security="http://m.example/debian-security")


@pytest.mark.parametrize(
    ("rows", "environment", "message"),
    [
        (
            "http://archive.example/ubuntu/\tnoble\tmain\tUbuntu\tUbuntu\t\n",
            {},
            (
                "GOLDSMITH_MIRROR: this machine's apt knows no Debian archive; set it to the URI of a "
                "mirror, the folder that has dists/ and pool/"
            ),
        ),
        (
            DEBIAN.format("bookworm", "", "", ""),
            {},
            (
                "GOLDSMITH_SECURITY_MIRROR: this machine's apt knows no archive of Debian security "
                "updates; set it to the URI of one, or to `none` to go without"
            ),
        ),
        (
            "",
            {"GOLDSMITH_MIRROR": "/srv/debian"},
            "GOLDSMITH_MIRROR: '/srv/debian' is not a URI; write for example file:/srv/mirror/debian",
        ),
        (
            "",
            {"GOLDSMITH_MIRROR": "http://x/ [trusted=yes]"},
            (
                "GOLDSMITH_MIRROR: 'http://x/ [trusted=yes]' is not a URI; write for example "
                "file:/srv/mirror/debian"
            ),
        ),
    ],
)  # fmt: skip
def test_no_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        discover(tmp_path, monkeypatch, rows, **environment)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "text", "line", "named"),
    [
        ("d.sources", "Types: deb\nURIs: x\nSigned-By: KEY\n\nTypes: deb\nSigned-By: OTHER\n", 1, True),
        ("d.sources", "Types: deb\nSigned-By: OTHER\n\nTypes: deb\nURIs: x\nsigned-by:  KEY\n", 4, True),
        ("d.sources", "Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n", 1, False),
        ("d.list", "deb [signed-by=OTHER] a b\ndeb [arch=amd64 signed-by=KEY] x y\n", 2, True),
        ("d.list", "deb x y\n", 1, False),
        ("d.list", "deb x y\n", 9, False),
    ],
)  # fmt: skip
def test_the_key_that_the_sources_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, line: int, named: bool
) -> None:
    key, other = tmp_path / "key.pgp", tmp_path / "other.pgp"
    key.touch()
    other.touch()
    sources = tmp_path / name
    sources.write_text(text.replace("KEY", str(key)).replace("OTHER", str(other)))
    place = f"{sources}:{line}"
    rows = DEBIAN.format("bookworm", "", "", place) + SECURITY.format("bookworm-security", "", "", place)
    assert discover(tmp_path, monkeypatch, rows).keyring == (key if named else None)


def test_the_lines_of_a_release() -> None:
    options = "[arch=amd64 target=Packages signed-by=/keys/debian.pgp]"
    assert ARCHIVES.sources("trixie", "amd64") == (
        f"deb {options} file:/main trixie main\n"
        f"deb {options} file:/main trixie-updates main\n"
        f"deb {options} file:/security trixie-security main\n"
    )
    assert ARCHIVES.sources("sid", "amd64") == f"deb {options} file:/main sid main\n"


def test_the_lines_of_the_past() -> None:
    archives = Archives(main="file:/main", security="", snapshot="http://s.example/archive")
    options = "[arch=arm64 target=Packages check-valid-until=no]"
    assert archives.past_sources("sid", "arm64", EPOCH) == (
        f"deb {options} http://s.example/archive/debian/20250712T091211Z sid main\n"
        f"deb {options} http://s.example/archive/debian/20250713T091211Z sid main\n"
    )


# --- what apt-get says


def test_no_apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError, match=r"apt-get: not found; Debian packages need apt-get; install the package apt"
    ):
        mirror.discover({})
    with pytest.raises(
        ToolError, match=r"apt-get: not found; Debian packages need apt-get; install the package apt"
    ):
        AptGet(tmp_path / "work", "amd64", "").update()


KEY_ADVICE = (
    "apt-get: exit status 100; the signature of an archive cannot be checked: install the package "
    "debian-archive-keyring, from a newer Debian release where this one's does not know the key yet\n"
)


@pytest.mark.parametrize(
    "message",
    [
        (
            "W: GPG error: x trixie InRelease: The following signatures couldn't be verified "
            "because the public key is not available: NO_PUBKEY 6ED0E7B82643E131\n"
            "E: The repository 'x trixie InRelease' is not signed.\n"
        ),
        (
            "W: OpenPGP signature verification failed: x trixie InRelease: Sub-process "
            "/usr/bin/sqv returned an error code (1), error message is: "
            "Missing key 4CB50190207B4758A3F73A796ED0E7B82643E131\n"
        ),
    ],
)  # fmt: skip
def test_a_missing_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    fake(tmp_path, monkeypatch, update=(100, "", message))
    with pytest.raises(ToolError) as caught:
        AptGet(tmp_path / "work", "amd64", "").update()
    assert str(caught.value).startswith(KEY_ADVICE)
    assert message.strip().splitlines()[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (100, "E: Failed to fetch http://m.example/ Could not resolve 'm.example'\n"),
        (0, "W: Failed to fetch http://m.example/ Could not resolve 'm.example'\n"),
    ],
)
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    fake(tmp_path, monkeypatch, update=(status, "", message))
    with pytest.raises(ToolError) as caught:
        AptGet(tmp_path / "work", "amd64", "").update()
    first, argv, last = str(caught.value).splitlines()
    advice = "check the network and the proxy, or set GOLDSMITH_MIRROR to another mirror"
    assert first == f"apt-get: exit status {status}; {advice}"
    assert argv == f"    $ apt-get -c {tmp_path}/work/apt.conf -qq update"
    assert last == f"    {message.strip()}"


def test_what_apt_get_would_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    output = (
        "Inst gcc-14-base (14.2.0-19 Debian:13.7/stable [amd64])\n"
        "Inst libc6 [2.40] (2.41-12+deb13u4 Debian:13.7/stable, Debian-Security:13/stable [amd64]) []\n"
        "Conf gcc-14-base (14.2.0-19 Debian:13.7/stable [amd64])\n"
        "Inst tzdata (1:2026f-0 Debian:13.7/stable [all])\n"
    )
    fake(tmp_path, monkeypatch, install=(0, output, ""))
    assert AptGet(tmp_path / "work", "amd64", "").simulate(["libc6=2.41-12+deb13u4", "tzdata"]) == [
        ("gcc-14-base", "14.2.0-19", "amd64"),
        ("libc6", "2.41-12+deb13u4", "amd64"),
        ("tzdata", "1:2026f-0", "all"),
    ]
    assert asked.read_text().endswith("-s --no-install-recommends install libc6=2.41-12+deb13u4 tzdata\n")


def test_nothing_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    fake(tmp_path, monkeypatch)
    own = AptGet(tmp_path / "work", "amd64", "")
    assert own.simulate([]) == own.candidates([]) == []
    assert not asked.exists()


def test_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = "'http://x/a_1.deb' libgmp10_2%3a6.3.0+dfsg-3_amd64.deb 562824 SHA256:00\n"
    fake(tmp_path, monkeypatch, download=(0, output, ""))
    own = AptGet(tmp_path / "work", "amd64", "")
    assert own.candidates(["libgmp10"]) == [("libgmp10", "2:6.3.0+dfsg-3", "amd64")]


def test_packages_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, install=(100, "x : Depends: y\n", "E: Unable to correct problems\n"))
    with pytest.raises(
        ToolError, match=r"(?s)exit status 100; advice\n.*x : Depends: y\n.*E: Unable to correct"
    ):
        AptGet(tmp_path / "work", "amd64", "").simulate(["x"], advice="advice")


def test_a_folder_that_apt_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="apt cannot work in a folder with such a name; use another"):
        AptGet(tmp_path / 'a"b', "amd64", "")


@pytest.mark.parametrize(("date", "moment"), [(DATE, EPOCH), ("Sat, 12 Jul 2025 09:12:11 -0000", EPOCH)])
def test_release_dates(tmp_path: Path, date: str, moment: int) -> None:
    own = AptGet(tmp_path, "amd64", "")
    assert own.newest_release() == 0
    lists = tmp_path / "state/lists"
    (lists / "a_InRelease").write_text(
        f"-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: x\nDate: {date}\nValid-Until: x\n"
    )
    (lists / "b_Release").write_text("Date: Fri, 11 Jul 2025 09:12:11 UTC\n")
    assert own.newest_release() == moment


@pytest.mark.parametrize("text", ["", "Date: soon\n", "Date: Sat, 12 Jul 99999 09:12:11 UTC\n"])
def test_bad_release_dates(tmp_path: Path, text: str) -> None:
    own = AptGet(tmp_path, "amd64", "")
    (tmp_path / "state/lists/a_InRelease").write_text(text)
    with pytest.raises(FormatError, match="a_InRelease: no date that can be read; fetch it again"):
        own.newest_release()


# --- what the indices say

PACKAGES = f"""Package: hello
Version: 1:2-3
Architecture: amd64
Source: hello-src (4)
Filename: pool/hello.deb
Size: 7
SHA256: {"ab" * 32}

Package: hello
Version: 1
Architecture: all

Package: help
Version: 1
Architecture: all
"""


@pytest.fixture
def indices(tmp_path: Path) -> list[Path]:
    path = tmp_path / "Packages"
    path.write_text(PACKAGES)
    return [path]


def test_listed(indices: list[Path]) -> None:
    listed = index.listed(indices, {"hello"})
    assert set(listed) == {("hello", "1:2-3", "amd64"), ("hello", "1", "all")}
    assert index.locked_package(("hello", "1:2-3", "amd64"), listed) == LockedPackage(
        name="hello",
        version="1:2-3",
        architecture="amd64",
        sha256=b"\xab" * 32,
        size=7,
        source="hello-src",
        source_version="4",
        groups=(),
        filename="pool/hello.deb",
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("hello", "1", "all"), "index: package hello 1: sha256 is '' and size is ''; use another mirror"),
        (
            ("hello", "9", "all"),
            "index: package hello 9: apt-get chose it, but no index lists it; update the lists again",
        ),
    ],
)
def test_bad_listings(indices: list[Path], key: aptget.Key, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        index.locked_package(key, index.listed(indices, {"hello"}))
    assert str(caught.value) == message


def test_unknown_packages(indices: list[Path]) -> None:
    index.check_known(["hello", "help"], "trixie", indices)
    with pytest.raises(SpecError) as caught:
        index.check_known(["hullo", "hello", "zzz"], "trixie", indices)
    assert str(caught.value) == (
        "package hullo: trixie has no such package; did you mean hello?\n"
        "package zzz: trixie has no such package; look for its name on a machine with that release"
    )


def test_closures_are_named() -> None:
    assert [closure.value for closure in Closure] == ["dependencies", "none", "kernel"]
