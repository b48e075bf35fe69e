from __future__ import annotations

import pytest

from recipes.errors import FormatError, SpecError
from recipes.formats import control
from recipes.formats.tree import FileTree
from recipes.sources.configure.accounts import collect_accounts
from recipes.sources.configure.alternatives import link_alternatives
from recipes.sources.configure.certificates import subject_hash, write_certificates
from recipes.sources.configure.dpkg_database import status_paragraph, write_database
from recipes.sources.configure.leftovers import check_leftovers, remove_leftovers
from recipes.sources.configure.pam import TYPES, parse_profile, render, write_pam
from recipes.sources.configure.paths import is_file, read_text, resolve
from recipes.sources.configure.system_files import (
    extend_os_release,
    write_copies,
    write_machine_id,
    write_names,
    write_place,
    write_shells,
)
from recipes.sources.configure.tmpfiles import SKELETON, apply_tmpfiles, write_var_skeleton
from recipes.sources.debs import InstalledPackage

from .debian13 import DEBIAN, account_tree, links


def test_paths() -> None:
    tree = FileTree()
    tree.add_file("usr/bin/sh", b"x")
    tree.add_symlink("bin", "usr/bin")
    tree.add_symlink("etc/shell", "../bin/./sh")
    tree.add_symlink("etc/absolute", "/bin/sh")
    tree.add_symlink("round", "round")
    assert (
        resolve(tree, "bin/sh")
        == resolve(tree, "etc/shell")
        == resolve(tree, "/etc/absolute")
        == "usr/bin/sh"
    )
    assert resolve(tree, "../../bin/sh") == "usr/bin/sh"
    assert resolve(tree, "round") is resolve(tree, "no/where") is None
    assert is_file(tree, "bin/sh")
    assert not is_file(tree, "usr/bin")
    tree.add_file("bad", b"\xff")
    with pytest.raises(SpecError, match="bad: byte 0 is not UTF-8"):
        read_text(tree, "bad")


def test_alternatives() -> None:
    tree = FileTree()
    for path in ("usr/bin/mawk", "usr/bin/more", "usr/bin/which.debianutils", "usr/share/man/man1/mawk.1.gz"):
        tree.add_file(path, b"x")
    tree.add_symlink("bin", "usr/bin")
    link_alternatives(tree)
    assert links(tree, "etc/alternatives") == {
        "etc/alternatives/awk": "/usr/bin/mawk",
        "etc/alternatives/awk.1.gz": "/usr/share/man/man1/mawk.1.gz",
        "etc/alternatives/nawk": "/usr/bin/mawk",
        "etc/alternatives/nawk.1.gz": "/usr/share/man/man1/mawk.1.gz",
        "etc/alternatives/pager": "/bin/more",
        "etc/alternatives/which": "/usr/bin/which.debianutils",
    }
    assert tree["usr/bin/awk"].target == "/etc/alternatives/awk"
    better = FileTree()
    for path in ("usr/bin/mawk", "usr/bin/gawk"):
        better.add_file(path, b"x")
    link_alternatives(better)
    assert better["etc/alternatives/awk"].target == "/usr/bin/gawk"
    chosen = FileTree()
    chosen.add_file("usr/bin/mawk", b"x")
    chosen.add_symlink("etc/alternatives/awk", "/usr/bin/busybox")
    link_alternatives(chosen)
    assert chosen["etc/alternatives/awk"].target == "/usr/bin/busybox"


def _pam_tree() -> FileTree:
    tree = FileTree()
    for name in ("mkhomedir", "unix", "systemd"):
        tree.add_file(f"usr/share/pam-configs/{name}", (DEBIAN / "pam" / name).read_bytes())
    for kind in TYPES:
        tree.add_file(f"usr/share/pam/common-{kind}", (DEBIAN / "pam" / f"template-{kind}").read_bytes())
    return tree


@pytest.mark.parametrize("kind", TYPES)
def test_pam_is_what_pam_auth_update_writes(kind: str) -> None:
    tree = _pam_tree()
    write_pam(tree)
    assert tree[f"etc/pam.d/common-{kind}"].read() == (DEBIAN / "pam" / f"common-{kind}").read_bytes()


def test_pam_keeps_an_overlay_and_refuses_other_templates() -> None:
    tree = _pam_tree()
    tree.add_file("etc/pam.d/common-auth", b"own")
    write_pam(tree)
    assert tree["etc/pam.d/common-auth"].read() == b"own"
    with pytest.raises(SpecError, match=r"t: the line '# here are the per-package modules .* is missing"):
        render("auth x\n", "auth", (), "t")
    with pytest.raises(SpecError, match=r"pam-configs/p:1: 'x y' belongs to no field"):
        parse_profile("p", "x y\n")


@pytest.mark.parametrize(
    ("name", "digits"),
    [("ISRG_Root_X2", "0b9bc432"), ("AC_RAIZ_FNMT-RCM", "cd8c0d63"), ("GTS_Root_R3", "0a775a30")],
)
def test_certificates(name: str, digits: str) -> None:
    """The digits are those of the links that `openssl rehash` of OpenSSL 3.5 made in the installation."""
    tree = FileTree()
    data = (DEBIAN / "certificates" / f"{name}.crt").read_bytes()
    tree.add_file(f"usr/share/ca-certificates/mozilla/{name}.crt", data)
    tree.add_file("usr/local/share/ca-certificates/a (b),c.crt", data.rstrip(b"\n"))
    write_certificates(tree)
    assert tree["etc/ssl/certs/ca-certificates.crt"].read() == data * 2
    assert tree["etc/ca-certificates.conf"].read().endswith(b"#\nmozilla/" + name.encode() + b".crt\n")
    assert links(tree, "etc/ssl/certs/") == {
        f"etc/ssl/certs/{name}.pem": f"/usr/share/ca-certificates/mozilla/{name}.crt",
        "etc/ssl/certs/a_=b=_c.pem": "/usr/local/share/ca-certificates/a (b),c.crt",
        f"etc/ssl/certs/{digits}.0": min(f"{name}.pem", "a_=b=_c.pem"),
    }


def test_damaged_certificates() -> None:
    with pytest.raises(FormatError, match="c: offset 0x0: an element needs an identifier and a length"):
        subject_hash(b"", "c")
    with pytest.raises(FormatError, match="c: the certificate is empty"):
        subject_hash(b"\x30\0", "c")
    with pytest.raises(FormatError, match="c: 0 fields, the subject is missing"):
        subject_hash(b"\x30\x02\x30\0", "c")
    tree = FileTree()
    tree.add_file("usr/share/ca-certificates/x.crt", b"-----BEGIN CERTIFICATE-----\nA\n-----END ")
    with pytest.raises(FormatError, match=r"usr/share/ca-certificates/x.crt: the base64 text is damaged"):
        write_certificates(tree)
    without = FileTree()
    write_certificates(without)
    assert list(without.nodes) == [""]


def test_system_files() -> None:
    tree = FileTree()
    tree.add_file("usr/share/base-files/profile", b"profile\n")
    tree.add_file("usr/share/libc-bin/nsswitch.conf", b"nss\n")
    tree.add_file("etc/profile", b"overlay\n")
    tree.add_directory("etc/security")
    tree.add_directory("var/run")
    tree.add_file("etc/dpkg/origins/debian", b"")
    write_copies(tree)
    assert tree["etc/profile"].read() == b"overlay\n"
    assert tree["etc/nsswitch.conf"].read() == b"nss\n"
    assert tree["var/run"].target == "/run"
    assert tree["etc/dpkg/origins/default"].target == "debian"
    assert tree["etc/security/opasswd"].mode == 0o600
    write_names(tree, "vm.example.org")
    assert tree["etc/hostname"].read() == b"vm.example.org\n"
    assert b"\n127.0.1.1\tvm.example.org vm\n" in tree["etc/hosts"].read()
    assert tree["etc/resolv.conf"].target == "../run/resolv.conf"
    write_place(tree, "C.UTF-8", "UTC")
    assert tree["etc/locale.conf"].read() == b"LANG=C.UTF-8\n"
    assert tree["etc/localtime"].target == "/usr/share/zoneinfo/UTC"
    write_machine_id(tree)
    assert (tree["etc/machine-id"].read(), tree["etc/machine-id"].mode) == (b"", 0o444)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a..b", "x" * 65])
def test_bad_hostnames(name: str) -> None:
    with pytest.raises(SpecError, match="is not a host name; use a-z, 0-9 and -, at most 64 characters"):
        write_names(FileTree(), name)


def test_other_problems_of_system_files() -> None:
    with pytest.raises(
        SpecError, match=r"zoneinfo/Mars is not in the tree; add tzdata to rootfs.packages or use UTC"
    ):
        write_place(FileTree(), "C", "Mars")
    with pytest.raises(SpecError, match=r"usr/lib/os-release: not in the tree; add base-files"):
        extend_os_release(FileTree(), ())
    tree = FileTree()
    tree.add_file("usr/lib/os-release", b'ID=debian\nIMAGE_ID="old"\n')
    extend_os_release(tree, [("IMAGE_ID", "a b"), ("IMAGE_VERSION", "1")])
    assert tree["usr/lib/os-release"].read() == b"ID=debian\nIMAGE_ID='a b'\nIMAGE_VERSION=1\n"
    with pytest.raises(SpecError, match=r"os-release: image='x' is not a field"):
        extend_os_release(tree, [("image", "x")])


def test_shells() -> None:
    """The list an installation with bash and dash ends up with."""
    tree = FileTree()
    tree.add_file("usr/share/debianutils/shells", b"# /etc/shells: valid login shells\n/bin/sh\n")
    folder = "usr/share/debianutils/shells.d"
    tree.add_file(f"{folder}/bash", b"/bin/bash\n/bin/rbash\n/usr/bin/bash\n/usr/bin/rbash\n")
    tree.add_file(f"{folder}/dash", b"/usr/bin/dash\n")
    tree.add_directory("usr/bin")
    tree.add_symlink("bin", "usr/bin")
    write_shells(tree)
    assert tree["etc/shells"].read().decode().split("\n") == [
        "# /etc/shells: valid login shells",
        *(
            "/bin/sh",
            "/usr/bin/sh",
            "/bin/bash",
            "/usr/bin/bash",
            "/bin/rbash",
            "/usr/bin/rbash",
            "/usr/bin/dash",
        ),
        "",
    ]


def test_tmpfiles() -> None:
    tree = account_tree()
    lines = (
        "# x\nd /etc/one 0700 root games -\nL+ /etc/mtab - - - - ../proc/self/mounts\nd /run/x\n"
        "f^ /etc/motd - - - - cred\n"
        "d /etc/two 0700\nd /etc/three :0700\nL? /etc/four - - - - /no\nz /etc/five 0600\nd /var/lib/known\n"
    )
    tree.add_file("usr/lib/tmpfiles.d/x.conf", lines.encode())
    for path in ("etc/two", "etc/three", "var/lib/known", "var/lib/new", "var/cache/apt/no"):
        tree.add_directory(path)
    tree.add_directory("var/cache/mine", 0o750)
    tree.add_file("etc/five", b"")
    tree.add_symlink("etc/mtab", "elsewhere")
    tree.add_symlink("var/a b", "c")
    apply_tmpfiles(tree, collect_accounts(tree, ()))
    assert (tree["etc/one"].mode, tree["etc/one"].gid) == (0o700, 60)
    assert [tree[f"etc/{name}"].mode for name in ("two", "three", "five")] == [0o700, 0o755, 0o600]
    assert tree["etc/mtab"].target == "../proc/self/mounts"
    assert not {"etc/four", "etc/motd", "run/x"} & set(tree.nodes)
    write_var_skeleton(tree)
    assert tree[SKELETON].read().decode().splitlines()[1:] == [
        "L '/var/a b' - - - - c",
        "d /var/cache 0755 0 0 -",
        "d /var/cache/mine 0750 0 0 -",
        "d /var/lib 0755 0 0 -",
        "d /var/lib/new 0755 0 0 -",
    ]
    tree.add_file("usr/lib/tmpfiles.d/y.conf", b'd "/open\n')
    with pytest.raises(SpecError, match=r"usr/lib/tmpfiles.d/y.conf:1: No closing quotation"):
        apply_tmpfiles(tree, collect_accounts(tree, ()))


def _package(name: str, conffiles: tuple[str, ...] = (), md5sums: bytes = b"") -> InstalledPackage:
    paragraph = control.parse((DEBIAN / "dpkg" / f"{name}.control").read_bytes(), name)
    return InstalledPackage(
        name=name,
        version=paragraph.get("Version"),
        architecture=paragraph.get("Architecture"),
        source=name,
        source_version="",
        paragraph=paragraph,
        conffiles=conffiles,
        md5sums=md5sums,
    )


@pytest.mark.parametrize("name", ["bash", "hostname", "libacl1"])
def test_status_is_what_dpkg_writes(name: str) -> None:
    want = control.parse((DEBIAN / "dpkg" / f"{name}.status").read_bytes(), name)
    fields = tuple(field for field in want.fields if field[0] != "Conffiles")
    assert status_paragraph(FileTree(), _package(name)).fields == fields


def test_database() -> None:
    tree = FileTree()
    tree.add_file("etc/own", b"hello\n", source="bash")
    tree.add_file("etc/replaced", b"hello\n", source="overlay")
    tree.add_file("usr/bin/x", b"", source="libacl1")
    sums = b"d41d8cd98f00b204e9800998ecf8427e  usr/bin/x\n" + b"0" * 32 + b"  usr/share/doc/gone\n"
    packages = [
        _package("libacl1", md5sums=sums),
        _package("bash", ("/etc/own", "/etc/replaced", "/etc/gone")),
    ]
    write_database(tree, packages)
    status = tree["var/lib/dpkg/status"].read().decode()
    assert status.index("Package: bash\n") < status.index("\n\nPackage: libacl1\n")
    assert "\nConffiles:\n /etc/own b1946ac92492d2347c6235b4d2611184\nDescription:" in status
    assert tree["var/lib/dpkg/info/libacl1:amd64.md5sums"].read() == sums[:44]
    assert tree["var/lib/dpkg/info/bash.list"].read() == b"/.\n/etc\n/etc/own\n"


def test_leftovers() -> None:
    tree = FileTree()
    gone = (
        "etc/passwd-",
        "etc/ld.so.cache",
        "var/log/a/b.log",
        "var/cache/x",
        "etc/x.dpkg-old",
        "run/y",
        "tmp/z",
    )
    for path in (*gone, "etc/x", "etc/machine-id"):
        tree.add_file(path, b"")
    remove_leftovers(tree)
    assert {path for path in (*gone, "etc/x", "etc/machine-id") if path in tree} == {
        "etc/x",
        "etc/machine-id",
    }
    check_leftovers(tree)
    tree.add_file("etc/ssh/ssh_host_ed25519_key", b"k", source="overlay")
    tree.add_file("etc/machine-id", b"1" * 32)
    tree.add_file("var/log/wtmp", b"")
    with pytest.raises(SpecError) as caught:
        check_leftovers(tree)
    assert str(caught.value).splitlines() == [
        "etc/machine-id: the identity of one machine; leave the file empty",
        "etc/ssh/ssh_host_ed25519_key: an SSH host key cannot be part of an image; remove it from overlay",
        "var/log/wtmp: a cache, log or backup cannot be part of an image; remove it",
    ]
