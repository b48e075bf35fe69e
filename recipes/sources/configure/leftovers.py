"""Files that must not be in an image: they differ from build to build, or make every machine the same one.

Spec: the hazards that reproducible image builds of others remove (caches, logs, backups, host keys,
identities); the paths are those of Debian 13.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ...errors import SpecError
from ...formats.tree import FileTree, NodeType

# Caches, logs, locks and backups: removed, whoever left them.
REMOVED: tuple[str, ...] = (
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "etc/ld.so.cache",  # the linker searches the default directories without it
    "etc/udev/hwdb.bin",
    "usr/lib/udev/hwdb.bin",
    "etc/.updated",
    "var/.updated",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/available",
    "var/lib/dpkg/triggers/*",
    "var/lib/apt/lists/*",
    "var/lib/systemd/catalog/database",
    "var/lib/shells.state",
    "var/lib/ucf/*",
    "var/cache/*",
    "var/log/*",
    "run/*",
    "tmp/*",
    "var/tmp/*",
    "*.dpkg-old",
    "*.dpkg-new",
    "*.dpkg-dist",
    "*.dpkg-tmp",
    "*.dpkg-bak",
    "*.ucf-old",
    "*.ucf-new",
    "*.ucf-dist",
    "*/__pycache__/*",
    "root/.bash_history",
)
# Identities and secrets of one machine: in an image for many they are a mistake that somebody must correct.
REFUSED: tuple[tuple[str, str], ...] = (
    ("etc/ssh/ssh_host_*_key", "an SSH host key"),
    ("var/lib/systemd/random-seed", "a random seed"),
    ("var/lib/systemd/credential.secret", "the key of a machine's credentials"),
    ("var/lib/dbus/machine-id", "the identity of one machine"),
)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def remove_leftovers(tree: FileTree) -> None:
    """Removes caches, logs, locks and backups; directories stay, and links into /run that a package ships."""
    for path, node in list(tree.nodes.items()):
        if node.type not in (NodeType.DIRECTORY, NodeType.SYMLINK) and _matches(path, REMOVED):
            del tree.nodes[path]


def check_leftovers(tree: FileTree) -> None:
    """Nothing, when the tree has no file that must not be in an image.

    Raises:
        SpecError: names every such file.
    """
    problems = []
    for path, node in tree.sorted():
        if node.type in (NodeType.DIRECTORY, NodeType.SYMLINK):
            continue
        for pattern, what in REFUSED:
            if fnmatchcase(path, pattern):
                problems.append(
                    f"{path}: {what} cannot be part of an image; remove it from {_origin(node.source)}"
                )
        if _matches(path, REMOVED):
            problems.append(f"{path}: a cache, log or backup cannot be part of an image; remove it")
        if path == "etc/machine-id" and node.payload is not None and node.payload.size:
            problems.append(f"{path}: the identity of one machine; leave the file empty")
    if problems:
        raise SpecError("\n".join(problems))


def _origin(source: str) -> str:
    return source or "the overlay that has it"
