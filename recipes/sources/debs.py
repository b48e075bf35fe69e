"""A tree from Debian packages: unpacked by ourselves, without root, dpkg or maintainer scripts."""

from __future__ import annotations

import fnmatch
import hashlib
import multiprocessing
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import FormatError, SpecError
from ..formats import control, deb
from ..formats.control import Paragraph
from ..formats.relations import relations
from ..formats.tarstream import FileArchive, entries
from ..formats.tree import FileTree, Node, NodeType, Payload, sort_key

# Spec: Debian's merged /usr (base-files, usrmerge): these root directories are links into /usr.
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


@dataclass(frozen=True, kw_only=True)
class InstalledPackage:
    """What is known of a package in the tree; enough for a dpkg status entry and a bill of materials.

    Attributes:
        source: name of the source package; ``source_version`` is its version.
        paragraph: its control file.
        conffiles: absolute paths, as the package names them.
        md5sums: its file of that name, empty where there is none.
    """

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    paragraph: Paragraph
    conffiles: tuple[str, ...]
    md5sums: bytes


@dataclass(frozen=True)
class _Unpacked:
    package: InstalledPackage
    entries: list[tuple[str, Node]]


@dataclass(frozen=True)
class _Failure:
    """A FormatError on its way out of a worker; exceptions with several arguments do not survive pickling."""

    source: str
    what: str
    offset: int | None
    spec: str | None


@dataclass
class _Place:
    """What holds a path: a node, the index of its package, and the first name of a file that has several."""

    node: Node
    owner: int
    first_name: str = ""


def unpack(
    debs: Sequence[Path], spool_dir: Path, *, workers: int, exclude: Sequence[str] = ()
) -> tuple[FileTree, tuple[InstalledPackage, ...]]:
    """The merged tree of all packages, and the packages in the order given.

    ``/bin``, ``/sbin`` and ``/lib*`` are links into ``/usr``, wherever packages put their files. A directory
    has the metadata of the first package that ships it. A file in two packages must be the same in both, or
    one package must declare that it replaces the other's. Content stays in ``spool_dir``, one file for each
    package, which must outlive the tree. The result does not depend on ``workers``.

    Args:
        workers: processes to use; 1 means this one.
        exclude: patterns of tree paths to leave out, ``usr/share/doc/*``; ``*`` matches slashes too. The last
            pattern that matches counts, and one that begins with ``!`` brings back what it matches.

    Raises:
        FormatError: a file is not a package.
        SpecError: a package is listed twice, or packages do not fit together.

    Spec: Debian Policy 7.6.1 (Replaces); dpkg(1) ``--path-exclude``.
    """
    spool_dir.mkdir(parents=True, exist_ok=True)
    unpacked = _unpack_all(debs, spool_dir, workers)
    _check_unique(unpacked)
    merge = _Merge([item.package for item in unpacked])
    keep = _Filter(exclude)
    for index, item in enumerate(unpacked):
        merge.add(index, keep.select(_usr_merged(item.entries, item.package.name)))
    return merge.tree(), tuple(merge.packages)


def read_spool(path: Path, package: str) -> FileTree:
    """The tree of one package whose data archive lies unpacked in ``path``; content stays there.

    Raises:
        FormatError: it is not a tar archive of files.
    """
    tree = FileTree()
    with path.open("rb") as file:
        archive = FileArchive(path, file.fileno(), 0, path.stat().st_size, path.name)
        merged = _usr_merged(entries(archive, owner=package), package)
    for place, node in merged.items():
        _add_parents(tree, place, node)
        tree[place] = node
    return tree


def _unpack_all(debs: Sequence[Path], spool_dir: Path, workers: int) -> list[_Unpacked]:
    """Every package, unpacked, in the order given."""
    jobs = [(path, spool_dir / f"{index:04}.tar") for index, path in enumerate(debs)]
    results: list[_Unpacked | _Failure]
    if min(workers, len(jobs)) <= 1:
        results = [_unpack_one(*job) for job in jobs]
    else:
        # The largest first, so that no worker is left alone with a large one at the end.
        order = sorted(range(len(jobs)), key=lambda index: -debs[index].stat().st_size)
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            futures = {index: pool.submit(_unpack_one, *jobs[index]) for index in order}
            results = [futures[index].result() for index in range(len(jobs))]
    unpacked: list[_Unpacked] = []
    for result in results:
        if isinstance(result, _Failure):
            raise FormatError(result.source, result.what, offset=result.offset, spec=result.spec)
        unpacked.append(result)
    return unpacked


def _unpack_one(path: Path, spool_path: Path) -> _Unpacked | _Failure:
    """One package; the work of a worker process."""
    try:
        package = deb.open_deb(path)
        about = package.control()
        name = about.paragraph.get("Package")
        # From here on messages can say more than the digest that cached packages are named after.
        package = replace(package, source=f"{name} {about.paragraph.get('Version')} ({path.name})")
        with spool_path.open("wb") as spool:
            entries = package.unpack(spool, spool_path, owner=name)
        source, source_version = control.source_of(about.paragraph)
    except FormatError as error:
        return _Failure(error.source, error.what, error.offset, error.spec)
    installed = InstalledPackage(
        name=name,
        version=about.paragraph.get("Version"),
        architecture=about.paragraph.get("Architecture"),
        source=source,
        source_version=source_version,
        paragraph=about.paragraph,
        conffiles=about.conffiles,
        md5sums=about.md5sums,
    )
    return _Unpacked(installed, entries)


def _check_unique(unpacked: Iterable[_Unpacked]) -> None:
    seen: dict[str, str] = {}
    for item in unpacked:
        package = item.package
        if package.name in seen:
            what = f"package {package.name} is there twice, {seen[package.name]} and {package.version}"
            raise SpecError(f"packages: {what}; keep one of them")
        seen[package.name] = package.version


def _usr_merged(entries: Iterable[tuple[str, Node]], package: str) -> dict[str, Node]:
    """The entries of one package with everything of ``/bin``, ``/lib`` and so on below ``usr``."""
    merged: dict[str, Node] = {}
    for path, node in entries:
        place = _usr_path(path)
        if path in MERGED and node.type is NodeType.SYMLINK and node.target.lstrip("/") == place:
            place = path
        if node.type is NodeType.HARDLINK:
            node = replace(node, target=_usr_path(node.target))
        had = merged.get(place)
        if had is None:
            merged[place] = node
        elif not had.type is node.type is NodeType.DIRECTORY:
            what = f"{place!r} is there twice, in /usr and outside; /bin, /lib and so on are links into /usr"
            raise FormatError(f"package {package}", what)
    return merged


def _usr_path(path: str) -> str:
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


class _Filter:
    """Which paths of a package stay."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules = [
            (
                not pattern.startswith("!"),
                re.compile(fnmatch.translate(pattern.removeprefix("!").lstrip("/"))),
            )
            for pattern in reversed(patterns)
        ]

    def excludes(self, path: str) -> bool:
        """Whether the last pattern that matches leaves ``path`` out."""
        return next((excluded for excluded, rule in self._rules if rule.match(path)), False)

    def select(self, nodes: dict[str, Node]) -> tuple[dict[str, Node], set[str]]:
        """The nodes of a package, and which of their paths stay; what is above one that stays, stays too."""
        kept: set[str] = set()
        for path in nodes:
            if not self.excludes(path):
                while path not in kept:
                    kept.add(path)
                    path = path.rpartition("/")[0]
        return nodes, kept


@dataclass
class _Merge:
    """Packages laid one over the other; conflicts are gathered and reported together."""

    packages: list[InstalledPackage]
    places: dict[str, _Place] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)

    def add(self, owner: int, selection: tuple[dict[str, Node], set[str]]) -> None:
        """Lays one package over those before."""
        nodes, kept = selection
        for path, node in nodes.items():
            if path not in kept:
                continue
            place = _Place(node, owner)
            if node.type is NodeType.HARDLINK:
                # Each name holds the file itself until all packages are in: any of the names may yet be left
                # out.
                first = node.target
                while nodes[first].type is NodeType.HARDLINK:
                    first = nodes[first].target
                place = _Place(nodes[first], owner, first)
            had = self.places.get(path)
            if had is None or self._wins(path, place, had):
                self.places[path] = place

    def _wins(self, path: str, new: _Place, had: _Place) -> bool:
        """Whether ``new`` takes the path from ``had``; a conflict is noted."""
        ours, theirs = new.node, had.node
        both = {ours.type, theirs.type}
        if both == {NodeType.DIRECTORY}:
            return False
        if NodeType.DIRECTORY not in both:
            if self._replaces(new.owner, had.owner):
                return True
            if self._replaces(had.owner, new.owner) or _same(ours, theirs):
                return False
        first, second = self.packages[had.owner].name, self.packages[new.owner].name
        if ours.type is theirs.type:
            what = f"packages {first} and {second} both ship /{path}, and neither replaces the other"
        else:
            what = f"/{path} is a {theirs.type.value} in package {first} and a {ours.type.value} in {second}"
        self.conflicts.append(what)
        return False

    def _replaces(self, ours: int, theirs: int) -> bool:
        """Whether one package declares that its files replace the other's."""
        package, other = self.packages[ours], self.packages[theirs]
        groups = relations(package.paragraph.get("Replaces"), f"package {package.name}: Replaces")
        return any(item.allows(other.name, other.version) for group in groups for item in group)

    def tree(self) -> FileTree:
        """The tree of all packages.

        Raises:
            SpecError: the packages do not fit together.
        """
        tree = FileTree()
        links: dict[tuple[int, str], str] = {}
        for path in sorted(self.places, key=sort_key):
            self._check_parent(path)
            _add_parents(tree, path, self.places[path].node)
            tree[path] = self._node(path, links)
        if self.conflicts:
            shown = self.conflicts[:20] + (
                [f"and {len(self.conflicts) - 20} more"] if len(self.conflicts) > 20 else []
            )
            raise SpecError("packages: " + "\n".join(shown) + "; leave one of them out, or exclude the path")
        _add_root_links(tree)
        return tree

    def _node(self, path: str, links: dict[tuple[int, str], str]) -> Node:
        """The node at ``path``; of a file with several names, the first in tree order is the file itself."""
        place = self.places[path]
        if place.node.type is not NodeType.FILE:
            return place.node
        target = links.setdefault((place.owner, place.first_name or path), path)
        if target == path:
            return place.node
        return replace(place.node, type=NodeType.HARDLINK, payload=None, target=target, xattrs=())

    def _check_parent(self, path: str) -> None:
        """Notes a conflict where the nearest thing above ``path`` that a package ships is no directory."""
        parent = path.rpartition("/")[0]
        while parent and parent not in self.places:
            parent = parent.rpartition("/")[0]
        above = self.places.get(parent)
        if path and above is not None and above.node.type is not NodeType.DIRECTORY:
            first, second = self.packages[above.owner].name, self.packages[self.places[path].owner].name
            what = f"/{parent} is a {above.node.type.value} in package {first}, but {second} ships /{path}"
            self.conflicts.append(what)


def _same(left: Node, right: Node) -> bool:
    """Whether two nodes are the same file but for its time."""
    if replace(left, payload=None, mtime=0, source="") != replace(right, payload=None, mtime=0, source=""):
        return False
    if left.payload is None or right.payload is None:
        return left.payload is right.payload
    return left.payload.size == right.payload.size and _digest(left.payload) == _digest(right.payload)


def _digest(payload: Payload) -> bytes:
    digest = hashlib.sha256()
    for chunk in payload.chunks():
        digest.update(chunk)
    return digest.digest()


def _add_parents(tree: FileTree, path: str, node: Node) -> None:
    """The directories above ``path`` that no package ships, as old as the node that needs them."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        parent = "/".join(parts[:depth])
        if parent not in tree:
            tree[parent] = Node(type=NodeType.DIRECTORY, mode=0o755, mtime=node.mtime, source=node.source)


def _add_root_links(tree: FileTree) -> None:
    """The links of a merged /usr that no package ships, where they have a target."""
    for name in MERGED:
        target = tree.nodes.get(f"usr/{name}")
        if target is not None and name not in tree:
            tree[name] = Node(
                type=NodeType.SYMLINK,
                mode=0o777,
                mtime=target.mtime,
                target=f"usr/{name}",
                source=target.source,
            )
