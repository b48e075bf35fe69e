"""Programs out of locked packages, run here: the same bytes come out wherever the build runs.

The machine's own programs and libraries have no part in it: the program is started by the loader of its own
packages, which looks for libraries in their folders only. That takes a processor of the same kind, and a
kernel that is not older than the C library wants.

Spec: ld.so(8) of glibc 2.41: ``--library-path``, ``--inhibit-cache``.
"""

from __future__ import annotations

import platform
import posixpath
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import SpecError, ToolError
from ..formats.elf import library_closure
from ..formats.tree import FileTree, NodeType

ARCHITECTURE = "x86_64"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"  # System V ABI, AMD64 supplement, with a merged /usr


class LockedProgram:
    """A program of a tree, laid out in a folder with what it needs.

    Args:
        tree: unpacked packages.
        path: tree path of the program.
        folder: an empty folder, which has to outlive this object.
        libraries: tree paths of libraries that it only asks for while it runs.

    Raises:
        SpecError: the program or a library is not in the tree.
        ToolError: this machine's processor cannot run it.
    """

    def __init__(self, tree: FileTree, path: str, folder: Path, *, libraries: Sequence[str] = ()) -> None:
        if platform.machine() != ARCHITECTURE:
            what = f"this machine is {platform.machine()}, the program is for {ARCHITECTURE}"
            raise ToolError([path], what, advice="build on a machine of that kind")
        missing = next((name for name in (path, *libraries) if name not in tree), None)
        if missing is not None:
            raise SpecError(f"{missing}: no package has it; add the one that does, or correct the path")
        closure = library_closure(tree, (path, *libraries), ARCHITECTURE)
        for name in closure:
            _lay_out(tree, name, folder)
        self._name, self._folder = posixpath.basename(path), folder
        self._program = folder / path
        self._paths = sorted(
            {posixpath.dirname(name) for name in closure if ".so" in posixpath.basename(name)}
        )

    def run(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 600.0,
    ) -> str:
        """What it printed. Of the environment it sees only what is given here.

        Raises:
            ToolError: it failed or did not end in time.
        """
        shown = [self._name, *arguments]
        paths = ":".join(str(self._folder / path) for path in self._paths)
        start = [str(self._folder / LOADER), "--inhibit-cache", "--library-path", paths, str(self._program)]
        try:
            result = subprocess.run(
                [*start, *arguments],
                env={"PATH": "", "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ToolError(shown, f"did not end within {timeout:.0f} s") from None
        except OSError as error:
            raise ToolError(shown, f"does not start: {str(error.strerror).lower()}") from None
        text = result.stdout.decode("utf-8", "replace")
        if result.returncode:
            raise ToolError(shown, result.returncode, text)
        return text


def _lay_out(tree: FileTree, path: str, folder: Path) -> None:
    node, place = tree[path], folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if node.type is NodeType.SYMLINK:
        place.symlink_to(node.target)
        return
    file = tree[node.target] if node.type is NodeType.HARDLINK else node
    place.write_bytes(file.read())
    place.chmod(0o755)
