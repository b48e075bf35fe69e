"""Names that several packages can stand for (``awk``, ``pager``), as update-alternatives links them.

Spec: update-alternatives(1) of dpkg 1.22; the candidates and priorities are those the postinst scripts of
Debian 13 register. /var/lib/dpkg/alternatives, its own state, is left out: /etc is read-only and nothing can
switch a link.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...formats.tree import FileTree
from .paths import resolve


@dataclass(frozen=True)
class Slave:
    """A link that follows the choice of its master; left out when its file is not there."""

    link: str
    name: str
    path: str


@dataclass(frozen=True)
class Alternative:
    """One candidate: ``link`` to ``/etc/alternatives/name`` to ``path``; the highest priority wins."""

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[Slave, ...] = ()


_MAN1 = "/usr/share/man/man1"


def _manual(name: str, page: str) -> Slave:
    return Slave(f"{_MAN1}/{name}.1.gz", f"{name}.1.gz", f"{_MAN1}/{page}.1.gz")


def _which(language: str) -> Slave:
    folder = f"/usr/share/man/{language}/man1"
    return Slave(f"{folder}/which.1.gz", f"which.{language}1.gz", f"{folder}/which.debianutils.1.gz")


def _awk(path: str, page: str, priority: int) -> Alternative:
    nawk = (Slave("/usr/bin/nawk", "nawk", path), _manual("nawk", page))
    return Alternative("/usr/bin/awk", "awk", path, priority, (_manual("awk", page), *nawk))


def _iptables(family: str, flavour: str, priority: int) -> Alternative:
    slaves = tuple(
        Slave(f"/usr/sbin/{family}-{tool}", f"{family}-{tool}", f"/usr/sbin/{family}-{flavour}-{tool}")
        for tool in ("restore", "save")
    )
    return Alternative(f"/usr/sbin/{family}", family, f"/usr/sbin/{family}-{flavour}", priority, slaves)


TABLE: tuple[Alternative, ...] = (
    _awk("/usr/bin/mawk", "mawk", 5),  # mawk
    _awk("/usr/bin/gawk", "gawk", 10),  # gawk
    _awk("/usr/bin/original-awk", "original-awk", 0),  # original-awk
    Alternative(  # bash
        "/usr/share/man/man7/builtins.7.gz", "builtins.7.gz", "/usr/share/man/man7/bash-builtins.7.gz", 10
    ),
    Alternative("/usr/bin/pager", "pager", "/bin/more", 50, (_manual("pager", "more"),)),  # util-linux
    Alternative("/usr/bin/pager", "pager", "/usr/bin/less", 77, (_manual("pager", "less"),)),  # less
    Alternative(  # tar
        "/usr/sbin/rmt",
        "rmt",
        "/usr/sbin/rmt-tar",
        50,
        (Slave("/usr/share/man/man8/rmt.8.gz", "rmt.8.gz", "/usr/share/man/man8/rmt-tar.8.gz"),),
    ),
    Alternative(  # debianutils
        "/usr/bin/which",
        "which",
        "/usr/bin/which.debianutils",
        0,
        (_manual("which", "which.debianutils"), *map(_which, ("de", "es", "fr", "it", "ja", "pl", "sl"))),
    ),
    Alternative("/usr/bin/editor", "editor", "/bin/nano", 40, (_manual("editor", "nano"),)),  # nano
    _iptables("iptables", "nft", 20),  # iptables
    _iptables("iptables", "legacy", 10),  # iptables
    _iptables("ip6tables", "nft", 20),  # iptables
    _iptables("ip6tables", "legacy", 10),  # iptables
)


def _link(tree: FileTree, link: str, name: str, path: str) -> None:
    tree.add_symlink(f"etc/alternatives/{name}", path)
    tree.add_symlink(link.lstrip("/"), f"/etc/alternatives/{name}")


def link_alternatives(tree: FileTree, table: tuple[Alternative, ...] = TABLE) -> None:
    """Makes the links of every name whose candidates the tree has.

    A name that an overlay has already put a link for under /etc/alternatives keeps that choice.
    """
    chosen: dict[str, Alternative] = {}
    for candidate in table:
        if resolve(tree, candidate.path) is None or f"etc/alternatives/{candidate.name}" in tree:
            continue
        best = chosen.get(candidate.name)
        if best is None or candidate.priority > best.priority:
            chosen[candidate.name] = candidate
    for candidate in chosen.values():
        _link(tree, candidate.link, candidate.name, candidate.path)
        for slave in candidate.slaves:
            if resolve(tree, slave.path) is not None:
                _link(tree, slave.link, slave.name, slave.path)
