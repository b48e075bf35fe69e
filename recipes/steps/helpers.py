"""``helpers:IMAGE``: the C programs of the initramfs, compiled by the locked toolchain."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..schema import Buildable
from .digests import ROOT
from .packages import resolved_lock
from .task import OUT, Step, source_files
from .unpack import unpacked, workers

HELPERS = ROOT / "initrd" / "helpers"
# Where the scripts of the initramfs call them.
FOLDER = "usr/lib/goldsmith"


def helpers_path(image: Buildable) -> Path:
    """Path of the compiled helpers: a tar archive of files in ``usr/lib/goldsmith``."""
    return OUT / image.folder / "helpers.tar"


def step(image: Buildable) -> Step:
    """The step that compiles them, all of them: providers say which an image needs, and it takes a second."""
    return Step(
        basename="helpers",
        image=image,
        products=(helpers_path(image),),
        inputs=(resolved_lock(image), *source_files(HELPERS)),
        build=build,
        arguments={"lock": resolved_lock(image), "folder": HELPERS},
        doc="compile the C programs of the initramfs with the locked toolchain",
    )


def build(target: Path, *, lock: Path, folder: Path) -> None:
    """Writes the archive."""
    from ..formats.oci_tar import write_tar
    from ..formats.tree import FileTree
    from ..sources.toolchain import EXCLUDE, compile_helpers, program_names

    files = {path.name: path.read_bytes() for path in source_files(folder)}
    tree = FileTree()
    with (
        unpacked(lock, "toolchain", target, EXCLUDE) as (packages, _),
        # A killed build leaves it; the next one removes what is called so.
        tempfile.TemporaryDirectory(prefix=".spool.", dir=target.parent) as work,
    ):
        made = compile_helpers(packages, files, program_names(files), Path(work), workers=workers())
        for name, data in made.items():
            tree.add_file(f"{FOLDER}/{name}", data, 0o755, source=f"initrd/helpers/{name}.c")
    with target.open("wb") as out:
        write_tar(tree, out, epoch=0)


def read_helpers(path: Path) -> dict[str, bytes]:
    """The programs in the product of this step, by name.

    Raises:
        FormatError: it is not a tar archive of files.
    """
    from ..formats.tree import NodeType
    from ..sources.debs import read_spool

    return {
        name.removeprefix(f"{FOLDER}/"): node.read()
        for name, node in read_spool(path, "helpers").sorted()
        if node.type is NodeType.FILE
    }
