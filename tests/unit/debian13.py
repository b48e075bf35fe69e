"""A small Debian 13 tree from the committed vectors, for tests of what configures it."""

from __future__ import annotations

from recipes.formats.tree import FileTree
from tests.support import VECTORS

DEBIAN = VECTORS / "debian13"
UNITS = "usr/lib/systemd/system"


def account_tree() -> FileTree:
    """The master files of base-passwd and the sysusers.d files of systemd, udev and dbus."""
    tree = FileTree()
    for name in ("passwd.master", "group.master"):
        tree.add_file(f"usr/share/base-passwd/{name}", (DEBIAN / name).read_bytes())
    for path in sorted((DEBIAN / "sysusers").iterdir()):
        tree.add_file(f"usr/lib/sysusers.d/{path.name}", path.read_bytes())
    return tree


def unit_tree() -> FileTree:
    """The unit files that have an [Install] section, every link beside them, and the presets of systemd."""
    tree = FileTree()
    bodies: dict[str, str] = {}
    current = ""
    for line in (DEBIAN / "units.txt").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "link":
            name, _, target = rest.partition(" ")
            tree.add_symlink(f"{UNITS}/{name}", target)
        elif kind == "unit":
            current = rest
            bodies[current] = "[Unit]\nDescription=vector\n[Install]\n"
        else:
            bodies[current] += line.strip() + "\n"
    for name, body in bodies.items():
        tree.add_file(f"{UNITS}/{name}", body.encode())
    pointed = {node.target for node in tree.nodes.values() if node.target and "/" not in node.target}
    for name in sorted({"multi-user.target", *pointed} - set(bodies)):
        tree.add_file(f"{UNITS}/{name}", b"[Unit]\n")
    preset = (DEBIAN / "90-systemd.preset").read_bytes()
    tree.add_file("usr/lib/systemd/system-preset/90-systemd.preset", preset)
    return tree


def links(tree: FileTree, below: str) -> dict[str, str]:
    """Every link below a directory, and where it points."""
    return {path: node.target for path, node in tree.nodes.items() if path.startswith(below) and node.target}
