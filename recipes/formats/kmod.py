"""The modules of one kernel: which are needed for a set of names, and the part of them an image carries.

Spec: kmod 30: modprobe(8) (names with ``-`` and ``_`` are equal, soft dependencies), depmod.d(5) (``updates``
comes before ``kernel``), kernel Documentation/kbuild/kbuild.rst (modules.order, modules.builtin).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from ..errors import FormatError, SpecError
from .kmod_depmod import builtin_aliases, depmod_files, underscores
from .kmod_object import SUFFIXES, ModuleInfo, decompress, module_name, read_module
from .tree import FileTree, NodeType

__all__ = ["MODULES", "ModuleDirectory", "ModuleInfo", "decompress", "module_name", "read_module", "releases"]

MODULES = "usr/lib/modules"


def releases(tree: FileTree) -> tuple[str, ...]:
    """The kernel releases a tree has modules of, sorted."""
    start = MODULES + "/"
    found = {path.removeprefix(start).partition("/")[0] for path in tree.nodes if path.startswith(start)}
    return tuple(sorted(found))


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; did you mean {', '.join(close)}?" if close else "; `modinfo` names the modules of a kernel"


class ModuleDirectory:
    """The module directory ``usr/lib/modules/<release>`` of a tree; modules are read when they are needed.

    Attributes:
        release: the kernel release, such as ``6.12.0-amd64``.
        paths: module name (with underscores) and its tree path, in the order of modules.order.
        builtin: names of what the kernel has built in.
    """

    def __init__(self, tree: FileTree, release: str) -> None:
        """Lists the modules of a release.

        Raises:
            SpecError: the tree has no modules of that release.
        """
        self.release, self._tree = release, tree
        self._prefix = f"{MODULES}/{release}/"
        self._infos: dict[str, ModuleInfo] = {}
        self._aliases: list[tuple[str, str]] | None = None
        self.paths = self._ordered()
        if not self.paths:
            known = ", ".join(releases(tree)) or "none"
            raise SpecError(f"{self._prefix}: no kernel modules here; the tree has these releases: {known}")
        lines = self._file("modules.builtin").decode("utf-8", "surrogateescape").split()
        self.builtin = frozenset(name for line in lines if (name := module_name(line)))
        self._builtin_aliases = {
            key
            for alias, _ in builtin_aliases(self._file("modules.builtin.modinfo"))
            if (key := underscores(alias))
        }

    def _file(self, name: str) -> bytes:
        node = self._tree.nodes.get(self._prefix + name)
        return node.read() if node is not None and node.type is NodeType.FILE else b""

    def _ordered(self) -> dict[str, str]:
        """Name and path, by modules.order and then by path; ``updates`` wins over an equal name elsewhere."""
        order: dict[str, int] = {}
        for line in self._file("modules.order").decode("utf-8", "surrogateescape").split():
            order.setdefault(line, len(order))
        ranked: list[tuple[bool, int, str, str]] = []
        for path, node in self._tree.nodes.items():
            if path.startswith(self._prefix) and node.type is NodeType.FILE and (name := module_name(path)):
                relative = path.removeprefix(self._prefix)
                plain = relative[: relative.rindex(".ko") + len(SUFFIXES[0])]
                elsewhere = not relative.startswith("updates/")
                ranked.append((elsewhere, order.get(plain, len(order)), path, name))
        chosen: dict[str, tuple[int, str]] = {}
        for _, position, path, name in sorted(ranked):
            chosen.setdefault(name, (position, path))
        return {name: place[1] for name, place in sorted(chosen.items(), key=lambda item: item[1])}

    def info(self, name: str) -> ModuleInfo:
        """What a module says about itself; ``name`` as in ``paths``.

        Raises:
            FormatError: the module does not parse.
        """
        if name not in self._infos:
            path = self.paths[name]
            self._infos[name] = read_module(self._tree[path].read(), path)
        return self._infos[name]

    def _soft(self, wanted: str) -> tuple[str, ...]:
        """The modules a soft dependency stands for; none when it is built in or absent.

        Where the kernel itself has an algorithm, a module with another implementation of it is left out:
        the crypto core asks for a module only when it has none (Linux crypto/api.c, crypto_larval_lookup).
        """
        name = wanted.replace("-", "_")
        if name in self.paths:
            return (name,)
        if name in self.builtin or name in self._builtin_aliases:
            return ()
        if self._aliases is None:  # reads every module once; only an alias as a soft dependency comes here
            pairs = (
                (underscores(alias), other) for other in self.paths for alias in self.info(other).aliases
            )
            self._aliases = [(pattern, other) for pattern, other in pairs if pattern]
        found = (other for pattern, other in self._aliases if fnmatchcase(name, pattern))
        return tuple(dict.fromkeys(found))

    def _before(self, name: str) -> Iterator[tuple[str, bool]]:
        """What is loaded before a module, and whether the module cannot do without it."""
        info = self.info(name)
        for wanted in info.soft_before:
            for found in self._soft(wanted):
                yield found, False
        for needed in info.depends:
            if needed in self.builtin and needed not in self.paths:
                continue
            if needed not in self.paths:
                raise FormatError(info.filename, f"needs {needed}, which {self._prefix} does not have")
            yield needed, True

    def _resolve(self, names: Iterable[str]) -> list[str]:
        wanted: list[str] = []
        problems = []
        for given in names:
            name = given.replace("-", "_")
            if name in self.paths:
                wanted.append(name)
            elif name not in self.builtin:
                hint = _suggest(name, (*self.paths, *self.builtin))
                problems.append(f"modules: {self.release} has no module {given!r}{hint}")
        if problems:
            raise SpecError("\n".join(problems))
        return wanted

    def _load_order(self, names: Iterable[str]) -> tuple[str, ...]:
        ordered: dict[str, None] = {}
        for first in self._resolve(names):
            hard: list[str] = [first]  # modules on the way down whose needs are not complete yet
            pending = [(first, self._before(first))] if first not in ordered else []
            while pending:
                name, rest = pending[-1]
                step = next(((found, must) for found, must in rest if found not in ordered), None)
                if step is None:
                    pending.pop()
                    hard.pop()
                    ordered[name] = None
                elif step[0] not in hard:
                    hard.append(step[0])
                    pending.append((step[0], self._before(step[0])))
                elif step[1]:
                    circle = " -> ".join((*hard[hard.index(step[0]) :], step[0]))
                    raise FormatError(self.paths[name], f"modules need each other: {circle}")
        return tuple(ordered)

    def closure(self, names: Iterable[str]) -> tuple[str, ...]:
        """Tree paths of the named modules and all they need, in the order they are loaded.

        Soft dependencies that come before are in it when the kernel has them; names that are built in are
        left out; ``-`` and ``_`` are equal.

        Raises:
            SpecError: a name is neither a module nor built in.
            FormatError: a module does not parse, or what it needs is missing.
        """
        return tuple(self.paths[name] for name in self._load_order(names))

    def select(self, names: Iterable[str]) -> FileTree:
        """A tree with only these modules and what they need, with the index files that ``modprobe`` reads.

        Raises:
            SpecError, FormatError: as ``closure``.
        """
        chosen = set(self._load_order(names))
        kept = [(name, path) for name, path in self.paths.items() if name in chosen]
        result = FileTree()
        for _, path in kept:
            self._copy(result, path)
        for name in ("modules.builtin", "modules.builtin.modinfo"):
            if self._prefix + name in self._tree:
                self._copy(result, self._prefix + name)
        relative = [path.removeprefix(self._prefix) for _, path in kept]
        order = "".join(f"{path[: path.rindex('.ko')]}.ko\n" for path in relative)
        result.add_file(f"{self._prefix}modules.order", order.encode("utf-8", "surrogateescape"))
        infos = [self.info(name) for name, _ in kept]
        builtin, modinfo = self._file("modules.builtin"), self._file("modules.builtin.modinfo")
        for name, data in depmod_files(infos, relative, builtin, modinfo):
            result.add_file(self._prefix + name, data)
        return result

    def _copy(self, result: FileTree, path: str) -> None:
        parts = path.split("/")
        for depth in range(len(parts)):
            above = "/".join(parts[:depth])
            if above in self._tree:
                result[above] = self._tree[above]
        result.add_parents(path)
        result[path] = self._tree[path]
