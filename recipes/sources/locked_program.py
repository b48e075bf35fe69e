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
_NOWHERE = "build in a file system that is mounted without noexec"


def check_host(program: str) -> None:
    """Nothing, where programs of locked packages run.

    Raises:
        ToolError: this machine is no x86-64 Linux.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", ARCHITECTURE):
        advice = "the programs of locked packages are for x86-64 Linux; build there"
        raise ToolError([program], f"does not run on {system} {machine}", advice=advice)


def run_by_loader(
    tree: str,
    program: str,
    arguments: Sequence[str],
    *,
    libraries: Sequence[str],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600.0,
    advice: str = "",
) -> str:
    """What a program printed that was run by the loader and with the libraries of its own packages alone.

    Args:
        tree: where the packages are laid out; a relative path is one from ``cwd``.
        program: its tree path.
        libraries: tree paths of the folders that the loader looks in.
        environment: all that it sees of one, besides what makes every run alike.
        advice: for an error of the program's.

    Raises:
        ToolError: it does not start, failed or did not end in time.
    """
    loader = [f"{tree}/{LOADER}", "--inhibit-cache"]
    loader += ["--library-path", ":".join(f"{tree}/{path}" for path in libraries)]
    argv = [posixpath.basename(program), *arguments]
    try:
        result = subprocess.run(
            [*loader, f"{tree}/{program}", *arguments],
            cwd=cwd,
            env={"PATH": "", "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.output or b"").decode("utf-8", "replace")
        raise ToolError(argv, f"still running after {timeout:.0f} s", said, advice) from None
    except OSError as error:
        what = f"cannot be started: {str(error.strerror).lower()}"
        raise ToolError(argv, what, advice=_NOWHERE) from None
    text = result.stdout.decode("utf-8", "replace")
    if result.returncode:
        raise ToolError(argv, result.returncode, text, advice)
    return text


class LockedProgram:
    """A program of a tree, laid out in a folder with what it needs.

    Args:
        tree: unpacked packages.
        path: tree path of the program.
        folder: an empty folder, which has to outlive this object.
        libraries: tree paths of libraries that it only asks for while it runs.

    Raises:
        SpecError: the program or a library is not in the tree.
        ToolError: this machine is no x86-64 Linux.
    """

    def __init__(self, tree: FileTree, path: str, folder: Path, *, libraries: Sequence[str] = ()) -> None:
        check_host(path)
        missing = next((name for name in (path, *libraries) if name not in tree), None)
        if missing is not None:
            raise SpecError(f"{missing}: no package has it; add the one that does, or correct the path")
        closure = library_closure(tree, (path, *libraries), ARCHITECTURE)
        for name in closure:
            _lay_out(tree, name, folder)
        self._path, self._folder = path, folder
        self._libraries = sorted(
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
        return run_by_loader(
            str(self._folder),
            self._path,
            arguments,
            libraries=self._libraries,
            environment=environment,
            cwd=cwd,
            timeout=timeout,
        )


def _lay_out(tree: FileTree, path: str, folder: Path) -> None:
    node, place = tree[path], folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if node.type is NodeType.SYMLINK:
        place.symlink_to(node.target)
        return
    file = tree[node.target] if node.type is NodeType.HARDLINK else node
    place.write_bytes(file.read())
    place.chmod(0o755)
