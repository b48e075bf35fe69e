"""The command line that starts a realm, from the machine that is measured.

Golden values name it, warden makes it, and ``goldsmith measure`` takes it; all of them have it from here.
"""

from __future__ import annotations

import shlex

from ...machine import KvmtoolMachine


def command_line(
    machine: KvmtoolMachine, kernel: str, initrd: str, applications: tuple[str, ...], *, measurer: bool
) -> str:
    """Kvmtool's command line, quoted for a shell; warden gives each application a disk of its name.

    Args:
        kernel: file name; initrd likewise.
        measurer: with the options that only the measurer knows.
    """
    from ...vmm.kvmtool import render
    from ...vmm.kvmtool_parse import KvmtoolFiles

    files = KvmtoolFiles(
        kernel=kernel,
        initrd=initrd,
        disks=tuple(f"{name}.img" for name in applications),
        metadata="metadata.bin",
    )
    return shlex.join(render(machine, files, measurer=measurer))
