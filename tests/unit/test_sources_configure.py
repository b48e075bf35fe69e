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
