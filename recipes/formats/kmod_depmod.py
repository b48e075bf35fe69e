"""The index files of a module directory, as ``depmod`` works them out from the modules themselves.

Spec: kmod 30, tools/depmod.c: which symbols make a dependency, the order of dependencies and of lines.
One file differs on purpose: depmod writes the lines of modules.symbols in the order of its hash table, we
sort them; nothing reads that text, modules.symbols.bin is what counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .kmod_index import Entry, write_index
from .kmod_object import ModuleInfo, module_name

_DEVICE = re.compile(r"(char|block)-major-(\d+)-(\d+)")  # depmod.c output_devname


def _dependencies(modules: Sequence[ModuleInfo]) -> list[list[int]]:
    """For each module the positions of those that export what it needs, in the order of its symbols."""
    owner = {symbol: position for position, module in enumerate(modules) for symbol in module.exports}
    found = []
    for module in modules:
        owners = (owner[symbol] for symbol in module.needs if symbol in owner)
        found.append(list(dict.fromkeys(owners)))
    return found


def _topological(needs: list[list[int]]) -> list[int | None]:
    """A rank for each module, users before what they use; None for those in a cycle.

    Spec: kmod 30 depmod.c ``depmod_calculate_dependencies``: a stack of modules that nobody uses any more.
    """
    users = [0] * len(needs)
    for wanted in needs:
        for position in wanted:
            users[position] += 1
    roots = [position for position, count in enumerate(users) if not count]
    rank: list[int | None] = [None] * len(needs)
    done = 0
    while roots:
        position = roots.pop()
        rank[position], done = done, done + 1
        for used in needs[position]:
            users[used] -= 1
            if not users[used]:
                roots.append(used)
    return rank


def dependency_lists(modules: Sequence[ModuleInfo]) -> list[tuple[int, ...] | None]:
    """For each module the positions of everything it needs, last to load first; None in a cycle."""
    needs = _dependencies(modules)
    rank = _topological(needs)
    result: list[tuple[int, ...] | None] = []
    for position in range(len(modules)):
        if rank[position] is None:
            result.append(None)
            continue
        reached: set[int] = set()
        pending = [position]
        while pending:
            fresh = set(needs[pending.pop()]) - reached
            reached |= fresh
            pending.extend(fresh)
        ranked = sorted((order, other) for other in reached if (order := rank[other]) is not None)
        result.append(tuple(other for _, other in ranked))
    return result


def underscores(text: str) -> str | None:
    """An alias with ``-`` as ``_`` outside brackets; None when a bracket has no partner: depmod drops it."""
    pieces = re.split(r"(\[[^]]*\])", text)
    outside = pieces[::2]
    if any("[" in piece or "]" in piece for piece in outside):
        return None
    pieces[::2] = [piece.replace("-", "_") for piece in outside]
    return "".join(pieces)


def _device_line(module: ModuleInfo) -> str | None:
    """The line of modules.devname: complete as soon as a name and a number were seen."""
    name = number = ""
    for alias in module.aliases:
        if alias.startswith("devname:"):
            name = alias.removeprefix("devname:")
        elif match := _DEVICE.match(alias):
            number = f"{match[1][0]}{int(match[2])}:{int(match[3])}"
        if name and number:
            return f"{module.name} {name} {number}"
    return None


def _text(header: str, lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in (header, *lines)).encode("utf-8", "surrogateescape")


def _alias_entries(pairs: Sequence[tuple[str, str, int]]) -> list[Entry]:
    found = []
    for alias, name, priority in pairs:
        key = underscores(alias)
        if key is not None:
            found.append(Entry(key, name, priority))
    return found


def builtin_aliases(modinfo: bytes) -> list[tuple[str, str]]:
    """Alias and module of every ``module.alias=value`` of modules.builtin.modinfo, in file order."""
    found = []
    for item in modinfo.split(b"\0"):
        key, equals, value = item.partition(b"=")
        module, dot, field = key.partition(b".")
        if equals and dot and field == b"alias":
            found.append(
                (value.decode("utf-8", "surrogateescape"), module.decode("utf-8", "surrogateescape"))
            )
    return found


def depmod_files(
    modules: Sequence[ModuleInfo], paths: Sequence[str], builtin: bytes, builtin_modinfo: bytes
) -> tuple[tuple[str, bytes], ...]:
    """Name and content of every index file.

    Args:
        modules: in the order of modules.order.
        paths: of the modules, relative to the module directory.
        builtin: content of modules.builtin.
        builtin_modinfo: content of modules.builtin.modinfo; empty when the kernel has none.

    Raises:
        FormatError: a name or an alias is not 7-bit ASCII.
    """
    lists = dependency_lists(modules)
    lines = [
        (position, f"{paths[position]}:" + "".join(f" {paths[other]}" for other in needed))
        for position, needed in enumerate(lists)
        if needed is not None
    ]
    aliases = [(alias, m.name, i) for i, m in enumerate(modules) for alias in m.aliases]
    symbols = {symbol: (m.name, i) for i, m in enumerate(modules) for symbol in m.exports}
    softdeps = [f"softdep {m.name} {value}" for m in modules for value in m.softdeps]
    weakdeps = [f"weakdep {m.name} {value}" for m in modules for value in m.weakdeps]
    devices = [line for m in modules if (line := _device_line(m))]
    names = [
        name for line in builtin.decode("utf-8", "surrogateescape").split() if (name := module_name(line))
    ]
    symbol_lines = [f"alias symbol:{symbol} {symbols[symbol][0]}" for symbol in sorted(symbols)]
    symbol_entries = [Entry(f"symbol:{symbol}", *symbols[symbol]) for symbol in sorted(symbols)]
    built = [(alias, name, 0) for alias, name in builtin_aliases(builtin_modinfo)]
    return (
        ("modules.dep", "".join(f"{line}\n" for _, line in lines).encode("utf-8", "surrogateescape")),
        ("modules.dep.bin", write_index(Entry(modules[i].name, line, i) for i, line in lines)),
        (
            "modules.alias",
            _text("# Aliases extracted from modules themselves.", [f"alias {a} {n}" for a, n, _ in aliases]),
        ),
        ("modules.alias.bin", write_index(_alias_entries(aliases))),
        ("modules.softdep", _text("# Soft dependencies extracted from modules themselves.", softdeps)),
        ("modules.weakdep", _text("# Weak dependencies extracted from modules themselves.", weakdeps)),
        ("modules.symbols", _text("# Aliases for symbols, used by symbol_request().", symbol_lines)),
        ("modules.symbols.bin", write_index(symbol_entries)),
        ("modules.builtin.bin", write_index(Entry(name, "") for name in names)),
        ("modules.builtin.alias.bin", write_index(_alias_entries(built))),
        ("modules.devname", _text("# Device nodes to trigger on-demand module loading.", devices)),
    )
