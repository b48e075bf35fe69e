from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.errors import SpecError
from recipes.formats.tree import FileTree, Node
from recipes.sources.configure import PRESET_FILE, SystemSpec, configure

from .debian13 import UNITS, account_tree, links, unit_tree

ETC = "etc/systemd/system"
GENERATORS = "usr/lib/systemd/system-generators"


def _tree() -> FileTree:
    tree = account_tree()
    tree.nodes.update(unit_tree().nodes)
    tree.add_file("usr/lib/os-release", b"ID=debian\n")
    tree.add_file(f"{UNITS}/ldconfig.service", b"[Service]\n")
    tree.add_file(f"{UNITS}/systemd-tpm2-setup.service", b"[Service]\n")
    tree.add_file(f"{UNITS}/own.service", b"[Install]\nWantedBy=multi-user.target\n")
    return tree


def _content(tree: FileTree) -> list[tuple[str, Node, bytes]]:
    return [(path, replace(node, payload=None), node.read()) for path, node in tree.sorted()]


def test_configure() -> None:
    tree = _tree()
    configure(tree, (), SystemSpec(hostname="vm", enable=("own.service",), epoch=17))
    assert tree[f"{ETC}/multi-user.target.wants/own.service"].target == f"/{UNITS}/own.service"
    assert tree[f"{ETC}/ldconfig.service"].target == "/dev/null"
    assert tree[f"{ETC}/default.target"].target == f"/{UNITS}/multi-user.target"
    assert not [path for path in links(tree, ETC) if "tty1" in path or "pcrlock" in path]
    assert b"disable getty@.service\n" in tree[PRESET_FILE].read()
    assert {tree[path].mtime for path in ("etc/passwd", "etc/hostname", f"{ETC}/ldconfig.service")} == {17}
    assert tree[f"{UNITS}/own.service"].mtime == 0


def test_the_order_of_the_tree_does_not_matter() -> None:
    system = SystemSpec(hostname="vm", enable=("own.service", "serial-getty@ttyS0.service"))
    one, two = _tree(), _tree()
    two.nodes = dict(reversed(two.nodes.items()))
    configure(one, (), system)
    configure(two, (), system)
    assert _content(one) == _content(two)


SHELLS = (
    "debug-shell.service", "emergency.service", "emergency.target", "rescue.service", "rescue.target",
)  # fmt: skip


def test_no_unit_gives_a_shell() -> None:
    tree = _tree()
    for name in SHELLS:
        tree.add_file(f"{UNITS}/{name}", b"[Unit]\n")
    for name in ("systemd-debug-generator", "systemd-fstab-generator"):
        tree.add_file(f"{GENERATORS}/{name}", b"", 0o755)
    configure(tree, (), SystemSpec(hostname="vm", epoch=17))
    assert {tree[f"{ETC}/{name}"].target for name in SHELLS} == {"/dev/null"}
    mask = tree["etc/systemd/system-generators/systemd-debug-generator"]
    assert (mask.target, mask.mtime) == ("/dev/null", 17)
    assert list(links(tree, "etc/systemd/system-generators")) == [
        "etc/systemd/system-generators/systemd-debug-generator"
    ]


def test_enable_lifts_a_mask_of_the_policy() -> None:
    tree = _tree()
    names = ("serial-getty@ttyS0.service", "systemd-tpm2-setup.service")
    configure(tree, (), SystemSpec(hostname="vm", enable=names))
    assert f"{ETC}/serial-getty@.service" not in tree
    assert f"{ETC}/getty.target.wants/serial-getty@ttyS0.service" in tree
    assert f"{ETC}/systemd-tpm2-setup.service" not in tree
    assert tree[f"{ETC}/getty@.service"].target == "/dev/null"


OWN = "overlay mine"
CERTIFICATES = "put certificates in usr/local/share/ca-certificates, each as NAME.crt"
CLASHES = (
    ("etc/group", "is generated; declare groups in usr/lib/sysusers.d"),
    ("etc/hostname", "is generated; set rootfs.hostname"),
    ("etc/passwd", "is generated; declare accounts in usr/lib/sysusers.d"),
    ("etc/shadow", "is generated; declare accounts in usr/lib/sysusers.d"),
    ("etc/ssl/certs/ca-certificates.crt", f"is generated; {CERTIFICATES}"),
    (f"{ETC}/default.target", "is generated; set rootfs.default_target"),
    ("var/lib/dpkg/status", "is generated; name packages in rootfs.packages"),
    ("var/log/messages", "would be left out; caches, logs and backups are not part of an image"),
)


def test_files_of_overlays_that_would_be_lost_are_named_at_once() -> None:
    tree = _tree()
    pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" * 2
    tree.add_file("usr/share/ca-certificates/x.crt", pem.encode())
    for path, _ in CLASHES:
        tree.add_file(path, b"own\n", source=OWN)
    with pytest.raises(SpecError) as caught:
        configure(tree, (), SystemSpec(hostname="vm"))
    assert str(caught.value).splitlines() == [
        f"{OWN}: {path} {complaint}; remove it" for path, complaint in CLASHES
    ]


def test_what_a_generator_keeps_or_only_adds_to_clashes_with_nothing() -> None:
    tree = _tree()
    kept = ("etc/hosts", "etc/fstab", "etc/machine-id", "etc/locale.conf", "srv/data")
    for path in kept:
        tree.add_file(path, b"", source=OWN)
    tree.add_file("usr/lib/os-release", b"ID=own\n", source=OWN)
    tree.add_file("srv/__pycache__/x.pyc", b"x", source=OWN)
    # The link that enabling the unit makes, by another name of the same file.
    wants = f"{ETC}/multi-user.target.wants/own.service"
    tree.add_symlink(wants, f"../../../../{UNITS}/own.service", source=OWN)
    configure(tree, (), SystemSpec(hostname="vm", enable=("own.service",)))
    assert [tree[path].source for path in kept] == [OWN] * len(kept)
    assert "srv/__pycache__/x.pyc" not in tree


def test_a_link_of_an_overlay_that_is_pointed_elsewhere() -> None:
    tree = _tree()
    tree.add_symlink(f"{ETC}/multi-user.target.wants/own.service", "/dev/null", source=OWN)
    with pytest.raises(SpecError) as caught:
        configure(tree, (), SystemSpec(hostname="vm", enable=("own.service",)))
    assert str(caught.value) == (
        f"{OWN}: {ETC}/multi-user.target.wants/own.service is generated; use rootfs.enable and rootfs.mask;"
        " remove it"
    )


def test_contradictions() -> None:
    with pytest.raises(
        SpecError, match=r"units: own.service cannot be enabled and masked at once; remove one"
    ):
        configure(_tree(), (), SystemSpec(hostname="vm", enable=("own.service",), mask=("own.service",)))
    with pytest.raises(SpecError, match=r"there is no unit 'owm.service'; did you mean own.service"):
        configure(_tree(), (), SystemSpec(hostname="vm", enable=("owm.service",)))
    bare = account_tree()
    bare.add_file("usr/lib/os-release", b"")
    with pytest.raises(
        SpecError, match=r"units: the tree has no systemd; add systemd-sysv to rootfs.packages"
    ):
        configure(bare, (), SystemSpec(hostname="vm", enable=("own.service",)))
    tree = _tree()
    tree.add_file("etc/machine-id", b"0123")
    with pytest.raises(SpecError, match=r"etc/machine-id: the identity of one machine; leave the file empty"):
        configure(tree, (), SystemSpec(hostname="vm"))
