"""The initramfs of an Islet realm as a file tree: busybox init, its scripts, the application manager.

It is the whole system of the realm, and all of it is in the RIM. The layout is that of Islet's own realm
image, with two additions for a distribution's kernel and programs: the modules that are loaded at the start,
and ``lib`` as a link to ``usr/lib``, where the loader and the libraries are.

Spec: islet-project/realm-manager 79b74b6, realm/Makefile and realm/initramfs.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..app_manager import AppManagerConfig, check_config
from ..errors import FormatError, SpecError
from ..formats.elf import MACHINES, library_closure, needed, walk
from ..formats.kmod import ModuleDirectory
from ..formats.tree import FileTree
from .initramfs_tree import add_console, add_modules, copy_file

ARCHITECTURE = "aarch64"
# Debian packages that initramfs.packages must name, by who manages the applications. The stand-in refuses a
# layer that is compressed with zstd unless the package zstd is named too.
REQUIRED_PACKAGES = {
    "manager": ("busybox-static", "util-linux", "e2fsprogs"),
    "stand-in": ("busybox-static", "util-linux", "e2fsprogs", "cryptsetup-bin", "jq", "openssl"),
}
# What both need of the kernel: disks, network, dm-crypt and overlayfs.
_MODULES = ("virtio_blk", "virtio_net", "dm-crypt", "overlay")
# The manager is told what to start by the warden, over vsock.
_MANAGER_MODULES = ("vmw_vsock_virtio_transport",)
_BUSYBOX, _BLKID, _MANAGER = "usr/bin/busybox", "usr/sbin/blkid", "usr/bin/app-manager"
# realm-manager, app-manager/src/util/fs.rs: it starts /sbin/mkfs.ext2 and its like.
_MANAGER_PROGRAMS = ("usr/sbin/mkfs.ext2", "usr/sbin/mkfs.ext4")
_STAND_IN_PROGRAMS = (
    "usr/bin/jq", "usr/bin/openssl", "usr/bin/unshare", "usr/sbin/cryptsetup", "usr/sbin/mkfs.ext4",
)  # fmt: skip
_ZSTD = "usr/bin/zstd"
_STAND_IN = "app-manager"
_STAND_IN_PARTS = (
    "common.sh", "start.sh", "verify.sh", "volumes.sh", "command.jq", "common.jq", "config.jq", "manifest.jq",
)  # fmt: skip
_SCRIPTS = (
    "etc/init.d/rcS", "etc/init.d/S05modules", "etc/init.d/S10mdev", "etc/init.d/S20network",
    "etc/init.d/S40appmanager", "usr/lib/mdev/persistent-storage", "usr/share/udhcpc/default.script",
)  # fmt: skip
_SETTINGS = ("etc/inittab", "etc/mdev.conf", "etc/passwd", "etc/group", "etc/network/interfaces")
_DIRECTORIES = (
    "apps", "dev", "proc", "run", "sys", "usr/sbin", "var",
    *(f"etc/network/if-{when}.d" for when in ("pre-up", "up", "down", "post-down")),
)  # fmt: skip
_LINKS = (
    ("init", _BUSYBOX), ("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("var/run", "../run"),
    # init wants a shell for the first lines of its table; all other commands become links at its start.
    ("usr/bin/sh", "busybox"),
)  # fmt: skip
_RSI_MODULE = "usr/lib/modules/rsi.ko"  # realm-manager, app-manager/src/consts.rs: RSI_KO
# RFC 5480: SubjectPublicKeyInfo of id-ecPublicKey on secp384r1, then an uncompressed point of 96 bytes.
_P384_KEY, _P384_KEY_SIZE = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), 120
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# image-registry, ir-client/src/oci/reference.rs: a tag, or a digest in one of two algorithms.
_VERSION = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REGISTRY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:([0-9]{1,5})")
_DISKS = 26  # the stand-in knows vda to vdz


@dataclass(frozen=True, kw_only=True)
class RealmApplication:
    """An application that the stand-in starts; Islet's manager is told by the warden instead.

    Attributes:
        version: a tag, or the digest of the manifest with its algorithm.
        registry: ``HOST:PORT``.
        disk: which virtio disk has its partitions ``image`` and ``data``, counted from 0 in the order Linux
            finds them; or, instead, the identities (PARTUUID) of the two.
    """

    name: str
    version: str
    registry: str
    disk: int | None = None
    image_partition: uuid.UUID | None = None
    data_partition: uuid.UUID | None = None


@dataclass(frozen=True, kw_only=True)
class RealmInitramfsSpec:
    """What the recipe decides about the realm's initramfs.

    Attributes:
        kernel_release: as in ``usr/lib/modules``.
        modules: names of kernel modules beyond those every realm needs, loaded with what they need.
        manager: Islet's application manager, a static program; None for the stand-in.
        root_ca: the root CA's public key, DER SubjectPublicKeyInfo on P-384.
        rsi_module: Islet's ``rsi.ko`` for this kernel; the manager loads it itself.
        registry_ca, token: content of ``config.launcher.root_ca`` and ``token_file``.
    """

    kernel_release: str
    modules: tuple[str, ...] = ()
    applications: tuple[RealmApplication, ...] = ()
    manager: bytes | None = None
    config: AppManagerConfig = field(default_factory=AppManagerConfig)
    root_ca: bytes
    rsi_module: bytes | None = None
    registry_ca: bytes | None = None
    token: bytes | None = None

    @property
    def rendered(self) -> tuple[str, ...]:
        """Names of the files rendered for it: each has a template of its name in ``templates/realm/``."""
        return ("config.yml",) if self.manager is not None else ("config.yml", "provision.json")


def assemble(
    packages: FileTree,
    modules: FileTree,
    spec: RealmInitramfsSpec,
    files: Mapping[str, bytes],
    rendered: Mapping[str, bytes],
) -> FileTree:
    """The tree of the realm's initramfs.

    Args:
        packages: unpacked packages the programs come from.
        modules: a tree with ``usr/lib/modules/<release>``.
        files: files of ``initrd/realm/`` by path below it.
        rendered: the files that ``spec.rendered`` names.

    Raises:
        SpecError: a value that cannot be, or a program, library, module or file that is missing.
        FormatError: a program, library or module that does not parse.
    """
    _check(spec)
    _check_names("initrd/realm", files, (*_SETTINGS, *_SCRIPTS, _STAND_IN, *map(_part, _STAND_IN_PARTS)))
    _check_names("templates/realm", rendered, spec.rendered)
    tree = FileTree()
    for path in _DIRECTORIES:
        tree.add_directory(path)
    tree.add_directory("tmp", 0o1777)
    for link, target in _LINKS:
        tree.add_symlink(link, target)
    add_console(tree)
    _add_programs(tree, packages, spec)
    for path in (*_SETTINGS, *_SCRIPTS):
        tree.add_file(path, files[path], 0o755 if path in _SCRIPTS else 0o644, source=f"initrd/realm/{path}")
    _add_modules(tree, modules, spec)
    _add_manager(tree, spec, files)
    for name in spec.rendered:
        tree.add_file(f"etc/app-manager/{name}", rendered[name], source=f"templates/realm/{name}.j2")
    return tree


def _part(name: str) -> str:
    return f"stand-in/{name}"


def _add_programs(tree: FileTree, packages: FileTree, spec: RealmInitramfsSpec) -> None:
    programs = [_BUSYBOX, _BLKID, *(_STAND_IN_PROGRAMS if spec.manager is None else _MANAGER_PROGRAMS)]
    if spec.manager is None and walk(packages, _ZSTD):
        programs.append(_ZSTD)
    for path in library_closure(packages, programs, ARCHITECTURE):
        copy_file(tree, packages, path)
    if needed(tree[_BUSYBOX].read(), _BUSYBOX).interpreter:
        # The root that layers are unpacked in has nothing but this program.
        raise SpecError(f"{_BUSYBOX}: is not static; name the package busybox-static in initramfs.packages")
    # Features of a new file system are the package's choice, not a default hidden in the program.
    copy_file(tree, packages, "etc/mke2fs.conf")


def _add_modules(tree: FileTree, modules: FileTree, spec: RealmInitramfsSpec) -> None:
    """The modules, and the list of their paths."""
    directory = ModuleDirectory(modules, spec.kernel_release)
    wanted = [*_MODULES, *spec.config.crypto.modules, *spec.modules]
    if spec.manager is not None:
        wanted += _MANAGER_MODULES
    tree.add_file("etc/modules", add_modules(tree, modules, directory.closure(wanted)))
    if spec.rsi_module is not None:
        tree.add_file(_RSI_MODULE, spec.rsi_module, source="rsi.ko")


def _add_manager(tree: FileTree, spec: RealmInitramfsSpec, files: Mapping[str, bytes]) -> None:
    tree.add_file(spec.config.ca_pub.lstrip("/"), spec.root_ca, source="root CA")
    if spec.manager is None:
        tree.add_file(_MANAGER, files[_STAND_IN], 0o755, source=f"initrd/realm/{_STAND_IN}")
        for name in _STAND_IN_PARTS:
            path = _part(name)
            tree.add_file(f"usr/lib/app-manager/{name}", files[path], source=f"initrd/realm/{path}")
        return
    tree.add_file(_MANAGER, spec.manager, 0o755, source="application manager")
    launcher = spec.config.launcher
    for path, data in ((launcher.root_ca, spec.registry_ca), (launcher.token_file, spec.token)):
        if path and data is not None:
            tree.add_file(path.lstrip("/"), data, source="application manager")


def _check_names(where: str, given: Iterable[str], wanted: Iterable[str]) -> None:
    missing, strange = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing:
        raise SpecError(f"{where}: {missing[0]} is not there; restore it")
    if strange:
        raise SpecError(f"{where}: {strange[0]} has no place in the realm; remove it")


def _check(spec: RealmInitramfsSpec) -> None:
    if len(spec.root_ca) != _P384_KEY_SIZE or not spec.root_ca.startswith(_P384_KEY):
        what = f"{len(spec.root_ca)} bytes that begin with {spec.root_ca[:24].hex() or 'nothing'}"
        raise SpecError(
            f"root CA key: {what} are no P-384 key in DER (SubjectPublicKeyInfo, 120 bytes); give that"
        )
    check_config(spec.config)
    if spec.manager is None:
        _check_applications(spec.applications)
    else:
        _check_manager(spec, spec.manager)


def _check_manager(spec: RealmInitramfsSpec, manager: bytes) -> None:
    where, advice = "application manager", "build it for aarch64-unknown-linux-musl"
    if spec.applications:
        raise SpecError(f"{where}: Islet's is told its applications by the warden; leave the list out")
    try:
        linkage = needed(manager, where)
    except FormatError as error:
        raise SpecError(f"{error}; {advice}") from None
    if linkage.machine != MACHINES[ARCHITECTURE]:
        raise SpecError(f"{where}: is for ELF machine {linkage.machine}, not for {ARCHITECTURE}; {advice}")
    wants = (linkage.interpreter, *linkage.libraries)
    if any(wants):
        raise SpecError(f"{where}: is not static, it wants {', '.join(filter(None, wants))}; {advice}")
    launcher = spec.config.launcher
    for path, data, key in (
        (launcher.root_ca, spec.registry_ca, "the registry's CA certificate"),
        (launcher.token_file, spec.token, "the token"),
    ):
        if path and data is None:
            raise SpecError(f"{where}: its config names {path}, and {key} is not given; give it")
    if spec.config.requires_rsi and spec.rsi_module is None:
        raise SpecError(f"{where}: its config needs RSI, and rsi.ko is not given; build it for this kernel")


def _check_applications(applications: tuple[RealmApplication, ...]) -> None:
    for item in applications:
        where = f"application {item.name!r}"
        for key, value, pattern, advice in (
            ("name", item.name, _NAME, "letters, digits, _ . and -, at most 128"),
            ("version", item.version, _VERSION, "a tag, or sha256: and 64 lower-case hex digits"),
            ("registry", item.registry, _REGISTRY, "HOST:PORT"),
        ):
            if not pattern.fullmatch(value):
                raise SpecError(f"{where}: {key} {value!r} cannot be; write {advice}")
        if not 1 <= int(item.registry.rpartition(":")[2]) <= 65535:
            raise SpecError(f"{where}: registry {item.registry!r}: no such port; write 1 to 65535")
        identities = (item.image_partition, item.data_partition)
        by_disk, by_identity = item.disk is not None, None not in identities
        if by_disk == by_identity or (by_disk and identities != (None, None)):
            raise SpecError(f"{where}: name either its disk or both of its partitions")
        if item.disk is not None and not 0 <= item.disk < _DISKS:
            raise SpecError(f"{where}: disk {item.disk} is out of range; write 0 to {_DISKS - 1}")
    for key, used in (
        ("name", [item.name for item in applications]),
        ("disk", [str(item.disk) for item in applications if item.disk is not None]),
        ("partition", [str(i) for a in applications for i in (a.image_partition, a.data_partition) if i]),
    ):
        twice = sorted({value for value in used if used.count(value) > 1})
        if twice:
            raise SpecError(f"applications: the {key} {twice[0]} is there twice; give each its own")
