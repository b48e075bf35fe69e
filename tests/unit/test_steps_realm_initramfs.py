"""The realm's archive as the step writes it, judged by gzip, by cpio and by the digests of its inputs."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from recipes.app_manager import AppManagerConfig, Rem
from recipes.errors import SpecError
from recipes.formats.p384 import SigningKey
from recipes.formats.tree import FileTree, NodeType
from recipes.schema.realm import ApplicationSpec, FileSpec, ManagerSpec
from recipes.sources import lock as locks
from recipes.steps import packages
from recipes.steps.keys import write_key
from recipes.steps.realm import initramfs, keys
from tests.packages import EPOCH, Entry, control, deb, directory, entry, symlink, tar
from tests.support import require_tool
from tests.unit import test_sources_realm_initramfs as samples
from tests.unit.test_formats_elf import AARCH64, static

HELLO = ApplicationSpec(name="hello", version="1.0", packages=("x",), command=("/x",))
WEB = ApplicationSpec(name="web", layout="images/web")


STAND_IN = ManagerSpec()


@dataclass(frozen=True)
class Realm:
    """What the step reads, and where it writes."""

    root: Path

    def build(
        self,
        manager: ManagerSpec = STAND_IN,
        *,
        name: str = "initramfs.cpio.gz",
        modules: tuple[str, ...] = (),
        wanted: tuple[ApplicationSpec, ...] = (HELLO, WEB),
    ) -> bytes:
        target = self.root / "out" / name
        initramfs.build(
            target,
            lock=self.root / "lock",
            kernel_files=self.root / "kernel.tar",
            facts=self.root / "kernel.json",
            root_ca=self.root / "root-ca.pub",
            modules=modules,
            manager=manager,
            registry="registry.realm:8888",
            wanted=wanted,
        )
        return target.read_bytes()

    def given(self, name: str, data: bytes) -> FileSpec:
        (self.root / name).write_bytes(data)
        return FileSpec(path=name, sha256=hashlib.sha256(data).hexdigest())


def members(tree: FileTree) -> list[Entry]:
    """The tree as a package's data archive would have it."""
    found: dict[str, Entry] = {}
    for path, node in tree.sorted():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            found.setdefault(parent, directory(f"./{parent}/"))
        if node.type is NodeType.FILE:
            found[path] = entry(f"./{path}", node.read(), mode=node.mode & 0o777)
        elif node.type is NodeType.SYMLINK:
            found[path] = symlink(f"./{path}", node.target)
    return list(found.values())


@pytest.fixture
def realm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Realm:
    monkeypatch.setattr(initramfs, "ROOT", tmp_path)
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "packages")
    for name in ("METADATA", "ROOT_CA", "VENDOR"):
        monkeypatch.setattr(keys, name, tmp_path / getattr(keys, name).name)
    data = deb(control("programs"), *members(samples.packages()))
    digest = hashlib.sha256(data)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / f"{digest.hexdigest()}.deb").write_bytes(data)
    package = locks.LockedPackage(
        name="programs",
        version="1",
        architecture="arm64",
        sha256=digest.digest(),
        size=len(data),
        source="programs",
        source_version="1",
        groups=("initramfs",),
    )
    lock = locks.Lock(suite="trixie", architecture="arm64", epoch=EPOCH, packages=(package,))
    (tmp_path / "lock").write_text(locks.dump(lock, image="realm"))
    (tmp_path / "kernel.tar").write_bytes(tar(*members(samples.kernel())))
    (tmp_path / "kernel.json").write_text(
        json.dumps({"release": samples.RELEASE, "package": "linux", "version": "1"})
    )
    (tmp_path / "root-ca.pub").write_bytes(samples.ROOT_CA)
    (tmp_path / "out").mkdir()
    return Realm(tmp_path)


def cpio(data: bytes, *arguments: str) -> bytes:
    command = [require_tool("cpio"), "--quiet", *arguments]
    return subprocess.run(command, input=gzip.decompress(data), capture_output=True, check=True).stdout


def listed(data: bytes) -> list[str]:
    """The archive's names in order, as cpio reads them."""
    return cpio(data, "-it").decode().split()


def extracted(data: bytes, path: str) -> bytes:
    return cpio(data, "-i", "--to-stdout", path)


def test_the_head_of_the_archive_says_nothing_of_its_making(realm: Realm) -> None:
    """RFC 1952: no flags (so no name), and no time."""
    data = realm.build()
    assert data[:8] == b"\x1f\x8b\x08\x00\0\0\0\0"
    plain = gzip.decompress(data)
    assert plain.startswith(b"070701")
    times = {int(plain[at + 46 : at + 54], 16) for at in headers(plain)}
    assert times <= {0, EPOCH}


def headers(plain: bytes) -> list[int]:
    """Offsets of the headers. Spec: cpio(5) newc: 110 bytes, then name and data, each padded to 4."""
    found, at = [], 0
    while True:
        found.append(at)
        size, name = (int(plain[at + field : at + field + 8], 16) for field in (54, 94))
        if plain[at + 110 : at + 110 + name - 1] == b"TRAILER!!!":
            return found
        at = -(-(at + 110 + name) // 4) * 4
        at = -(-(at + size) // 4) * 4


def test_what_is_in_the_archive(realm: Realm) -> None:
    data = realm.build()
    names = listed(data)
    wanted = [
        "init",
        "usr/bin/app-manager",
        "usr/bin/busybox",
        "usr/sbin/blkid",
        "etc/inittab",
        "etc/modules",
    ]
    assert set(wanted) <= set(names)
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert extracted(data, "usr/share/app-manager/ca/root-ca.pub") == samples.ROOT_CA
    assert b"stand-in" in extracted(data, "usr/bin/app-manager")
    assert not [name for name in names if name.endswith("usr/bin/x")]


def test_the_stand_in_is_told_what_to_start(realm: Realm) -> None:
    found = json.loads(extracted(realm.build(), "etc/app-manager/provision.json"))
    registry = "registry.realm:8888"
    assert found["applications"] == [
        {"name": "hello", "version": "1.0", "registry": registry, "disk": 0},
        {"name": "web", "version": "latest", "registry": registry, "disk": 1},
    ]


def test_the_manager_is_told_by_the_warden(realm: Realm) -> None:
    program = static(AARCH64)
    config = AppManagerConfig(extend=Rem.REM2)
    manager = ManagerSpec(
        binary=realm.given("manager", program), rsi_module=realm.given("rsi.ko", b"module"), config=config
    )
    data = realm.build(manager)
    names = listed(data)
    assert extracted(data, "usr/bin/app-manager") == program
    assert extracted(data, "usr/lib/modules/rsi.ko") == b"module"
    assert "etc/app-manager/provision.json" not in names
    assert yaml.safe_load(extracted(data, "etc/app-manager/config.yml"))["extend"] == "rem2"
    # It is the same whatever applications there are: the RIM does not name them.
    assert realm.build(manager, wanted=()) == data


def test_the_same_inputs_give_the_same_bytes(realm: Realm) -> None:
    first = realm.build()
    (realm.root / "root-ca.pub").touch()
    assert realm.build(name="again") == first
    assert sorted(path.name for path in (realm.root / "out").iterdir()) == ["again", "initramfs.cpio.gz"]
    assert realm.build(modules=("unwanted",)) != first
    (realm.root / "root-ca.pub").write_bytes(SigningKey.generate().public.der)
    assert realm.build() != first


@pytest.mark.parametrize("key", ["binary", "rsi_module", "registry_ca", "token"])
def test_a_file_that_is_not_the_named_one(realm: Realm, key: str) -> None:
    good = ManagerSpec(
        binary=realm.given("manager", static(AARCH64)), rsi_module=realm.given("rsi.ko", b"module")
    )
    wrong = {key: replace(realm.given("file", b"content"), sha256="0" * 64)}
    manager = replace(good, **wrong)  # type: ignore[arg-type]  # every one of the keys is a file's
    digest = hashlib.sha256(b"content").hexdigest()
    message = f"file: has sha256 {digest}, the recipe's realm.manager has {'0' * 64}; find out which is right"
    with pytest.raises(SpecError) as caught:
        realm.build(manager)
    assert str(caught.value) == message
    (realm.root / "file").unlink()
    with pytest.raises(SpecError) as caught:
        realm.build(manager)
    assert str(caught.value) == "file: there is no such file; the recipe's realm.manager names it"
    assert list((realm.root / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("encoding", "what"), [("pem", "a private key (PEM)"), ("der", "our own key keys/islet-vendor.prv")]
)
def test_a_private_key_in_the_archive_stops_the_build(realm: Realm, encoding: str, what: str) -> None:
    """Whoever has the image reads it, also what is built into a program."""
    key = SigningKey.generate()
    write_key(realm.root / "islet-vendor.prv", key.der, 0o600)
    manager = ManagerSpec(
        binary=realm.given("manager", static(AARCH64) + getattr(key, encoding)),
        rsi_module=realm.given("rsi.ko", b"module"),
    )
    with pytest.raises(SpecError) as caught:
        realm.build(manager)
    assert f"initramfs: usr/bin/app-manager:1: {what} would be public in an image" in str(caught.value)
    assert list((realm.root / "out").iterdir()) == []
