from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from recipes.errors import SpecError
from recipes.formats.luks2_model import Argon2id, TokenField, TokenShape
from recipes.formats.tree import FileTree, NodeType
from recipes.sources.initramfs import (
    APPLETS,
    BANKS,
    FORMAT_PROGRAMS,
    HEADER_PROGRAMS,
    NETWORK_APPLETS,
    PHASES,
    InitramfsSpec,
    VolumeSpec,
    assemble,
    command_line,
    helpers_needed,
    secret_paths,
)
from recipes.sources.providers import Provider, read_provider
from tests.support import ROOT
from tests.unit.test_formats_elf import AARCH64, elf, static

RELEASE = "6.12.0-test"
MODULES = f"usr/lib/modules/{RELEASE}"
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
SCRIPTS = dict.fromkeys(("init", "unlock", "udhcpc"), b"#!/bin/sh\n") | {"boot.sh": b"# boot\n"}
COMMANDS = {f"{phase}.{bank}": f"{phase} {bank}".encode() for phase in PHASES for bank in BANKS}
HEADER = (
    b"#!/bin/sh\n#: summary random\n#: kinds volume-key\n#: formats yes\n#: remembers no\n"
    b"#: modules virtio_rng\n#: binaries usr/sbin/asker\n#: helpers none\n#: files none\n#: network no\n"
    b"#: registers none\n#: profile any\nexit 30\n"
)
PROVIDER = read_provider("ephemeral", HEADER)
DATA = VolumeSpec(name="data", partition_uuid=uuid.UUID(int=0xD47A), providers=(PROVIDER,))
SPEC = InitramfsSpec(
    architecture="x86_64", kernel_release=RELEASE, modules=("virtio_blk", "builtin-one"), volumes=(DATA,)
)


def provider(name: str, *kinds: str, **more: object) -> Provider:
    text = {"name": name, "script": b"#!/bin/sh\n", "summary": name, "kinds": kinds, "formats": True}
    return Provider(**text | more)  # type: ignore[arg-type]  # the test's own names


SEALED = VolumeSpec(
    name="state",
    partition_uuid=uuid.UUID(int=0x57A7E),
    mountpoint="/srv",
    providers=(
        provider("tpm2", "passphrase", helpers=("tpm2",), files=("tpm2.pub",), registers=("options",)),
        provider("kbs", "passphrase", helpers=("kbs", "tpm2"), files=("kbs-ca.pem",), network=True),
    ),
    format_policy="if-blank",
    header="luks2",
    integrity="hmac-sha256",
    token=TokenShape("systemd-tpm2", (0,), (TokenField("tpm2-blob", size=134, padding=2),)),
    marker=0x01800042,
    files={"tpm2.pub": b"public", "kbs-ca.pem": b"certificate", "escrow.pem": b"public"},
    options={
        "TPM2_POLICY": "signed",
        "TPM2_DIGEST": "ab" * 32,
        "TPM2_PCRS": "11",
        "TPM2_BANK": "sha256",
        "TPM2_COUNTER": "none",
        "KBS_URL": "https://broker.example",
        "KBS_VOLUME": "data",
        "KBS_MACHINE": "",
    },
)
KEYFILE = provider("keyfile", "passphrase", "volume-key", files=("keyfile",), development=True)
ROOT_VOLUME = VolumeSpec(
    name="root",
    partition_uuid=uuid.UUID(int=1),
    mountpoint="/",
    providers=(KEYFILE,),
    format_policy="never",
    header="luks2",
    kdf=Argon2id(1, 64, 1),
    files={"keyfile": bytes(range(64))},
)
ENCRYPTED = replace(SPEC, root="luks2", profile="dev", volumes=(DATA, ROOT_VOLUME))
SITE = replace(
    DATA,
    providers=(provider("exec", "volume-key"),),
    format_policy="if-blank",
    options={"EXEC_PROGRAM": "/usr/bin/site-key"},
)


def packages() -> FileTree:
    tree = FileTree()
    tree.add_file("usr/bin/busybox", static(), 0o755, source="busybox-static")
    for name in ("usr/sbin/cryptsetup", "usr/sbin/asker", "usr/sbin/mke2fs", "usr/sbin/unwanted"):
        tree.add_file(name, elf("libc.so.6", interpreter=LOADER), 0o4755, source="package")
    tree.add_symlink("usr/sbin/mkfs.ext4", "mke2fs")
    tree.add_file("etc/mke2fs.conf", b"[defaults]\n", source="package")
    for name in ("libc.so.6", "ld-linux-x86-64.so.2", "libssl.so.3"):
        tree.add_file(f"{LIBRARIES}/{name}", elf(), 0o755)
    tree.add_symlink("usr/lib64/ld-linux-x86-64.so.2", f"../../{LIBRARIES}/ld-linux-x86-64.so.2")
    tree["usr/bin/busybox"] = replace(tree["usr/bin/busybox"], mtime=1234, uid=7, gid=8)
    return tree


def compiled(spec: InitramfsSpec) -> dict[str, bytes]:
    """Helpers as they come from the compiler; kbs wants one library more than the others."""
    more = {"kbs": ("libssl.so.3",)}
    return {name: elf(*more.get(name, ()), "libc.so.6", interpreter=LOADER) for name in helpers_needed(spec)}


def module(depends: str = "") -> bytes:
    """A relocatable object with only a .modinfo section, laid out by hand from the System V ABI."""
    import struct

    info = f"license=GPL\0depends={depends}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    at = 64
    sections = [(0, 0, 0, 0), (1, 1, at, len(info)), (10, 3, at + len(info), len(names))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", n, t, 0, 0, o, s, 0, 0, 1, 0) for n, t, o, s in sections)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    offset = at + len(info) + len(names)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, offset, 0, 64, 0, 0, 64, 3, 2)
    return head + info + names + table


def kernel() -> FileTree:
    tree = FileTree()
    order = {
        "md/dm-mod": "", "md/dm-verity": "dm-mod", "md/dm-crypt": "dm-mod", "md/dm-integrity": "dm-mod",
        "crypto/xts": "", "crypto/authenc": "", "fs/erofs": "", "fs/ext4": "", "block/virtio_blk": "",
        "char/virtio_rng": "", "net/other": "", "char/tpm_late": "",
    }  # fmt: skip
    for path, depends in order.items():
        tree.add_file(f"{MODULES}/kernel/{path}.ko", module(depends))
    tree.add_file(f"{MODULES}/modules.order", "".join(f"kernel/{path}.ko\n" for path in order).encode())
    tree.add_file(f"{MODULES}/modules.builtin", b"kernel/builtin-one.ko\nkernel/crypto/hmac.ko\n")
    return tree


def build(spec: InitramfsSpec = SPEC, tree: FileTree | None = None) -> FileTree:
    return assemble(tree or packages(), kernel(), spec, SCRIPTS, COMMANDS, compiled(spec))


def lines(tree: FileTree, path: str) -> list[str]:
    return tree[path].read().decode().splitlines()


def paths(tree: FileTree, kind: NodeType = NodeType.FILE) -> set[str]:
    return {path for path, node in tree.sorted() if node.type is kind}


def loaded(tree: FileTree, name: str = "modules") -> list[str]:
    return [path.rpartition("/")[2] for path in lines(tree, f"etc/initramfs/{name}")]


def test_what_is_in_it_and_what_is_not() -> None:
    tree = build()
    assert paths(tree) == {
        "init", "etc/initramfs/config", "etc/initramfs/modules", "etc/initramfs/modules.tpm",
        "etc/mke2fs.conf", "etc/unlock/data.conf",
        "usr/bin/busybox", "usr/sbin/asker", "usr/sbin/mke2fs",
        "usr/lib/goldsmith/unlock", "usr/lib/goldsmith/boot.sh", "usr/lib/goldsmith/dmtable",
        "usr/lib/unlock.d/ephemeral",
        f"{LIBRARIES}/libc.so.6", f"{LIBRARIES}/ld-linux-x86-64.so.2",
        *(f"etc/initramfs/tpm2/{name}" for name in COMMANDS),
        *(f"{MODULES}/kernel/{name}.ko" for name in (
            "md/dm-mod", "md/dm-verity", "md/dm-crypt", "crypto/xts", "fs/erofs", "fs/ext4",
            "block/virtio_blk", "char/virtio_rng")),
    }  # fmt: skip
    links = {path: node.target for path, node in tree.sorted() if node.type is NodeType.SYMLINK}
    assert links == {
        "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
        "usr/sbin/mkfs.ext4": "mke2fs",
        "usr/lib64/ld-linux-x86-64.so.2": f"../../{LIBRARIES}/ld-linux-x86-64.so.2",
        **{f"usr/bin/{applet}": "busybox" for applet in APPLETS},
    }  # fmt: skip
    console = tree["dev/console"]
    assert (console.type, console.device, console.mode) == (NodeType.CHARACTER, (5, 1), 0o600)
    assert {"proc", "sys", "run", "sysroot", "mnt"} <= set(tree.nodes)


def test_what_an_encrypted_volume_adds() -> None:
    spec = replace(SPEC, volumes=(DATA, SEALED), network="dhcp")
    more = build(spec)
    assert paths(more) - paths(build()) == {
        "usr/sbin/cryptsetup", f"{LIBRARIES}/libssl.so.3",
        *(f"usr/lib/goldsmith/{name}" for name in ("tpm2", "kbs", "escrow", "udhcpc")),
        "usr/lib/unlock.d/tpm2", "usr/lib/unlock.d/kbs",
        "etc/unlock/state.conf", "etc/unlock/state.header",
        *(f"etc/unlock/state.d/{name}" for name in SEALED.files),
        *(f"{MODULES}/kernel/{name}.ko" for name in ("md/dm-integrity", "crypto/authenc")),
    }  # fmt: skip
    assert paths(build()) <= paths(more)
    links = paths(more, NodeType.SYMLINK) - paths(build(), NodeType.SYMLINK)
    assert links == {f"usr/bin/{name}" for name in NETWORK_APPLETS}
    assert {"NETWORK='dhcp'", "VOLUMES='data state'"} <= set(lines(more, "etc/initramfs/config"))


def test_an_encrypted_root() -> None:
    tree = build(ENCRYPTED)
    assert {"dm-verity.ko", "erofs.ko"} & set(loaded(tree)) == set()
    assert {"dm-crypt.ko", "xts.ko", "ext4.ko"} <= set(loaded(tree))
    # the root comes first, wherever it stands in the recipe
    assert {"ROOT='luks2'", "VOLUMES='root data'"} <= set(lines(tree, "etc/initramfs/config"))
    assert {"MOUNTPOINT='/'", "FORMAT='never'"} <= set(lines(tree, "etc/unlock/root.conf"))
    alone = build(replace(ENCRYPTED, volumes=(ROOT_VOLUME,)))
    assert {"usr/sbin/mke2fs", "etc/mke2fs.conf"} & set(alone.nodes) == set()
    assert "usr/sbin/cryptsetup" in alone


def test_secrets_are_known() -> None:
    assert secret_paths(ENCRYPTED) == ("etc/unlock/root.d/keyfile",)
    assert build(ENCRYPTED)["etc/unlock/root.d/keyfile"].mode == 0o600
    assert secret_paths(replace(SPEC, volumes=(DATA, SEALED))) == ()


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (replace(SPEC, volumes=()), ("dmtable",)),
        (SPEC, ("dmtable",)),
        (replace(SPEC, volumes=(DATA, SEALED)), ("dmtable", "escrow", "kbs", "tpm2")),
        (
            replace(SPEC, volumes=(replace(SEALED, providers=(), files={}),)),
            ("dmtable", "tpm2"),
        ),
        (
            replace(SPEC, volumes=(replace(DATA, files={"escrow.pem": b"x"}),)),
            ("dmtable", "escrow"),
        ),
    ],
)
def test_the_helpers_it_has(spec: InitramfsSpec, names: tuple[str, ...]) -> None:
    assert helpers_needed(spec) == names


def test_helpers_are_programs() -> None:
    spec = replace(SPEC, volumes=(SEALED,), network="10.0.2.15/24")
    tree = build(spec)
    node = tree["usr/lib/goldsmith/kbs"]
    assert (node.mode, node.source, node.read()) == (0o755, "initrd/helpers/kbs.c", compiled(spec)["kbs"])


def test_everything_is_root_s_without_time_or_set_id() -> None:
    for spec in (SPEC, ENCRYPTED):
        nodes = [node for _, node in build(spec).sorted()]
        assert {(node.uid, node.gid, node.mtime, node.mode & 0o7000) for node in nodes} == {(0, 0, 0, 0)}


def test_the_packages_stay_as_they_are() -> None:
    tree = packages()
    before = dict(tree.nodes)
    build(SPEC, tree)
    assert tree.nodes == before


def test_the_decisions_become_assignments() -> None:
    tree = build(replace(SPEC, profile="dev", on_failure="shell", device_timeout=7, tpm="if-present"))
    assert lines(tree, "etc/initramfs/config") == [
        "PROFILE='dev'",
        "ON_FAILURE='shell'",
        "DEVICE_TIMEOUT='7'",
        "TPM='if-present'",
        "BANKS='sha1 sha256 sha384 sha512'",
        "ROOT='verity'",
        "NETWORK='none'",
        "VOLUMES='data'",
        "CMDLINE=''",
    ]


def test_the_command_line_is_quoted_for_a_shell() -> None:
    tree = build(replace(SPEC, cmdline="a=\"b c\" d='e'  $(f) `g` \\ h"))
    assert lines(tree, "etc/initramfs/config")[-1] == (r"""CMDLINE='a="b c" d='\''e'\''  $(f) `g` \ h'""")


def test_the_whole_command_line() -> None:
    digits = "00" * 31 + "0a"
    root_hash = bytes([*bytes(31), 10])
    assert command_line("console=ttyS0 panic=-1", root_hash) == f"console=ttyS0 panic=-1 roothash={digits}"
    assert command_line("", root_hash) == f"roothash={digits}"
    assert command_line("console=ttyS0", None) == "console=ttyS0"
    assert command_line("", None) == ""


def test_modules_come_after_what_they_need_and_once() -> None:
    tree = build(replace(SPEC, modules=("virtio_blk", "tpm_late", "ext4"), tpm_modules=("tpm_late",)))
    names = loaded(tree)
    assert sorted(names) == [
        "dm-crypt.ko",
        "dm-mod.ko",
        "dm-verity.ko",
        "erofs.ko",
        "ext4.ko",
        "virtio_blk.ko",
        "virtio_rng.ko",
        "xts.ko",
    ]
    assert names.index("dm-mod.ko") < min(names.index("dm-verity.ko"), names.index("dm-crypt.ko"))
    assert lines(tree, "etc/initramfs/modules.tpm") == [f"/{MODULES}/kernel/char/tpm_late.ko"]


def test_without_volumes_nothing_makes_file_systems() -> None:
    tree = build(replace(SPEC, volumes=()))
    left = {"usr/sbin/mke2fs", "usr/sbin/asker", "etc/mke2fs.conf", "usr/lib/unlock.d/ephemeral"} & set(
        tree.nodes
    )
    assert left == set()
    assert loaded(tree) == ["dm-mod.ko", "dm-verity.ko", "erofs.ko", "virtio_blk.ko"]
    assert "VOLUMES=''" in lines(tree, "etc/initramfs/config")


def test_scripts_and_modes() -> None:
    tree = build(replace(SPEC, network="dhcp"))
    modes = {
        path: tree[path].mode
        for path in ("init", *(f"usr/lib/goldsmith/{name}" for name in ("unlock", "udhcpc", "boot.sh")))
    }
    assert list(modes.values()) == [0o755, 0o755, 0o755, 0o644]
    assert tree["usr/lib/unlock.d/ephemeral"].read() == HEADER


def test_a_site_s_program_comes_with_its_libraries() -> None:
    tree = packages()
    program = elf("libssl.so.3", interpreter=LOADER)
    tree.add_file("usr/libexec/site-key", program, 0o755)
    tree.add_symlink("usr/bin/site-key", "../libexec/site-key")
    more = build(replace(SPEC, volumes=(SITE,)), tree)
    added = {path for path in more.nodes if path not in build().nodes}
    assert {"usr/bin/site-key", "usr/libexec/site-key", f"{LIBRARIES}/libssl.so.3"} <= added
    assert more["usr/libexec/site-key"].read() == program


@pytest.mark.parametrize("shell", [b"#!/bin/sh", b"#! /usr/bin/sh -e", b"#!/usr/bin/busybox sh"])
def test_a_site_s_script(shell: bytes) -> None:
    tree = packages()
    tree.add_file("usr/bin/site-key", shell + b"\nexit 30\n", 0o755)
    assert build(replace(SPEC, volumes=(SITE,)), tree)["usr/bin/site-key"].mode == 0o755


@pytest.mark.parametrize(
    ("data", "mode", "message"),
    [
        (
            None,
            0,
            "is no program in a package of the initramfs; add its package to initramfs.packages",
        ),
        (
            b"#!/bin/sh\n",
            0o644,
            "is no program in a package of the initramfs; add its package to initramfs.packages",
        ),
        (
            b"#!/usr/bin/python3\n",
            0o755,
            (
                "begins with b'#!/usr/bin/python3', and the initramfs has no such interpreter; "
                "write it for /bin/sh, or bring an ELF program"
            ),
        ),
        (
            b"#!",
            0o755,
            (
                "begins with b'#!', and the initramfs has no such interpreter; "
                "write it for /bin/sh, or bring an ELF program"
            ),
        ),
    ],
)
def test_a_site_s_program_that_cannot_start(data: bytes | None, mode: int, message: str) -> None:
    tree = packages()
    if data is not None:
        tree.add_file("usr/bin/site-key", data, mode)
    with pytest.raises(SpecError) as caught:
        build(replace(SPEC, volumes=(SITE,)), tree)
    assert str(caught.value) == f"usr/bin/site-key: {message}"


def test_a_helper_whose_library_is_in_no_package() -> None:
    tree = packages()
    del tree.nodes[f"{LIBRARIES}/libssl.so.3"]
    with pytest.raises(SpecError) as caught:
        build(replace(SPEC, volumes=(SEALED,), network="dhcp"), tree)
    assert str(caught.value) == (
        "usr/lib/goldsmith/kbs: needs libssl.so.3, which is in no package of the initramfs; "
        "add the package that has libssl.so.3 to initramfs.packages"
    )


def test_a_helper_for_another_machine() -> None:
    with pytest.raises(SpecError, match=r"^usr/lib/goldsmith/dmtable: is for aarch64, the image is for x86_"):
        assemble(packages(), kernel(), SPEC, SCRIPTS, COMMANDS, {"dmtable": static(AARCH64)})


def volume(**changes: object) -> InitramfsSpec:
    return replace(SPEC, volumes=(replace(DATA, **changes),))  # type: ignore[arg-type]  # the test's own names


def network(text: str) -> InitramfsSpec:
    return replace(SPEC, network=text)


NETWORK = "write none, dhcp, or one such as 10.0.2.15/24,10.0.2.2"


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "dhcp",
        "10.0.2.15/24",
        "10.0.2.15/24,10.0.2.2",
        "10.0.0.0/31,10.0.0.1",
        "10.0.0.1/32",
        "fd00::15/64",
        "fd00::/127,fd00::1",
        "fd00::15/64,fe80::1",
    ],
)
def test_networks_there_are(text: str) -> None:
    assert f"NETWORK='{text}'" in lines(build(network(text)), "etc/initramfs/config")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(SPEC, profile="test"), "initramfs.profile: 'test' is not known; write one of release, dev"),
        (
            replace(SPEC, on_failure="hang"),
            "initramfs.on_failure: 'hang' is not known; write one of panic, poweroff, reboot, shell",
        ),
        (
            replace(SPEC, on_failure="shell"),
            "initramfs.on_failure: a release never gives a shell; use panic, or set profile: dev",
        ),
        *(
            (
                replace(SPEC, cmdline=text),
                f"kernel.cmdline: {text!r} has more than printable ASCII or a space at an end; remove it",
            )
            for text in (" a", "a ", "a\nb", "a\tb", "ä", "a\n")
        ),
        (replace(SPEC, tpm="no"), "initramfs.tpm: 'no' is not known; write one of required, if-present"),
        (replace(SPEC, root="ext4"), "initramfs.root: 'ext4' is not known; write one of verity, luks2"),
        (
            replace(SPEC, device_timeout=0),
            "initramfs.device_timeout: 0 is out of range; write 1 to 3600 seconds",
        ),
        (
            replace(SPEC, banks=("md5",)),
            "initramfs: PCR bank: 'md5' is not known; write one of sha1, sha256, sha384, sha512",
        ),
        (replace(SPEC, banks=("sha256",)), "initramfs: phase command enter-initrd.sha1 is not expected"),
        *(
            (network(text), f"initramfs.network: {text!r} is no address with a prefix; {NETWORK}")
            for text in (
                *("", "static", "10.0.2.15", "10.0.2.15/33", "10.0.2.15/024", "10.0.2.15/255.255.255.0"),
                *("10.0.2.15/24,", "10.0.2.15/24,10.0.2", "10.0.2.15/24,10.0.2.2,10.0.2.3", "10.0.2.015/24"),
                *("FD00::1/64", "fd00:0::1/64", "fe80::1%eth0/64", "10.0.2.15/24, 10.0.2.2", "a.b.c.d/24"),
                *("dhcp\n", "10.0.2.15/24\n", "10.0.2.15/24;reboot", "10.0.2.15/24,"),
            )
        ),
        *(
            (
                network(text),
                (
                    f"initramfs.network: {text!r}: {text.partition('/')[0]} is no host's address in {where}; "
                    f"{NETWORK}"
                ),
            )
            for text, where in (
                ("10.0.2.0/24", "10.0.2.0/24"),
                ("10.0.2.255/24,10.0.2.2", "10.0.2.0/24"),
                ("127.0.0.1/8", "127.0.0.0/8"),
                ("0.0.0.0/32", "0.0.0.0/32"),
                ("224.0.0.1/32", "224.0.0.1/32"),
                ("::1/128", "::1/128"),
            )
        ),
        *(
            (
                network(f"{own},{gateway}"),
                (
                    f"initramfs.network: '{own},{gateway}': {gateway} is no gateway of "
                    f"{own.partition('/')[0]} in {where}; {NETWORK}"
                ),
            )
            for own, gateway, where in (
                ("10.0.2.15/24", "10.0.3.2", "10.0.2.0/24"),
                ("10.0.2.15/24", "10.0.2.15", "10.0.2.0/24"),
                ("10.0.2.15/24", "10.0.2.255", "10.0.2.0/24"),
                ("10.0.2.15/24", "fd00::1", "10.0.2.0/24"),
                ("10.0.2.15/24", "fe80::1", "10.0.2.0/24"),
                ("fd00::15/64", "fd01::1", "fd00::/64"),
            )
        ),
        (
            replace(SPEC, volumes=(DATA, DATA)),
            "volumes data, data: a name is there twice; names are device-mapper names",
        ),
        (replace(SPEC, root="luks2"), "initramfs.root: luks2 needs a volume named root; add it"),
        (
            replace(ENCRYPTED, root="verity"),
            "initramfs.root: verity and a volume is named root; use luks2, or take the volume out",
        ),
        # the checks of a volume have a table of their own, in test_sources_volumes
        (volume(providers=()), "volume data: has no unlock provider; name one, such as ephemeral"),
        (
            replace(SPEC, volumes=(SEALED,)),
            "volume state: provider kbs needs a network; set initramfs.network to dhcp or an address",
        ),
        (
            replace(ENCRYPTED, profile="release"),
            "volume root: provider keyfile is for development; use another, or set profile: dev",
        ),
        (
            volume(providers=(replace(PROVIDER, binaries=("usr/bin/none",)),)),
            "usr/bin/none: is in no package of the initramfs; add the package of none to initramfs.packages",
        ),
    ],
)
def test_what_cannot_be_built(spec: InitramfsSpec, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec)
    assert str(caught.value) == message


def test_a_script_a_phase_or_a_helper_that_is_missing() -> None:
    def refused(*parts: dict[str, bytes]) -> str:
        with pytest.raises(SpecError) as caught:
            assemble(packages(), kernel(), SPEC, *parts)
        return str(caught.value)

    helpers = compiled(SPEC)
    assert refused({"init": b"", "boot.sh": b""}, COMMANDS, helpers) == (
        "initrd: the script unlock is not there; restore it"
    )
    assert refused(SCRIPTS | {"boot.sh~": b""}, COMMANDS, helpers) == (
        "initrd: boot.sh~ is not init, unlock, udhcpc or a *.sh file; remove it"
    )
    assert refused(SCRIPTS, dict(list(COMMANDS.items())[:-1]), helpers) == (
        "initramfs: phase command leave-initrd.sha512 is missing"
    )
    assert refused(SCRIPTS, COMMANDS, {}) == "initramfs: helper dmtable was not compiled; compile it"
    assert refused(SCRIPTS, COMMANDS, helpers | {"tpm2": static()}) == (
        "initramfs: helper tpm2 is wanted by nothing; leave it out"
    )


def test_a_package_that_lacks_the_defaults_of_a_file_system() -> None:
    tree = packages()
    del tree.nodes["etc/mke2fs.conf"]
    with pytest.raises(
        SpecError, match=r"^etc/mke2fs.conf: is in no package of the initramfs; add its package"
    ):
        build(SPEC, tree)


# POSIX.1-2017 XCU 2.9 and 2.14, and what busybox's shell has beyond that without any applet.
KEYWORDS = frozenset(
    {"if", "then", "elif", "else", "fi", "while", "until", "do", "done", "case", "esac", "for", "in"}
    | {"{", "}", "!"}
)
BUILTINS = frozenset(
    {".", ":", "[", "break", "cd", "continue", "echo", "eval", "exec", "exit", "export", "false", "kill"}
    | {"local", "printf", "read", "return", "set", "shift", "test", "trap", "true", "ulimit", "umask"}
    | {"unset", "wait"}
)
STARTERS = frozenset({"exec", "env", "setsid", "timeout"})  # what they are given is a command again


class _State:
    """Where a run of commands is: in a word, before a command, behind a redirection, before a pattern."""

    word = ""
    first = True
    target = starter = case = pattern = False
    cases = 0


class Commands:
    """The words that begin a command in a shell script, those in command substitutions too.

    It knows quotes, comments, redirections, `case` patterns and function definitions; no here-documents and
    no backquotes, which the scripts do not have.
    """

    def __init__(self, text: str) -> None:
        assert "<<" not in text
        self.text, self.at = text.replace("\\\n", " "), 0
        self.found: set[str] = set()
        self.functions: set[str] = set()
        self.run("")

    def run(self, end: str) -> None:
        """Reads commands up to an unquoted ``end``."""
        state = _State()
        depth = 0
        while self.at < len(self.text):
            rest = self.text[self.at :]
            char = rest[0]
            if state.pattern and not char.isspace() and char != "#":
                state.pattern = False
                if not re.match(r"esac\b", rest):
                    self.skip_to(")")
                    continue
            if char == end and not depth:
                self.finish(state)
                self.at += 1
                return
            if char == "#" and not state.word:
                self.at += rest.find("\n")
            elif char == "(" and rest.startswith("()") and state.word:
                self.functions.add(state.word)
                state.word, state.first = "", True
                self.at += 2
            elif char in "\n;&|()":
                depth += (char == "(") - (char == ")")
                self.finish(state)
                state.first = True
                state.starter = False
                state.pattern |= rest.startswith(";;") and state.cases > 0
                self.at += 2 if rest.startswith(";;") else 1
            elif char in "<>":
                if state.word.isdigit():
                    state.word = ""
                self.finish(state)
                state.target = True
                self.at += len(re.match(r"[<>&|]+ *", rest)[0])  # type: ignore[index]  # it begins with one
            elif char in " \t":
                self.finish(state)
                self.at += 1
            else:
                state.word += self.piece()
        self.finish(state)

    def piece(self) -> str:
        """The next part of a word; what is in it is run, when it is a command substitution."""
        rest = self.text[self.at :]
        if rest[0] == "'":
            self.at += rest.index("'", 1) + 1
            return "'"
        if rest[0] == '"':
            self.at += 1
            inner = ""
            while self.text[self.at] != '"':
                inner += self.piece() if self.text[self.at] in "$\\" else self.plain()
            self.at += 1
            return inner or '"'
        if rest.startswith("$(("):
            self.at += 3
            depth = 2
            while depth:
                depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
                self.piece()
            return "$"
        if rest.startswith("$("):
            self.at += 2
            self.run(")")
            return "$"
        if rest.startswith("${"):
            self.at += 2
            while self.text[self.at] != "}":
                self.piece()
            self.at += 1
            return "$"
        if rest[0] == "\\":
            self.at += 2
            return "\\"
        return self.plain()

    def plain(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def skip_to(self, end: str) -> None:
        while not self.text.startswith(end, self.at):
            self.piece()
        self.at += len(end)

    def finish(self, state: _State) -> None:
        """A word has ended: what it means depends on where it stands."""
        word, state.word = state.word, ""
        if not word:
            return
        if state.target:
            state.target = False
        elif not state.first:
            if word == "in" and state.case:
                state.case, state.pattern, state.cases = False, True, state.cases + 1
        elif word in ("case", "for"):
            state.case, state.first = word == "case", False
        elif word in KEYWORDS or re.match(r"\w+=", word):
            state.cases -= word == "esac"
        elif state.starter and not re.match(r"[a-z]|.*/", word):
            pass
        elif word in STARTERS:
            state.starter = True
            self.found.add(word)
        else:
            state.first = False
            self.found.add(word)


def test_the_reader_of_scripts() -> None:
    text = """#!/bin/sh
# a comment; isn't code
name() {
    A=1 B="$(one -x "$(two)")" three 'four; five' >&2 2>/dev/null <"$six" || { seven; }
    case $(eight) in
        # (not a pattern
        a | 'b)' | "c") nine ;;
        *) exec env -i X=y setsid -c timeout -s KILL "$1" ten 3>file ;;
    esac | (eleven && ! twelve) &
    for x in thirteen; do "$fourteen" a; done # fifteen
    exec "${LIB:-/usr}/last" word
    /usr/lib/x/sixteen "a $((b - (c))) ${d#seventeen}" \\
        eighteen
}
if [ "${x:-$(nineteen)}" ]; then "/usr/lib/$twenty"; fi
"""
    words = Commands(text)
    assert words.functions == {"name"}
    assert words.found == {
        "one", "two", "three", "seven", "eight", "nine", "exec", "env", "setsid", "timeout", "ten", "eleven",
        "twelve", "$fourteen", "/usr/lib/x/sixteen", "[", "nineteen", "/usr/lib/$twenty",
        "$/last",
    }  # fmt: skip


def initrd_scripts() -> Iterator[tuple[str, Commands]]:
    """Scripts of the initramfs by their name below ``initrd``; realms have their own."""
    top = ROOT / "initrd"
    for path in sorted([*top.iterdir(), *(top / "unlock.d").iterdir()]):
        if path.is_file():
            yield path.relative_to(top).as_posix(), Commands(path.read_text())


def test_the_scripts_call_nothing_that_is_not_there() -> None:
    """And every applet is called by some script, so that the list does not outgrow them."""
    scripts = dict(initrd_scripts())
    functions = {name for words in scripts.values() for name in words.functions}
    programs = {path.rpartition("/")[2] for path in (*HEADER_PROGRAMS, *FORMAT_PROGRAMS)}
    applets = set(APPLETS)
    called: set[str] = set()
    for name, words in scripts.items():
        networked = name in ("network.sh", "udhcpc")
        known = BUILTINS | functions | programs | applets | (set(NETWORK_APPLETS) if networked else set())
        paths = {word for word in words.found if "/" in word}
        unknown = {word for word in words.found - paths if "$" not in word} - known
        assert unknown == set(), name
        for path in paths:
            folder, _, last = path.rpartition("/")
            source = ROOT / "initrd/helpers" / f"{last}.c"
            assert "$" in last or last in (*scripts, "busybox") or source.is_file(), (name, path)
            assert folder in ("/usr/lib/goldsmith", "/usr/bin", "/usr/lib/unlock.d") or "$" in folder, path
        called |= words.found
    assert (applets | set(NETWORK_APPLETS)) - called == set()


def test_the_shell_is_an_applet_that_scripts_name() -> None:
    assert "sh" in APPLETS
    assert len(set(APPLETS)) == len(APPLETS)
    assert list(APPLETS) == sorted(APPLETS)
