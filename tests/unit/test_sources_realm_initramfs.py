from __future__ import annotations

import json
import stat
import struct
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jinja2
import pytest
import yaml

from recipes.app_manager import (
    AppManagerConfig,
    BlockMode,
    Cipher,
    CryptoConfig,
    Filesystem,
    IvMode,
    KeySealing,
    Launcher,
    LauncherKind,
    Rem,
    SealingFlag,
    SealingKind,
)
from recipes.errors import FormatError, SpecError
from recipes.formats.tree import FileTree, NodeType
from recipes.sources.realm_initramfs import (
    REQUIRED_PACKAGES,
    RealmApplication,
    RealmInitramfsSpec,
    assemble,
)
from tests.support import ROOT
from tests.unit.test_formats_elf import AARCH64, elf, static

RELEASE = "6.12.0-test-arm64"
MODULES = f"usr/lib/modules/{RELEASE}/kernel"
LIBRARIES = "usr/lib/aarch64-linux-gnu"
LOADER = "/lib/ld-linux-aarch64.so.1"
SOURCE = ROOT / "initrd" / "realm"
FILES = {
    path.relative_to(SOURCE).as_posix(): path.read_bytes() for path in SOURCE.rglob("*") if path.is_file()
}
# RFC 5480 around the base point of P-384 (SEC 2, 2.5.1), which is the public key of the private key 1.
ROOT_CA = bytes.fromhex(
    "3076301006072a8648ce3d020106052b8104002203620004"
    "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
    "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
)
HELLO = RealmApplication(name="hello", version="latest", registry="10.0.2.100:5000", disk=0)
OTHER = RealmApplication(
    name="com.example.other",
    version=f"sha256:{'0a' * 32}",
    registry="registry.realm:443",
    image_partition=uuid.UUID(int=1),
    data_partition=uuid.UUID(int=2),
)
SPEC = RealmInitramfsSpec(kernel_release=RELEASE, applications=(HELLO,), root_ca=ROOT_CA)
MANAGER = replace(SPEC, manager=static(AARCH64), applications=())


def program() -> bytes:
    return elf("libc.so.6", interpreter=LOADER, machine=AARCH64)


def packages() -> FileTree:
    tree = FileTree()
    tree.add_file("usr/bin/busybox", static(AARCH64), 0o755, source="busybox-static")
    for name in (
        "bin/jq",
        "bin/openssl",
        "bin/unshare",
        "sbin/blkid",
        "sbin/cryptsetup",
        "sbin/mke2fs",
        "bin/x",
    ):
        tree.add_file(f"usr/{name}", program(), 0o4755, source="package")
    for name in ("mkfs.ext2", "mkfs.ext4"):
        tree.add_symlink(f"usr/sbin/{name}", "mke2fs")
    tree.add_file("etc/mke2fs.conf", b"[defaults]\n", source="e2fsprogs")
    for name in ("libc.so.6", "ld-linux-aarch64.so.1"):
        tree.add_file(f"{LIBRARIES}/{name}", elf(machine=AARCH64), 0o755)
    tree.add_symlink("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu/ld-linux-aarch64.so.1")
    tree["usr/bin/jq"] = replace(tree["usr/bin/jq"], mtime=1234, uid=7, gid=8)
    return tree


def module(depends: str = "") -> bytes:
    """A relocatable object with only a .modinfo section, laid out by hand from the System V ABI."""
    info = f"license=GPL\0depends={depends}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    sections = [(0, 0, 0, 0), (1, 1, 64, len(info)), (10, 3, 64 + len(info), len(names))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", n, t, 0, 0, o, s, 0, 0, 1, 0) for n, t, o, s in sections)
    offset = 64 + len(info) + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, AARCH64, 1, 0, 0, offset, 0, 64, 0, 0, 64, 3, 2)
    return head + info + names + table


def kernel() -> FileTree:
    tree = FileTree()
    found = {
        "virtio_blk": "", "virtio_net": "failover", "failover": "", "dm-mod": "", "dm-crypt": "dm-mod",
        "overlay": "", "xts": "", "essiv": "", "serpent_generic": "", "virtio_mmio": "", "unwanted": "",
        "vsock": "", "vmw_vsock_virtio_transport": "vsock",
    }  # fmt: skip
    for name, depends in found.items():
        tree.add_file(f"{MODULES}/{name}.ko", module(depends))
    order = "".join(f"kernel/{name}.ko\n" for name in found)
    tree.add_file(f"usr/lib/modules/{RELEASE}/modules.order", order.encode())
    tree.add_file(f"usr/lib/modules/{RELEASE}/modules.builtin", b"kernel/crypto/cbc.ko\n")
    return tree


def render(spec: RealmInitramfsSpec) -> dict[str, bytes]:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    found = {}
    for name in spec.rendered:
        text = (ROOT / "templates" / "realm" / f"{name}.j2").read_text()
        template = environment.from_string(text)
        found[name] = template.render(config=spec.config, applications=spec.applications).encode()
    return found


def build(
    spec: RealmInitramfsSpec = SPEC,
    *,
    tree: FileTree | None = None,
    files: Mapping[str, bytes] = FILES,
    rendered: Mapping[str, bytes] | None = None,
) -> FileTree:
    given = dict.fromkeys(spec.rendered, b"text\n") if rendered is None else rendered
    return assemble(tree or packages(), kernel(), spec, files, given)


def test_what_is_in_it_with_the_stand_in() -> None:
    tree = build()
    files = {path for path, node in tree.sorted() if node.type is NodeType.FILE}
    assert files == {
        "etc/inittab", "etc/mdev.conf", "etc/passwd", "etc/group", "etc/network/interfaces", "etc/modules",
        "etc/mke2fs.conf", "etc/app-manager/config.yml", "etc/app-manager/provision.json",
        *(f"etc/init.d/{name}" for name in ("rcS", "S05modules", "S10mdev", "S20network", "S40appmanager")),
        "usr/lib/mdev/persistent-storage", "usr/share/udhcpc/default.script",
        "usr/share/app-manager/ca/root-ca.pub",
        *(f"usr/lib/app-manager/{name}" for name in (
            "common.sh", "verify.sh", "volumes.sh", "start.sh",
            "common.jq", "manifest.jq", "config.jq", "command.jq")),
        *(f"usr/bin/{name}" for name in ("app-manager", "busybox", "jq", "openssl", "unshare")),
        *(f"usr/sbin/{name}" for name in ("blkid", "cryptsetup", "mke2fs")),
        f"{LIBRARIES}/libc.so.6", f"{LIBRARIES}/ld-linux-aarch64.so.1",
        *(f"{MODULES}/{name}.ko" for name in (
            "virtio_blk", "virtio_net", "failover", "dm-mod", "dm-crypt", "overlay")),
    }  # fmt: skip
    links = {path: node.target for path, node in tree.sorted() if node.type is NodeType.SYMLINK}
    assert links == {
        "init": "usr/bin/busybox", "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib",
        "var/run": "../run", "usr/bin/sh": "busybox", "usr/sbin/mkfs.ext4": "mke2fs",
        "usr/lib/ld-linux-aarch64.so.1": "aarch64-linux-gnu/ld-linux-aarch64.so.1",
    }  # fmt: skip
    assert tree["usr/share/app-manager/ca/root-ca.pub"].read() == ROOT_CA
    assert (tree["dev/console"].device, tree["tmp"].mode) == ((5, 1), 0o1777)


def test_what_is_in_it_with_islet_s_manager() -> None:
    config = AppManagerConfig(
        launcher=Launcher(
            kind=LauncherKind.RA_TLS, root_ca="/ratls/root-ca.crt", token_file="/ratls/token.bin"
        ),
        keysealing=KeySealing(kind=SealingKind.RSI_SEALING_KEY, flags=(SealingFlag.KEY,)),
    )
    spec = replace(MANAGER, config=config, rsi_module=b"rsi", registry_ca=b"certificate", token=b"token")
    tree = build(spec)
    found = {
        path: tree[path].read() for path in ("usr/lib/modules/rsi.ko", "ratls/root-ca.crt", "ratls/token.bin")
    }
    assert list(found.values()) == [b"rsi", b"certificate", b"token"]
    assert (tree["usr/bin/app-manager"].read(), tree["usr/bin/app-manager"].mode) == (static(AARCH64), 0o755)
    assert f"{MODULES}/vmw_vsock_virtio_transport.ko" in tree
    assert "usr/sbin/mkfs.ext2" in tree
    for path in ("usr/bin/jq", "usr/lib/app-manager/common.sh", "etc/app-manager/provision.json"):
        assert path not in tree


def test_everything_is_root_s_without_time_or_set_id() -> None:
    nodes = [node for path, node in build().sorted() if path != "tmp"]
    assert {(node.uid, node.gid, node.mtime, node.mode & 0o7000) for node in nodes} == {(0, 0, 0, 0)}


def test_what_is_started_is_executable_and_nothing_else() -> None:
    """A file has the mode that it has in the project: what is tried by hand is what is shipped."""
    tree = build()
    places = {"app-manager": "usr/bin/app-manager"}
    for path in FILES:
        place = places.get(path, path.replace("stand-in/", "usr/lib/app-manager/"))
        executable = bool((SOURCE / path).stat().st_mode & stat.S_IXUSR)
        assert tree[place].mode == (0o755 if executable else 0o644), path


def test_modules_in_the_order_of_their_needs() -> None:
    crypto = CryptoConfig(cipher=Cipher.SERPENT, block_mode=BlockMode.XTS, iv_mode=IvMode.ESSIV)
    spec = replace(SPEC, modules=("virtio_mmio",), config=AppManagerConfig(crypto=crypto))
    names = [
        line.removeprefix(f"/{MODULES}/").removesuffix(".ko")
        for line in build(spec)["etc/modules"].read().decode().splitlines()
    ]
    assert names == [
        "virtio_blk", "failover", "virtio_net", "dm-mod", "dm-crypt", "overlay", "serpent_generic", "xts",
        "essiv", "virtio_mmio",
    ]  # fmt: skip


def test_zstd_is_in_it_when_its_package_is() -> None:
    tree = packages()
    tree.add_file("usr/bin/zstd", program(), 0o755)
    assert "usr/bin/zstd" in build(tree=tree)
    assert "usr/bin/zstd" not in build(MANAGER, tree=tree)


def test_nobody_gets_a_shell_on_the_console() -> None:
    lines = FILES["etc/inittab"].decode().splitlines()
    actions = [line.split(":")[2] for line in lines if line and not line.startswith("#")]
    assert set(actions) == {"sysinit", "restart", "ctrlaltdel"}


def test_the_packages_of_a_real_manager_are_fewer() -> None:
    assert set(REQUIRED_PACKAGES["manager"]) < set(REQUIRED_PACKAGES["stand-in"])


def test_settings_of_islet_s_own_realm() -> None:
    assert yaml.safe_load(render(SPEC)["config.yml"]) == {
        "workdir": "/apps",
        "vsock_port": 1337,
        "crypto": {"cipher": "Aes", "iv_mode": "Plain", "block_mode": "Cbc", "iv_offset": 0},
        "launcher": {"Oci": "NoTLS"},
        "ca_pub": "/usr/share/app-manager/ca/root-ca.pub",
        "keysealing": "Dummy",
        "autostartall": True,
        "ensure_same_app_vendor": False,
        "fs_type": "Ext2",
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AppManagerConfig(launcher=Launcher(kind=LauncherKind.DUMMY)), {"launcher": "Dummy"}),
        (
            AppManagerConfig(launcher=Launcher(kind=LauncherKind.RUS_TLS, root_ca="/a.crt")),
            {"launcher": {"Oci": {"RusTLS": {"root_ca": "/a.crt"}}}},
        ),
        (
            AppManagerConfig(launcher=Launcher(kind=LauncherKind.RA_TLS, root_ca="/a.crt")),
            {"launcher": {"Oci": {"RaTLS": {"root_ca": "/a.crt", "token_resolver": "rsi"}}}},
        ),
        (
            AppManagerConfig(launcher=Launcher(kind=LauncherKind.RA_TLS, root_ca="/a", token_file="/b")),
            {"launcher": {"Oci": {"RaTLS": {"root_ca": "/a", "token_resolver": {"file": "/b"}}}}},
        ),
        (
            AppManagerConfig(keysealing=KeySealing(kind=SealingKind.STUBBED_HEX, stubbed_hex="001e")),
            {"keysealing": {"HkdfSha256": {"StubbedHex": "001e"}}},
        ),
        (
            AppManagerConfig(
                keysealing=KeySealing(
                    kind=SealingKind.RSI_SEALING_KEY, flags=(SealingFlag.RIM, SealingFlag.REALM_ID), svn=7
                )
            ),
            {"keysealing": {"HkdfSha256": {"RsiSealingKey": {"flags": ["Rim", "RealmId"], "svn": 7}}}},
        ),
        (
            AppManagerConfig(
                crypto=CryptoConfig(iv_offset=8, additional_options=("allow_discards", "no: 'yaml'")),
                extend=Rem.REM0,
                autostartall=False,
                workdir="/work",
                vsock_port=7,
                fs_type=Filesystem.EXT4,
                ensure_same_app_vendor=True,
            ),
            {
                "crypto": {
                    "cipher": "Aes",
                    "iv_mode": "Plain",
                    "block_mode": "Cbc",
                    "iv_offset": 8,
                    "additional_options": ["allow_discards", "no: 'yaml'"],
                },
                "extend": "rem0",
                "autostartall": False,
                "workdir": "/work",
                "vsock_port": 7,
                "fs_type": "Ext4",
                "ensure_same_app_vendor": True,
            },
        ),
    ],
)
def test_every_setting(config: AppManagerConfig, expected: dict[str, Any]) -> None:
    text = render(replace(SPEC, config=config))["config.yml"]
    assert text.endswith(b"\n")
    assert b"\n\n" not in text
    value = yaml.safe_load(text)
    assert {key: value[key] for key in expected} == expected


def test_an_iv_with_a_hash_is_a_tag() -> None:
    spec = replace(SPEC, config=AppManagerConfig(crypto=CryptoConfig(iv_mode=IvMode.ESSIV)))
    rendered = render(spec)
    assert b"\n  iv_mode: !Essiv Sha256\n" in rendered["config.yml"]
    assert json.loads(rendered["provision.json"])["cipher"] == "aes-cbc-essiv:sha256"


def test_the_list_of_applications() -> None:
    assert json.loads(render(replace(SPEC, applications=(HELLO, OTHER)))["provision.json"]) == {
        "cipher": "aes-cbc-plain",
        "key_bits": 256,
        "iv_offset": 0,
        "workdir": "/apps",
        "ca": "/usr/share/app-manager/ca/root-ca.pub",
        "autostart": True,
        "applications": [
            {"name": "hello", "version": "latest", "registry": "10.0.2.100:5000", "disk": 0},
            {
                "name": "com.example.other",
                "version": f"sha256:{'0a' * 32}",
                "registry": "registry.realm:443",
                "image": "00000000-0000-0000-0000-000000000001",
                "data": "00000000-0000-0000-0000-000000000002",
            },
        ],
    }
    assert json.loads(render(replace(SPEC, applications=()))["provision.json"])["applications"] == []


def with_application(**changes: Any) -> RealmInitramfsSpec:
    return replace(SPEC, applications=(replace(HELLO, **changes),))


def with_config(**changes: Any) -> RealmInitramfsSpec:
    return replace(SPEC, config=AppManagerConfig(**changes))


NO_KEY = "are no P-384 key in DER (SubjectPublicKeyInfo, 120 bytes); give that"
NO_CERTIFICATE = "the registry's CA certificate is not given; give it"
NO_HEX = "is not an even number of hex digits; correct it"
A_VERSION = "write a tag, or sha256: and 64 lower-case hex digits"
STATIC = "build it for aarch64-unknown-linux-musl"
ONE_PLACE = "application 'hello': name either its disk or both of its partitions"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            replace(SPEC, root_ca=ROOT_CA[:-1]),
            f"root CA key: 119 bytes that begin with {ROOT_CA[:24].hex()} {NO_KEY}",
        ),
        (
            replace(SPEC, root_ca=bytes(120)),
            f"root CA key: 120 bytes that begin with {'00' * 24} {NO_KEY}",
        ),
        (
            replace(MANAGER, applications=(HELLO,)),
            "application manager: Islet's is told its applications by the warden; leave the list out",
        ),
        (
            replace(MANAGER, manager=static()),
            f"application manager: is for ELF machine 62, not for aarch64; {STATIC}",
        ),
        (
            replace(MANAGER, manager=program()),
            f"application manager: is not static, it wants {LOADER}, libc.so.6; {STATIC}",
        ),
        (
            replace(MANAGER, config=AppManagerConfig(extend=Rem.REM0)),
            "application manager: its config needs RSI, and rsi.ko is not given; build it for this kernel",
        ),
        (
            replace(
                MANAGER,
                config=AppManagerConfig(launcher=Launcher(kind=LauncherKind.RUS_TLS, root_ca="/a.crt")),
            ),
            f"application manager: its config names /a.crt, and {NO_CERTIFICATE}",
        ),
        (
            with_config(workdir="/apps/../etc"),
            "app-manager config: workdir: '/apps/../etc' is no plain absolute path; write one such as /apps",
        ),
        (
            with_config(launcher=Launcher(kind=LauncherKind.RUS_TLS)),
            "app-manager config: launcher.root_ca: '' is no plain absolute path; write one such as /apps",
        ),
        (
            with_config(vsock_port=0),
            "app-manager config: vsock_port: 0 is out of range; write 1 to 4294967295",
        ),
        (
            with_config(keysealing=KeySealing(kind=SealingKind.STUBBED_HEX, stubbed_hex="abc")),
            f"app-manager config: keysealing.stubbed_hex: 'abc' {NO_HEX}",
        ),
        (
            with_application(name="../etc"),
            "application '../etc': name '../etc' cannot be; write letters, digits, _ . and -, at most 128",
        ),
        (
            with_application(version="sha256:AB"),
            f"application 'hello': version 'sha256:AB' cannot be; {A_VERSION}",
        ),
        (
            with_application(registry="http://host"),
            "application 'hello': registry 'http://host' cannot be; write HOST:PORT",
        ),
        (
            with_application(registry="host:65536"),
            "application 'hello': registry 'host:65536': no such port; write 1 to 65535",
        ),
        (with_application(disk=None), ONE_PLACE),
        (with_application(image_partition=uuid.UUID(int=1)), ONE_PLACE),
        (with_application(disk=None, data_partition=uuid.UUID(int=1)), ONE_PLACE),
        (with_application(disk=26), "application 'hello': disk 26 is out of range; write 0 to 25"),
        (
            replace(SPEC, applications=(HELLO, replace(HELLO, disk=1))),
            "applications: the name hello is there twice; give each its own",
        ),
        (
            replace(SPEC, applications=(HELLO, replace(HELLO, name="other"))),
            "applications: the disk 0 is there twice; give each its own",
        ),
        (
            replace(SPEC, applications=(replace(OTHER, data_partition=OTHER.image_partition),)),
            f"applications: the partition {uuid.UUID(int=1)} is there twice; give each its own",
        ),
    ],
)
def test_what_cannot_be(spec: RealmInitramfsSpec, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec)
    assert str(caught.value) == message


def test_a_manager_that_is_no_program() -> None:
    with pytest.raises(SpecError, match=rf"^application manager.*7f454c46.*; {STATIC}$"):
        build(replace(MANAGER, manager=b"\x7fELF\x01" + bytes(100)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({key: FILES[key] for key in FILES if key != "etc/inittab"}, "etc/inittab is not there; restore it"),
        ({**FILES, "etc/shadow": b""}, "etc/shadow has no place in the realm; remove it"),
    ],
)
def test_files_are_those_that_have_a_place(files: Mapping[str, bytes], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(files=files)
    assert str(caught.value) == f"initrd/realm: {message}"


def test_rendered_files_are_those_of_the_manager() -> None:
    with pytest.raises(SpecError) as caught:
        build(MANAGER, rendered={"config.yml": b"", "provision.json": b""})
    assert str(caught.value) == "templates/realm: provision.json has no place in the realm; remove it"


def test_a_program_that_is_not_there() -> None:
    tree = packages()
    del tree.nodes["usr/bin/jq"]
    with pytest.raises(SpecError) as caught:
        build(tree=tree)
    expected = "usr/bin/jq: is in no package of the initramfs; add the package of jq to initramfs.packages"
    assert str(caught.value) == expected


def test_busybox_must_be_static() -> None:
    tree = packages()
    tree.add_file("usr/bin/busybox", program(), 0o755)
    with pytest.raises(SpecError) as caught:
        build(tree=tree)
    expected = "usr/bin/busybox: is not static; name the package busybox-static in initramfs.packages"
    assert str(caught.value) == expected


def test_a_damaged_module() -> None:
    tree = kernel()
    tree.add_file(f"{MODULES}/overlay.ko", b"none")
    with pytest.raises(FormatError):
        assemble(packages(), tree, SPEC, FILES, dict.fromkeys(SPEC.rendered, b""))
