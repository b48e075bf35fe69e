"""Our module indexes and closures against kmod's own programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipes.formats.kmod import ModuleDirectory, read_module
from recipes.formats.tree import FileTree, NodeType
from tests.support import require_tool
from tests.unit.kmod_samples import RELEASE, ROOT, sample_tree

pytestmark = pytest.mark.tool


def _lay(tree: FileTree, root: Path) -> None:
    for path, node in tree.sorted():
        if node.type is NodeType.DIRECTORY:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).write_bytes(node.read())
    (root / "lib").symlink_to("usr/lib")


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample directory, indexed by depmod."""
    depmod = require_tool("depmod")
    root = tmp_path_factory.mktemp("kmod")
    _lay(sample_tree(), root)
    subprocess.run([depmod, "-b", root, RELEASE], check=True)
    return root


def _version() -> int:
    text = subprocess.run([require_tool("depmod"), "-V"], check=True, capture_output=True, text=True).stdout
    return int(text.split()[2])


def test_every_index_is_what_depmod_writes(laid: Path) -> None:
    tree = sample_tree()
    directory = ModuleDirectory(tree, RELEASE)
    ours = directory.select(list(directory.paths))
    compared = []
    for file in sorted((laid / ROOT).glob("modules.*")):
        if file.suffix == ".bin" and _version() >= 34:
            continue  # since kmod 34 the same nodes are laid out in another order
        want, got = file.read_bytes(), ours[f"{ROOT}/{file.name}"].read()
        if file.name == "modules.symbols":  # depmod's order is that of its hash table
            want, got = b"".join(sorted(want.splitlines(True))), b"".join(sorted(got.splitlines(True)))
        assert got == want, file.name
        compared.append(file.name)
    assert {"modules.dep", "modules.alias", "modules.softdep", "modules.symbols", "modules.devname"} <= set(
        compared
    )


@pytest.mark.parametrize("name", ["delta", "gamma", "epsilon", "sum_generic", "alpha-lib"])
def test_closure_is_what_modprobe_loads(laid: Path, tmp_path: Path, name: str) -> None:
    modprobe = require_tool("modprobe")
    tree = sample_tree()
    _lay(ModuleDirectory(tree, RELEASE).select([name]), tmp_path)
    closure = ModuleDirectory(tree, RELEASE).closure([name])
    for root in (laid, tmp_path):  # modprobe reads depmod's index, and ours
        argv: list[str] = [
            modprobe,
            "-d",
            str(root),
            "-S",
            RELEASE,
            "-C",
            "/dev/null",
            "--show-depends",
            name,
        ]
        output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        lines = (line.split()[1].partition("/lib/modules/")[2] for line in output.splitlines())
        loaded = list(dict.fromkeys(lines))
        assert sorted(loaded) == sorted(path.partition("/lib/modules/")[2] for path in closure)
        assert loaded[-1] == closure[-1].partition("/lib/modules/")[2]


def test_modinfo(laid: Path) -> None:
    modinfo = require_tool("modinfo")
    path = laid / ROOT / "kernel/drivers/gamma.ko"
    info = read_module(path.read_bytes(), str(path))
    for field, values in (("alias", info.aliases), ("depends", ("alpha-lib,beta",))):
        output = subprocess.run(
            [modinfo, "-F", field, path], check=True, capture_output=True, text=True
        ).stdout
        assert tuple(output.split()) == values
