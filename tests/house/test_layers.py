"""Imports point one way, and each room keeps to what it may know; read off the syntax tree."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

BASE = frozenset({"machine", "app_manager", "binary", "units", "errors", "record", "reader", "document"})
BELOW_STEPS = BASE | {"formats", "measure", "vmm", "schema", "sources", "disks", "golden", "clouds", "hats"}
# What each room may import of the others. `commands` and `steps` are at home everywhere.
MAY_IMPORT = {
    "formats": BASE,
    "measure": BASE | {"formats"},
    "vmm": BASE | {"formats"},
    "schema": BASE | {"formats", "measure"},
    "sources": BASE | {"formats", "measure"},
    "disks": BASE | {"formats", "measure"},
    "golden": BASE | {"formats", "measure"},
    "clouds": BASE | {"formats", "measure", "disks"},
    "hats": BASE | {"formats", "measure"},
    "broker": BASE | {"formats", "measure", "golden"},
    "attest": BASE | {"formats", "measure", "golden"},
    "steps": BELOW_STEPS,
    "commands": BELOW_STEPS | {"broker", "attest", "steps"},
    "__main__": BASE | {"commands"},
    "dodo": BASE | {"schema", "steps", "bootstrap"},
    "bootstrap": frozenset(),  # runs before anything is installed, and alone
    **dict.fromkeys(BASE, BASE),
}
# Packages of other people, by the modules that may import them.
THIRD_PARTY = {
    "yaml": ("reader", r"sources\.lock"),
    "guestfs": (r"sources\.guestfs_worker",),
    "cryptography": (
        r"formats\.(authenticode\w*|secureboot_keys|tls_certificates|escrow_key|efi_signature|efi_auth|p384|pcrsig|tpm2_\w+)",
        r"formats\.luks2\w*",
        r"hats\.signature",
        r"measure\.secureboot",
        r"sources\.secrets",
        r"broker\.(endorsement|release|tee|tee_roots|trust)",
        r"steps\.[\w.]+",
    ),
    "google": (r"hats\.(launcher|policy|proto_file)",),
    "elftools": (r"formats\.\w+",),
    "zlib_ng": (r"formats\.gzip", r"disks\.compressed"),
    "zstandard": (r"formats\.(zstd|decompress|kmod_object)", r"disks\.\w+"),
    "jinja2": (r"steps\.[\w.]+",),
    "doit": (r"steps\.[\w.]+", "dodo"),
    "uvicorn": (r"broker\.server",),
}
# With these a module could reach a file, a program or the network. `measure` gets bytes and returns values.
OUTSIDE = frozenset(
    {
        *("os", "io", "pathlib", "shutil", "subprocess", "socket", "tempfile", "urllib", "http", "mmap"),
        *("glob", "fileinput", "multiprocessing"),
    }
)
READS = frozenset(
    {"open", "read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "glob", "rglob"}
)
# Rooms that do not know where a build puts things.
NOWHERE = (
    frozenset({"formats", "measure", "vmm", "schema", "sources", "disks", "golden", "clouds", "hats"}) | BASE
)


@dataclass(frozen=True, order=True)
class Import:
    """One module imported by another; ``target`` is whole: ``recipes.formats.pe``, ``os``."""

    module: str
    target: str
    where: str


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by name."""
    paths = sorted((ROOT / "recipes").rglob("*.py"))
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items()} | {"dodo": ROOT / "dodo.py"}


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(name: str, path: Path) -> Iterator[Import]:
    """Every import of a module, those inside functions and for type checkers too."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, where)
            continue
        base = node.module or ""
        if node.level:
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, base] if base else package)
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            yield Import(name, whole if whole in modules() else base, where)


def room(module: str) -> str:
    """The room a module is in: ``formats`` for ``recipes.formats.pe``."""
    return module.split(".")[1] if module.startswith("recipes.") else module


ALL = sorted(item for name, path in modules().items() for item in imports(name, path))


def test_there_is_something_to_check() -> None:
    assert {room(item.module) for item in ALL} >= {"formats", "measure", "vmm", "sources", "golden", "steps"}
    assert Import("recipes.formats.uki", "recipes.formats.pe", "") in [
        Import(item.module, item.target, "") for item in ALL
    ]


def test_every_module_is_in_a_known_room() -> None:
    unknown = [name for name in modules() if name != "recipes" and room(name) not in MAY_IMPORT]
    assert not unknown, f"say in tests/house/test_layers.py what these may import: {unknown}"


def test_imports_point_down() -> None:
    wrong = [
        f"{item.where}: {room(item.module)} imports {item.target}, may import "
        f"{', '.join(sorted(MAY_IMPORT[room(item.module)])) or 'nothing of ours'}"
        for item in ALL
        if item.target.startswith("recipes.")
        and room(item.target) != room(item.module)
        and room(item.target) not in MAY_IMPORT[room(item.module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports inside functions count: a cycle is a cycle."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for item in ALL:
        if item.target in graph:
            graph[item.module].add(item.target)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_packages_of_others_stay_where_they_belong() -> None:
    wrong = []
    for item in ALL:
        package = item.target.split(".")[0]
        if package in sys.stdlib_module_names or package == "recipes":
            continue
        allowed = THIRD_PARTY.get(package, ())
        name = item.module.removeprefix("recipes.")
        if not any(re.fullmatch(pattern, name) for pattern in allowed):
            places = " and ".join(allowed) or "nobody"
            wrong.append(f"{item.where}: {name} imports {package}, which is for {places}")
    assert not wrong, "\n".join(wrong)


def test_modules_inside_the_package_import_each_other_relatively() -> None:
    """So that the lower rooms can be a package of their own."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: import it relatively"
        for name, path in modules().items()
        if name != "dodo"
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("recipes"))
        or (isinstance(node, ast.Import) and any(item.name.startswith("recipes") for item in node.names))
    ]
    assert not wrong, "\n".join(wrong)


def test_measure_opens_no_file() -> None:
    wrong = [
        f"{item.where}: measure imports {item.target}; hand it the bytes"
        for item in ALL
        if room(item.module) == "measure" and item.target.split(".")[0] in OUTSIDE
    ]
    for name, path in modules().items():
        if room(name) == "measure":
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno}: measure calls {called}; hand it the bytes"
                for node in ast.walk(tree(path))
                if isinstance(node, ast.Call) and (called := _called(node)) in READS
            ]
    assert not wrong, "\n".join(wrong)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def test_below_steps_nothing_knows_the_build_folder() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: names the build folder; take the path as an argument"
        for name, path in modules().items()
        if room(name) in NOWHERE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_out(node.value)
    ]
    assert not wrong, "\n".join(wrong)


def _names_out(text: str) -> bool:
    return text == "out" or re.search(r"(?<![\w./-])out/", text) is not None


def test_errors_are_never_swallowed_whole() -> None:
    """No bare ``except``, no ``except Exception`` that does not raise again: a bug shows."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: catches everything; name what you expect"
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_edges_end_the_process() -> None:
    """``sys.exit`` and the like belong to what was started by hand, and to what ends it by signal."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: ends the process; raise an ImageError"
        for name, path in modules().items()
        if room(name) not in ("dodo", "bootstrap", "__main__")
        and name not in ("recipes.steps.__main__", "recipes.steps.signals")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and _called(node) in ("exit", "_exit", "abort")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["out", "out/x", "written below out/"])
def test_what_names_the_build_folder(text: str) -> None:
    assert _names_out(text)


@pytest.mark.parametrize("text", ["layout/x", "a/out/b", "outer", "without/"])
def test_what_does_not(text: str) -> None:
    assert not _names_out(text)
