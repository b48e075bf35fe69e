from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from recipes.errors import SpecError
from recipes.formats.tree import FileTree, NodeType
from recipes.sources.initramfs import (
    APPLETS,
    BANKS,
    PHASES,
    InitramfsSpec,
    VolumeSpec,
    assemble,
    command_line,
)
from recipes.sources.providers import Provider, read_provider
from tests.support import ROOT
from tests.unit.test_formats_elf import elf, static

RELEASE = "6.12.0-test"
MODULES = f"usr/lib/modules/{RELEASE}"
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
SCRIPTS = dict.fromkeys(("init", "unlock"), b"#!/bin/sh\n") | {"boot.sh": b"# boot\n"}
COMMANDS = {f"{phase}.{bank}": f"{phase} {bank}".encode() for phase in PHASES for bank in BANKS}
HEADER = (
    b"#!/bin/sh\n#: summary random\n#: kind volume-key\n#: modules dm-crypt xts\n"
    b"#: binaries usr/sbin/cryptsetup\n#: network no\n#: registers none\n#: profile any\nexit 30\n"
)
PROVIDER = read_provider("random", HEADER)
DATA = VolumeSpec(name="data", partition_uuid=uuid.UUID(int=0xD47A), providers=(PROVIDER,))
SPEC = InitramfsSpec(
    architecture="x86_64", kernel_release=RELEASE, modules=("virtio_blk", "builtin-one"), volumes=(DATA,)
)


def packages() -> FileTree:
    tree = FileTree()
    tree.add_file("usr/bin/busybox", static(), 0o755, source="busybox-static")
    for name in ("usr/sbin/veritysetup", "usr/sbin/cryptsetup", "usr/sbin/mke2fs", "usr/sbin/unwanted"):
        tree.add_file(name, elf("libc.so.6", interpreter=LOADER), 0o4755, source="package")
    tree.add_symlink("usr/sbin/mkfs.ext4", "mke2fs")
    tree.add_file("etc/mke2fs.conf", b"[defaults]\n", source="package")
    tree.add_file(f"{LIBRARIES}/libc.so.6", elf(), 0o755)
    tree.add_file(f"{LIBRARIES}/ld-linux-x86-64.so.2", elf(), 0o755)
    tree.add_symlink("usr/lib64/ld-linux-x86-64.so.2", f"../../{LIBRARIES}/ld-linux-x86-64.so.2")
    tree["usr/bin/busybox"] = replace(tree["usr/bin/busybox"], mtime=1234, uid=7, gid=8)
    return tree


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
        "md/dm-mod": "", "md/dm-verity": "dm-mod", "md/dm-crypt": "dm-mod", "crypto/xts": "",
        "fs/erofs": "", "block/virtio_blk": "", "net/other": "", "char/tpm_late": "",
    }  # fmt: skip
    for path, depends in order.items():
        tree.add_file(f"{MODULES}/kernel/{path}.ko", module(depends))
    tree.add_file(f"{MODULES}/modules.order", "".join(f"kernel/{path}.ko\n" for path in order).encode())
    tree.add_file(f"{MODULES}/modules.builtin", b"kernel/builtin-one.ko\n")
    return tree


def build(spec: InitramfsSpec = SPEC) -> FileTree:
    return assemble(packages(), kernel(), spec, SCRIPTS, COMMANDS)


def lines(tree: FileTree, path: str) -> list[str]:
    return tree[path].read().decode().splitlines()


def test_what_is_in_it_and_what_is_not() -> None:
    tree = build()
    files = {path for path, node in tree.sorted() if node.type is NodeType.FILE}
    assert files == {
        "init", "etc/initramfs/config", "etc/initramfs/modules", "etc/initramfs/modules.tpm",
        "etc/mke2fs.conf", "etc/unlock/data.conf",
        "usr/bin/busybox", "usr/sbin/veritysetup", "usr/sbin/cryptsetup", "usr/sbin/mke2fs",
        "usr/lib/goldsmith/unlock", "usr/lib/goldsmith/boot.sh", "usr/lib/unlock.d/random",
        f"{LIBRARIES}/libc.so.6", f"{LIBRARIES}/ld-linux-x86-64.so.2",
        *(f"etc/initramfs/tpm2/{name}" for name in COMMANDS),
        *(f"{MODULES}/kernel/{name}.ko" for name in (
            "md/dm-mod", "md/dm-verity", "md/dm-crypt", "crypto/xts", "fs/erofs", "block/virtio_blk")),
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


def test_everything_is_root_s_without_time_or_set_id() -> None:
    nodes = [node for _, node in build().sorted()]
    assert {(node.uid, node.gid, node.mtime, node.mode & 0o7000) for node in nodes} == {(0, 0, 0, 0)}


def test_the_decisions_become_assignments() -> None:
    tree = build(replace(SPEC, profile="dev", on_failure="shell", device_timeout=7, tpm="if-present"))
    assert lines(tree, "etc/initramfs/config") == [
        "PROFILE='dev'",
        "ON_FAILURE='shell'",
        "DEVICE_TIMEOUT='7'",
        "TPM='if-present'",
        "BANKS='sha1 sha256 sha384 sha512'",
        "VOLUMES='data'",
        "CMDLINE=''",
    ]
    assert lines(tree, "etc/unlock/data.conf") == [
        "PARTUUID='00000000-0000-0000-0000-00000000d47a'",
        "MOUNTPOINT='/var'",
        "FILESYSTEM='ext4'",
        "FORMAT='always'",
        "PROVIDERS='random:volume-key'",
        "PROVIDER_TIMEOUT='20'",
        "TOTAL_TIMEOUT='60'",
    ]


def test_the_command_line_is_quoted_for_a_shell() -> None:
    tree = build(replace(SPEC, cmdline="a=\"b c\" d='e'  $(f) `g` \\ h"))
    assert lines(tree, "etc/initramfs/config")[-1] == (r"""CMDLINE='a="b c" d='\''e'\''  $(f) `g` \ h'""")


def test_the_whole_command_line() -> None:
    digits = "00" * 31 + "0a"
    root_hash = bytes([*bytes(31), 10])
    assert command_line("console=ttyS0 panic=-1", root_hash) == f"console=ttyS0 panic=-1 roothash={digits}"
    assert command_line("", root_hash) == f"roothash={digits}"


def test_modules_come_after_what_they_need_and_once() -> None:
    tree = build(replace(SPEC, modules=("virtio_blk", "tpm_late"), tpm_modules=("tpm_late",)))
    names = [path.rpartition("/")[2] for path in lines(tree, "etc/initramfs/modules")]
    assert sorted(names) == [
        "dm-crypt.ko",
        "dm-mod.ko",
        "dm-verity.ko",
        "erofs.ko",
        "virtio_blk.ko",
        "xts.ko",
    ]
    assert names.index("dm-mod.ko") < min(names.index("dm-verity.ko"), names.index("dm-crypt.ko"))
    assert lines(tree, "etc/initramfs/modules.tpm") == [f"/{MODULES}/kernel/char/tpm_late.ko"]


def test_without_volumes_nothing_makes_file_systems() -> None:
    tree = build(replace(SPEC, volumes=()))
    left = {"usr/sbin/mke2fs", "usr/sbin/cryptsetup", "etc/mke2fs.conf", "usr/lib/unlock.d/random"} & set(
        tree.nodes
    )
    assert left == set()
    assert "VOLUMES=''" in lines(tree, "etc/initramfs/config")


def test_scripts_and_modes() -> None:
    tree = build()
    modes = {
        path: tree[path].mode for path in ("init", "usr/lib/goldsmith/unlock", "usr/lib/goldsmith/boot.sh")
    }
    assert modes == {"init": 0o755, "usr/lib/goldsmith/unlock": 0o755, "usr/lib/goldsmith/boot.sh": 0o644}
    assert tree["usr/lib/unlock.d/random"].read() == HEADER


def volume(**changes: object) -> InitramfsSpec:
    return replace(SPEC, volumes=(replace(DATA, **changes),))  # type: ignore[arg-type]  # the test's own names


def provider(**changes: object) -> InitramfsSpec:
    return volume(providers=(replace(PROVIDER, **changes),))  # type: ignore[arg-type]  # the test's own names


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
        (
            replace(SPEC, device_timeout=0),
            "initramfs.device_timeout: 0 is out of range; write 1 to 3600 seconds",
        ),
        (
            replace(SPEC, banks=("md5",)),
            "initramfs: PCR bank: 'md5' is not known; write one of sha1, sha256, sha384, sha512",
        ),
        (replace(SPEC, banks=("sha256",)), "initramfs: phase command enter-initrd.sha1 is not expected"),
        (
            replace(SPEC, volumes=(DATA, DATA)),
            "volumes data, data: a name is there twice; names are device-mapper names",
        ),
        (
            volume(name="root"),
            "volume root: not a volume's name; use at most 16 lower-case letters, digits, - and _, not root",
        ),
        (
            volume(name="a b"),
            "volume a b: not a volume's name; use at most 16 lower-case letters, digits, - and _, not root",
        ),
        (
            volume(mountpoint="/var/../etc"),
            "volume data: '/var/../etc' is no mount point; write a path such as /var",
        ),
        (volume(mountpoint="/v'r"), 'volume data: "/v\'r" is no mount point; write a path such as /var'),
        (volume(filesystem="xfs"), "volume data: filesystem: 'xfs' is not known; write one of ext4"),
        (volume(format_policy="never"), "volume data: format: 'never' is not known; write one of always"),
        (
            volume(total_timeout=3601),
            "volume data: total_timeout: 3601 is out of range; write 1 to 3600 seconds",
        ),
        (volume(providers=()), "volume data: has no unlock provider; name one, such as ephemeral"),
        (
            provider(kind="passphrase"),
            "volume data: provider random is of kind passphrase; only volume-key is supported",
        ),
        (
            provider(network=True),
            "volume data: provider random needs a network; the initramfs brings none up",
        ),
        (
            provider(development=True),
            "volume data: provider random is for development; use another, or set profile: dev",
        ),
        (
            provider(binaries=("usr/bin/none",)),
            "usr/bin/none: is in no package of the initramfs; add the package of none to initramfs.packages",
        ),
    ],
)
def test_what_cannot_be_built(spec: InitramfsSpec, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec)
    assert str(caught.value) == message


def test_a_script_or_a_phase_that_is_missing() -> None:
    with pytest.raises(SpecError, match=r"^initrd: the script unlock is not there; restore it$"):
        assemble(packages(), kernel(), SPEC, {"init": b"", "boot.sh": b""}, COMMANDS)
    with pytest.raises(SpecError, match=r"^initrd: boot.sh~ is not init, unlock or a \*.sh file; remove it$"):
        assemble(packages(), kernel(), SPEC, SCRIPTS | {"boot.sh~": b""}, COMMANDS)
    with pytest.raises(SpecError, match=r"^initramfs: phase command leave-initrd.sha512 is missing$"):
        assemble(packages(), kernel(), SPEC, SCRIPTS, dict(list(COMMANDS.items())[:-1]))


def test_a_package_that_lacks_the_defaults_of_a_file_system() -> None:
    tree = packages()
    del tree.nodes["etc/mke2fs.conf"]
    with pytest.raises(
        SpecError, match=r"^etc/mke2fs.conf: is in no package of the initramfs; add its package"
    ):
        assemble(tree, kernel(), SPEC, SCRIPTS, COMMANDS)


def test_what_a_provider_says_about_itself() -> None:
    assert (
        Provider(
            name="random",
            script=HEADER,
            summary="random",
            kind="volume-key",
            modules=("dm-crypt", "xts"),
            binaries=("usr/sbin/cryptsetup",),
        )
        == PROVIDER
    )


@pytest.mark.parametrize(
    ("name", "script", "message"),
    [
        (
            "A",
            HEADER,
            "initrd/unlock.d/A: 'A' is not a provider's name; use lower-case letters, digits and hyphens",
        ),
        ("a", HEADER[2:], "initrd/unlock.d/a: has no interpreter line; begin it with #!/bin/sh"),
        (
            "a",
            HEADER.replace(b"kind", b"sort"),
            (
                "initrd/unlock.d/a:3: unknown key 'sort'; known are "
                "summary, kind, modules, binaries, network, registers, profile"
            ),
        ),
        (
            "a",
            HEADER.replace(b"#: network no\n", b""),
            "initrd/unlock.d/a: the header lacks network; write a line '#: network ...'",
        ),
        (
            "a",
            HEADER.replace(b"network no", b"kind x"),
            "initrd/unlock.d/a:6: kind is there twice; write it once, with 'none' for nothing",
        ),
        (
            "a",
            HEADER.replace(b"modules dm-crypt xts", b"modules"),
            "initrd/unlock.d/a:4: modules has no value; write it once, with 'none' for nothing",
        ),
        (
            "a",
            HEADER.replace(b"volume-key", b"key"),
            "initrd/unlock.d/a: kind is 'key'; write one of volume-key, passphrase",
        ),
        (
            "a",
            HEADER.replace(b"random", b"\xff"),
            "initrd/unlock.d/a:2: a header line is plain ASCII; replace the other characters",
        ),
    ],
)
def test_headers_that_say_something_wrong(name: str, script: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_provider(name, script)
    assert str(caught.value) == message


def test_the_providers_of_the_project() -> None:
    folder = ROOT / "initrd" / "unlock.d"
    found = {path.name: read_provider(path.name, path.read_bytes()) for path in folder.iterdir()}
    assert found["ephemeral"].kind == "volume-key"
    assert found["ephemeral"].registers == ()


def test_the_scripts_call_no_applet_that_is_not_there() -> None:
    """Every busybox applet of another name that a script begins a command with must be listed."""
    text = "\n".join(
        path.read_text()
        for path in (ROOT / "initrd").rglob("*")
        if path.is_file() and path.name != "init" and "realm" not in path.parts
    )
    code = [line.partition(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#")]
    others = {
        "awk",
        "basename",
        "date",
        "dirname",
        "expr",
        "find",
        "grep",
        "ls",
        "mv",
        "sort",
        "touch",
        "wc",
        "xargs",
    }
    words = {word for line in code for word in line.replace("|", " ").replace("(", " ").split()}
    assert others & words == set()
    assert set(APPLETS) <= words
