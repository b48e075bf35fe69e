"""Locks and downloads by the real apt-get, from an archive made by the test."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from recipes.errors import SpecError, ToolError
from recipes.sources import apt
from recipes.sources.lock import Asked, Lock, LockedPackage
from recipes.sources.mirror import Archives
from recipes.sources.request import Closure, Group, Request
from tests.packages import EPOCH, Repository
from tests.support import require_tool

pytestmark = pytest.mark.tool

GROUPS = (
    Group("rootfs", ("app",)),
    Group("kernel", ("linux-image-cloud",), Closure.KERNEL),
    Group("firmware", ("ovmf",), Closure.NONE),
)


def request(groups: Sequence[Group]) -> Request:
    return Request(
        image="demo", recipe="demo.yaml", suite="trixie", architecture="amd64", groups=tuple(groups)
    )


@dataclass
class World:
    """An archive, a cache and what was reported."""

    folder: Path
    repository: Repository
    warnings: list[str] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    snapshot: str = ""

    @property
    def archives(self) -> Archives:
        uri = self.repository.uri
        return Archives(main=uri, security=uri, snapshot=self.snapshot, trusted=True)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def resolve(self, groups: Sequence[Group] = GROUPS) -> Lock:
        self.repository.publish()
        return apt.resolve("trixie", "amd64", groups, self.folder / "work", archives=self.archives)

    def fetch(self, lock: Lock, groups: Sequence[Group] = GROUPS, *, locked_only: bool = False) -> Lock:
        self.repository.publish()
        return apt.fetch(
            lock,
            self.cache,
            self.folder / "work",
            request=request(groups),
            locked_only=locked_only,
            notify=self.warnings.append,
            progress=lambda done, total: self.progress.append((done, total)),
            archives=self.archives,
        )

    def cached(self) -> set[bytes]:
        """Digests of what the cache holds; each file is named after its own."""
        digests = set()
        for path in self.cache.iterdir():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert path.name == f"{digest}.deb"
            digests.add(bytes.fromhex(digest))
        return digests


@pytest.fixture
def world(tmp_path: Path) -> World:
    require_tool("apt-get")
    repository = Repository(tmp_path / "archive with space".replace(" ", "-"))
    repository.add("app", "1:1.0", "Depends: lib (>= 1)\nRecommends: extra\nSource: app-src (1:1.0+b)\n")
    repository.add("lib", "1.0", "Source: lib-src\n")
    repository.add("lib-data", "1.0", "Source: lib-src\n", architecture="all")
    repository.add("extra")
    repository.add("initramfs-tools")
    repository.add("linux-image-6.1-cloud", "6.1", "Depends: initramfs-tools\nSource: linux\n")
    more = "Depends: linux-image-6.1-cloud (= 6.1), initramfs-tools\nSource: linux\n"
    repository.add("linux-image-cloud", "6.1", more)
    repository.add("ovmf", "2025", "Depends: not-there\n", architecture="all")
    return World(tmp_path, repository)


def versions(lock: Lock, group: str = "") -> dict[str, str]:
    return {package.name: package.version for package in (lock.group(group) if group else lock.packages)}


def one(lock: Lock, name: str) -> LockedPackage:
    return next(package for package in lock.packages if package.name == name)


def test_resolve(world: World) -> None:
    world.repository.add("lib", "1.1", "Source: lib-src\nDepends: lib-data\n", release="trixie-updates")
    fixed = world.repository.add("app", "1:1.0+deb13u1", "Depends: lib (>= 1)\n", release="trixie-security")
    lock = world.resolve()
    assert (lock.suite, lock.architecture, lock.epoch) == ("trixie", "amd64", EPOCH)
    assert lock.request == (
        Asked("firmware", ("ovmf",)),
        Asked("kernel", ("linux-image-cloud",)),
        Asked("rootfs", ("app",)),
    )
    assert versions(lock, "rootfs") == {"app": "1:1.0+deb13u1", "lib": "1.1", "lib-data": "1.0"}
    assert versions(lock, "kernel") == {"linux-image-cloud": "6.1", "linux-image-6.1-cloud": "6.1"}
    assert versions(lock, "firmware") == {"ovmf": "2025"}
    assert one(lock, "app") == LockedPackage(
        name="app",
        version="1:1.0+deb13u1",
        architecture="amd64",
        sha256=hashlib.sha256(fixed).digest(),
        size=len(fixed),
        source="app",
        source_version="1:1.0+deb13u1",
        groups=("rootfs",),
        filename="pool/main/app_11.0+deb13u1_amd64.deb",
    )
    assert one(lock, "lib-data").architecture == "all"
    assert (one(lock, "lib").source, one(lock, "lib").source_version) == ("lib-src", "1.1")


def test_a_package_in_two_groups(world: World) -> None:
    lock = world.resolve([Group("rootfs", ("app",)), Group("initramfs", ("lib",))])
    assert one(lock, "lib").groups == ("initramfs", "rootfs")
    assert one(lock, "app").groups == ("rootfs",)


def test_unknown_packages(world: World) -> None:
    with pytest.raises(SpecError) as caught:
        world.resolve(
            [Group("rootfs", ("ap", "lib")), Group("kernel", ("linux-image-clowd",), Closure.KERNEL)]
        )
    assert str(caught.value) == (
        "package ap: trixie has no such package; did you mean app?\n"
        "package linux-image-clowd: trixie has no such package; "
        "did you mean linux-image-cloud or linux-image-6.1-cloud?"
    )


def test_unmet_dependencies(world: World) -> None:
    with pytest.raises(ToolError, match="ovmf : Depends: not-there but it is not installable"):
        world.resolve([Group("rootfs", ("ovmf",))])


def test_fetch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = world.resolve()
    assert world.fetch(lock, locked_only=True) == lock
    assert world.cached() == {package.sha256 for package in lock.packages}
    total = sum(package.size for package in lock.packages)
    assert world.progress[0] == (0, total)
    assert world.progress[-1] == (total, total)
    assert world.warnings == []
    assert sorted(path.name for path in (world.folder / "work").iterdir()) == ["trixie-amd64"]
    monkeypatch.setenv("PATH", str(world.folder))  # no apt-get there
    assert world.fetch(lock, locked_only=True) is lock


def test_a_damaged_file_is_fetched_again(world: World) -> None:
    lock = world.resolve()
    world.fetch(lock)
    path = apt.cached_path(world.cache, one(lock, "lib"))
    path.write_bytes(bytes(len(path.read_bytes())))
    world.progress.clear()
    assert world.fetch(lock) == lock
    assert world.cached() == {package.sha256 for package in lock.packages}
    assert world.progress[-1] == (one(lock, "lib").size,) * 2


def test_a_version_that_is_gone_is_refused(world: World) -> None:
    lock = world.resolve()
    world.repository.drop("app", "lib")
    world.repository.add("app", "1:1.1")
    with pytest.raises(SpecError) as caught:
        world.fetch(lock, locked_only=True)
    assert str(caught.value) == (
        "lock of demo: trixie no longer has app 1:1.0, lib 1.0; "
        "run `python3 dodo.py update:demo`, or set GOLDSMITH_SNAPSHOT"
    )


def test_a_version_that_is_gone_is_substituted(world: World) -> None:
    world.repository.add("app", "1:1.0", "Depends: lib (>= 1), lib-data\n")
    lock = world.resolve()
    world.repository.drop("lib", "lib-data")
    world.repository.add("lib", "1.2", "Source: lib-src\nDepends: new\n")
    world.repository.add("lib-data", "1.2", "Source: lib-src\n", architecture="all")
    world.repository.add("new", "5")
    world.repository.add("app", "1:2.0", "Depends: lib, lib-data\n")  # not needed, so not taken
    used = world.fetch(lock)
    assert versions(used, "rootfs") == {"app": "1:1.0", "lib": "1.2", "lib-data": "1.2", "new": "5"}
    assert (used.epoch, used.request) == (lock.epoch, lock.request)
    assert [package for package in used.packages if package.name in ("app", "ovmf")] == [
        one(lock, "app"),
        one(lock, "ovmf"),
    ]
    assert world.cached() == {package.sha256 for package in used.packages}
    [warning] = world.warnings
    assert warning == (
        "lock of demo: trixie no longer has lib 1.0, lib-data 1.0; building with lib 1.0 -> 1.2, "
        "lib-data 1.0 -> 1.2, new (new) -> 5; run `python3 dodo.py update:demo` to lock these"
    )
    # The substitutes are a lock like any other.
    assert world.fetch(used, locked_only=True) is used


def test_all_binaries_of_a_source_go_together(world: World) -> None:
    world.repository.add("app", "1:1.0", "Depends: lib (>= 1), lib-data\n")
    lock = world.resolve()
    # lib-data 1.0 is still there, but lib is not.
    world.repository.drop("lib")
    world.repository.add("lib", "1.2", "Source: lib-src\n")
    world.repository.add("lib-data", "1.2", "Source: lib-src\n", architecture="all")
    assert versions(world.fetch(lock), "rootfs") == {"app": "1:1.0", "lib": "1.2", "lib-data": "1.2"}


def test_a_cached_version_that_is_gone_stays(world: World) -> None:
    lock = world.resolve()
    world.fetch(lock)
    world.repository.drop("app", "lib")
    world.repository.add("app", "1:2.0", "Depends: lib\n")
    world.repository.add("lib", "1.2", "Source: lib-src\n")
    assert world.fetch(lock, locked_only=True) is lock
    apt.cached_path(world.cache, one(lock, "lib")).unlink()
    used = world.fetch(lock)
    assert versions(used, "rootfs") == {"app": "1:1.0", "lib": "1.2"}
    assert one(used, "app") == one(lock, "app")


def test_a_kernel_with_a_new_name(world: World) -> None:
    lock = world.resolve()
    world.repository.drop("linux-image-cloud", "linux-image-6.1-cloud")
    world.repository.add("linux-image-6.2-cloud", "6.2", "Depends: initramfs-tools\nSource: linux\n")
    world.repository.add(
        "linux-image-cloud", "6.2", "Depends: linux-image-6.2-cloud (= 6.2)\nSource: linux\n"
    )
    used = world.fetch(lock)
    assert versions(used, "kernel") == {"linux-image-cloud": "6.2", "linux-image-6.2-cloud": "6.2"}
    assert versions(used, "rootfs") == versions(lock, "rootfs")
    [warning] = world.warnings
    assert warning == (
        "lock of demo: trixie no longer has linux-image-6.1-cloud 6.1, linux-image-cloud 6.1; building with "
        "linux-image-6.1-cloud 6.1 -> (gone), linux-image-6.2-cloud (new) -> 6.2, "
        "linux-image-cloud 6.1 -> 6.2; run `python3 dodo.py update:demo` to lock these"
    )


def test_a_recipe_that_changed_alone_is_refused_before_anything_is_fetched(world: World) -> None:
    lock = world.resolve()
    for groups, message in (
        (GROUPS[:2], "firmware: ovmf is in the lock, and is asked for no more"),
        (
            (Group("rootfs", ("app", "lib"), place="rootfs.packages"), *GROUPS[1:]),
            "rootfs.packages: lib is in the lock only because another package needs it",
        ),
        ((Group("rootfs", ("app", "extra")), *GROUPS[1:]), "rootfs: extra is not in the lock"),
    ):
        with pytest.raises(SpecError) as caught:
            world.fetch(lock, groups)
        assert str(caught.value) == f"demo.yaml: {message}; run `python3 dodo.py update:demo`"
    assert not world.cache.exists()


def test_a_lock_that_lost_a_dependency(world: World) -> None:
    lock = world.resolve()
    rest = replace(lock, packages=tuple(item for item in lock.packages if item.name != "lib"))
    with pytest.raises(SpecError) as caught:
        world.fetch(rest)
    assert str(caught.value) == (
        "lock of demo: app 1:1.0 needs lib (>= 1), which group rootfs lacks; "
        "run `python3 dodo.py update:demo`"
    )


def test_a_row_that_was_edited(world: World) -> None:
    lock = world.resolve()
    world.fetch(lock)
    wrong = replace(one(lock, "lib"), version="1.1")
    changed = replace(lock, packages=tuple(wrong if item.name == "lib" else item for item in lock.packages))
    with pytest.raises(SpecError) as caught:
        world.fetch(changed)
    assert str(caught.value).splitlines()[0] == (
        "lock of demo: lib 1.1 amd64: version is 1.1, but the package with this sha256 says 1.0; "
        "run `python3 dodo.py update:demo`"
    )


def test_a_new_dependency_that_another_group_has_locked(world: World) -> None:
    groups = [Group("rootfs", ("extra",)), Group("initramfs", ("lib",))]
    lock = world.resolve(groups)
    world.repository.drop("extra")
    world.repository.add("extra", "2", "Depends: lib\n")
    world.repository.add("lib", "1.2", "Source: lib-src\n", release="trixie-updates")
    used = world.fetch(lock, groups)
    assert versions(used) == {"extra": "2", "lib": "1.0"}
    assert one(used, "lib").groups == ("initramfs", "rootfs")


def test_substitutes_that_do_not_fit(world: World) -> None:
    lock = world.resolve()
    world.repository.drop("lib")
    world.repository.add("lib", "2.0", "Source: lib-src\nBreaks: app (<< 1:2)\n")
    world.repository.add("app", "1:2.0", "Depends: lib\n")
    with pytest.raises(ToolError, match="the packages that are locked do not fit those that replace"):
        world.fetch(lock)
    assert world.warnings == []


def test_a_package_that_left_for_good(world: World) -> None:
    lock = world.resolve()
    world.repository.drop("ovmf")
    with pytest.raises(SpecError, match="package ovmf: trixie has no such package"):
        world.fetch(lock)


def test_other_bytes_under_the_same_version(world: World) -> None:
    lock = world.resolve()
    digest = one(lock, "lib").sha256
    size = one(lock, "lib").size
    wrong = replace(one(lock, "lib"), sha256=bytes(32))
    changed = replace(lock, packages=tuple(wrong if item.name == "lib" else item for item in lock.packages))
    with pytest.raises(SpecError) as caught:
        world.fetch(changed)
    assert str(caught.value) == (
        f"lock of demo: lib 1.0 should have sha256 {'00' * 32} and {size} bytes, "
        f"the archive's has {digest.hex()} and {size}; "
        "find out why before you run `python3 dodo.py update:demo`"
    )
    assert world.cached() == set()


def test_a_file_that_is_not_what_the_index_says(world: World) -> None:
    lock = world.resolve()
    path = world.repository.folder / one(lock, "lib").filename
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ToolError, match="lib could not be downloaded; try again, what is complete is kept"):
        world.fetch(lock)
    kept = world.cached()
    assert one(lock, "lib").sha256 not in kept
    assert kept <= {package.sha256 for package in lock.packages}


def test_a_snapshot(world: World, tmp_path: Path) -> None:
    lock = world.resolve()
    # The snapshot of the moment has not got lib yet, the one of a day later has.
    for stamp, names in (("20250712T091211Z", ("lib",)), ("20250713T091211Z", ())):
        past = Repository(tmp_path / "snapshots/debian" / stamp)
        past.stanzas = dict(world.repository.stanzas)
        past.drop(*names)
        past.publish()
        (past.folder / "pool").symlink_to(world.repository.folder / "pool")
        security = tmp_path / "snapshots/debian-security" / stamp
        security.parent.mkdir(parents=True, exist_ok=True)
        security.symlink_to(past.folder)
    world.snapshot = f"file:{tmp_path}/snapshots"
    world.repository.drop("app", "lib")
    world.repository.add("app", "1:2.0")
    world.repository.add("lib", "2.0")
    assert world.fetch(lock, locked_only=True) == lock
    assert world.cached() == {package.sha256 for package in lock.packages}
    assert world.warnings == []


def test_an_archive_without_signature(world: World) -> None:
    world.repository.publish()
    archives = replace(world.archives, trusted=False)
    with pytest.raises(ToolError, match="cannot be checked: install the package debian-archive-keyring"):
        apt.resolve("trixie", "amd64", GROUPS, world.folder / "work", archives=archives)


@contextmanager
def made_key(gpg: str, home: Path) -> Iterator[Path]:
    """A key without passphrase, as the file with its public half; the agent that made it ends with it."""
    home.mkdir(mode=0o700)
    common = [gpg, "--homedir", str(home), "--batch", "--quiet", "--no-tty", "--passphrase", ""]
    public = home / "public.gpg"
    try:
        subprocess.run(
            [*common, "--quick-gen-key", "test", "ed25519", "sign"], check=True, capture_output=True
        )
        subprocess.run([*common, "--output", str(public), "--export"], check=True, capture_output=True)
        yield public
    finally:
        stop = [require_tool("gpgconf"), "--homedir", str(home), "--kill", "all"]
        subprocess.run(stop, check=True, capture_output=True)


def test_signed_archives(world: World, tmp_path: Path) -> None:
    gpg, _ = require_tool("gpg"), require_tool("gpgv")
    folder = Path(os.path.relpath(tmp_path))
    with made_key(gpg, folder / "k1") as right, made_key(gpg, folder / "k2") as wrong:
        world.repository.publish()
        for release in sorted(world.repository.folder.glob("dists/*/Release")):
            argv = [gpg, "--homedir", str(folder / "k1"), "--batch", "--quiet", "--clearsign", "--output"]
            subprocess.run(
                [*argv, str(release.with_name("InRelease")), str(release)], check=True, capture_output=True
            )
    uri = world.repository.uri
    archives = Archives(main=uri, security=uri, keyring=right.resolve())
    lock = apt.resolve("trixie", "amd64", GROUPS, world.folder / "work", archives=archives)
    assert versions(lock, "rootfs") == {"app": "1:1.0", "lib": "1.0"}
    archives = replace(archives, keyring=wrong.resolve())
    with pytest.raises(ToolError, match="the signature of an archive cannot be checked") as caught:
        apt.resolve("trixie", "amd64", GROUPS, world.folder / "other", archives=archives)
    assert "NO_PUBKEY" in str(caught.value) or "Missing key" in str(caught.value)


def test_no_archive(world: World) -> None:
    archives = replace(world.archives, main=f"file:{world.folder}/nothing")
    with pytest.raises(
        ToolError, match="check the network and the proxy, or set GOLDSMITH_MIRROR to another"
    ):
        apt.resolve("trixie", "amd64", GROUPS, world.folder / "work", archives=archives)


def test_the_machine_s_own_state_is_left_alone(world: World) -> None:
    def state() -> list[tuple[str, int, int]]:
        folders = [Path("/var/lib/apt"), Path("/var/cache/apt"), Path("/etc/apt")]
        paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
        return [(str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths]

    before = state()
    world.fetch(world.resolve())
    assert state() == before


def test_hooks_of_the_machine_are_not_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, configuration = world.folder / "marker", world.folder / "apt.conf"
    configuration.write_text(
        f'APT::Update::Pre-Invoke {{ "touch {marker}"; }};\n'
        f'APT::Update::Post-Invoke {{ "touch {marker}"; }};\n'
        'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; "i386"; };\nAPT::Default-Release "sid";\n'
        'APT::Install-Recommends "true";\nAcquire::GzipIndexes "true";\nDir::State::lists "/nowhere";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    assert versions(world.resolve(), "rootfs") == {"app": "1:1.0", "lib": "1.0"}
    assert not marker.exists()
