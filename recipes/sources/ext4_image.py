"""An ext4 file system with a tree in it, made by a locked mke2fs: the same bytes for the same tree.

Spec: mke2fs(8) of e2fsprogs 1.47.2: ``-d`` takes a tar archive, which it reads with libarchive, and
SOURCE_DATE_EPOCH stands for the time of day; mke2fs.conf(5).
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from ..errors import SpecError
from ..formats.oci_tar import write_tar
from ..formats.tree import FileTree
from ..units import KIB, MIB
from .locked_program import LockedProgram

PROGRAM = "usr/sbin/mke2fs"
CONFIGURATION = "etc/mke2fs.conf"
# Asked for at run time only. Spec: e2fsprogs 1.47.2 misc/create_inode_libarchive.c.
LIBRARY = "usr/lib/x86_64-linux-gnu/libarchive.so.13"


def write_ext4(
    tree: FileTree,
    target: Path,
    *,
    tools: FileTree,
    work: Path,
    size: int,
    uuid: UUID,
    label: str,
    epoch: int,
) -> None:
    """Writes a file system of ``size`` bytes to the file ``target``, sparse where it is free.

    Args:
        tools: unpacked packages with mke2fs and libarchive.
        work: an empty folder for what is needed meanwhile.
        size: whole MiB.
        epoch: the time of the file system, and the latest of its files; seconds since 1970.

    Raises:
        SpecError: a package is missing, or the size is none.
        FormatError: the tree does not hold together.
        ToolError: mke2fs failed; the tree may be too large.
    """
    if size <= 0 or size % MIB:
        raise SpecError(f"file system of {size} bytes: not whole MiB")
    if CONFIGURATION not in tools:
        raise SpecError(f"{CONFIGURATION}: no package has it; add e2fsprogs")
    program = LockedProgram(tools, PROGRAM, work / "program", libraries=(LIBRARY,))
    archive, configuration = work / "tree.tar", work / "mke2fs.conf"
    configuration.write_bytes(tools[CONFIGURATION].read())
    with archive.open("wb") as out:
        write_tar(tree, out, epoch=epoch)
    with target.open("wb") as out:
        out.truncate(size)
    extended = f"hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    program.run(
        *("-q", "-F", "-t", "ext4", "-b", "4096", "-U", str(uuid), "-L", label, "-E", extended),
        *("-d", str(archive), str(target), f"{size // KIB}k"),
        environment={"SOURCE_DATE_EPOCH": str(epoch), "MKE2FS_CONFIG": str(configuration)},
    )
