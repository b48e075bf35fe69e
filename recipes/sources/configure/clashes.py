"""Files of overlays that a configured system would not have: something is generated in their place.

A recipe and an overlay would then say two things about one path, and one of them would count in silence.
Where a generator keeps a file that is there already (etc/hosts, etc/fstab, etc/pam.d), nothing clashes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ...errors import SpecError
from ...formats.tree import FileTree, Node, NodeType
from .paths import resolve

HOSTNAME = "etc/hostname"
_OVERLAY = "overlay "  # how a node says that it is from an overlay
_EXTENDED = "usr/lib/os-release"  # what it says is kept, and fields are added
_BYTECODE = "*/__pycache__/*"  # what Python leaves beside a program that was tried where it lies

# What to use instead, by path; the first that fits counts.
_INSTEAD: tuple[tuple[str, str], ...] = (
    (HOSTNAME, "set rootfs.hostname"),
    ("etc/passwd", "declare accounts in usr/lib/sysusers.d"),
    ("etc/group", "declare groups in usr/lib/sysusers.d"),
    ("etc/*shadow", "declare accounts in usr/lib/sysusers.d"),
    ("etc/sub[ug]id", "there are no subordinate numbers on a read-only /etc"),
    ("var/lib/dpkg/*", "name packages in rootfs.packages"),
    ("etc/ssl/certs/*", "put certificates in usr/local/share/ca-certificates, each as NAME.crt"),
    ("etc/ca-certificates.conf", "put certificates in usr/local/share/ca-certificates, each as NAME.crt"),
    ("etc/systemd/system/default.target", "set rootfs.default_target"),
    ("etc/systemd/system/*", "use rootfs.enable and rootfs.mask"),
    ("usr/lib/systemd/system-preset/*", "give it another name, or use rootfs.enable"),
    ("usr/lib/tmpfiles.d/*", "give it another name"),
)
_REMOVED = "caches, logs and backups are not part of an image"
_OTHERWISE = "put a link of its name in etc/alternatives, or a line in etc/tmpfiles.d"


def check_clashes(tree: FileTree, before: Mapping[str, Node]) -> None:
    """Nothing, when every file and link of an overlay is in the configured tree as the overlay has it.

    Owners and modes may differ: tmpfiles.d and the packages decide about those.

    Args:
        before: the nodes before anything was generated.

    Raises:
        SpecError: names each overlay and path, and what to use instead.
    """
    problems = []
    for path, node in sorted(before.items()):
        if not node.source.startswith(_OVERLAY):
            continue
        after = tree.nodes.get(path)
        if path != HOSTNAME and (path == _EXTENDED or _is_kept(tree, path, node, after)):
            continue
        if after is None and fnmatchcase(path, _BYTECODE):
            continue
        problems.append(f"{node.source}: {path} {_complaint(path, after)}")
    if problems:
        raise SpecError("\n".join(problems))


def _complaint(path: str, after: Node | None) -> str:
    instead = next((text for pattern, text in _INSTEAD if fnmatchcase(path, pattern)), None)
    if after is None:
        return f"would be left out; {instead or _REMOVED}; remove it"
    return f"is generated; {instead or _OTHERWISE}; remove it"


def _is_kept(tree: FileTree, path: str, node: Node, after: Node | None) -> bool:
    if after is None or (after.type, after.payload) != (node.type, node.payload):
        return False
    return after.target == node.target or (
        node.type is NodeType.SYMLINK and _end(tree, path, node) == _end(tree, path, after) is not None
    )


def _end(tree: FileTree, path: str, link: Node) -> str | None:
    """The tree path a link leads to."""
    return resolve(tree, posixpath.join("/", posixpath.dirname(path), link.target))
