"""What open_root makes of a root and of the hashes that veritysetup computed for it, in two shells."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

SHELLS = pytest.mark.parametrize("shell", ["dash", "busybox"])
BLOCKS = 130
WRITES_DOWN = 'echo "$*" >{folder}/called; cat >>{folder}/called'
# What stands in for the boot script.
SCRIPT = """
set -u
die() {{ printf 'die: %s' "$*"; exit 1; }}
. {folder}/devices.sh
wait_partition() {{ partition={folder}/$1; }}
ON_FAILURE={policy} root_uuid=1 hash_uuid=2 roothash={root_hash}
open_root
printf opened
"""


@dataclass(frozen=True)
class Opened:
    """What open_root said, and what it gave to dmtable."""

    said: str
    table: str
    root_hash: str


def open_root(
    shell: str,
    folder: Path,
    *,
    salt: str = "5a17",
    policy: str = "panic",
    dmtable: str = WRITES_DOWN,
    readable: bool = True,
) -> Opened:
    """Runs open_root with files for partitions, and with ``dmtable`` as the helper's whole script."""
    data, hashes = folder / "root", folder / "root-verity"
    data.write_bytes(b"goldsmith" * (BLOCKS * 4096 // 9) + bytes(BLOCKS * 4096 % 9))
    argv = [require_tool("veritysetup"), "format", f"--salt={salt}", str(data), str(hashes)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    (root_hash,) = re.findall(r"^Root hash: *\t*([0-9a-f]{64})$", told, re.MULTILINE)
    (folder / "dmtable").write_text("#!/bin/sh\n" + dmtable.format(folder=folder))
    (folder / "dmtable").chmod(0o755)
    if readable:
        (folder / "mapped").write_bytes(bytes(4096))
    script = (ROOT / "initrd/devices.sh").read_text()
    for path, stand_in in (
        ("/usr/lib/goldsmith/dmtable", "dmtable"),
        ("/run/verity", "verity"),
        ("/dev/mapper/$1", "mapped"),
    ):
        assert path in script
        script = script.replace(path, f"{folder}/{stand_in}")
    (folder / "devices.sh").write_text(script)
    lines = SCRIPT.format(folder=folder, policy=policy, root_hash=root_hash)
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-c", lines]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.stderr == ""
    called = folder / "called"
    return Opened(result.stdout, called.read_text() if called.exists() else "", root_hash)


@SHELLS
@pytest.mark.parametrize("salt", ["-", "5a17", "00" * 32, "f" * 512])
def test_the_table_has_the_values_of_veritysetup(shell: str, salt: str, tmp_path: Path) -> None:
    """Spec: Linux Documentation/admin-guide/device-mapper/verity.rst, "Construction Parameters"."""
    opened = open_root(shell, tmp_path, salt=salt)
    assert opened.said == "opened"
    assert opened.table == (
        f"create root ro\n0 {BLOCKS * 4096 // 512} verity 1 {tmp_path}/root {tmp_path}/root-verity 4096 4096 "
        f"{BLOCKS} 1 sha256 {opened.root_hash} {salt} 1 panic_on_corruption\n"
    )
    assert not list(tmp_path.glob("verity*"))


@SHELLS
@pytest.mark.parametrize(
    ("policy", "action"),
    [
        ("reboot", "restart_on_corruption"),
        ("poweroff", "panic_on_corruption"),
        ("shell", "panic_on_corruption"),
    ],
)
def test_what_the_kernel_does_about_a_wrong_block(
    shell: str, policy: str, action: str, tmp_path: Path
) -> None:
    assert open_root(shell, tmp_path, policy=policy).table.endswith(f" 1 {action}\n")


@SHELLS
def test_a_table_that_the_kernel_refuses(shell: str, tmp_path: Path) -> None:
    why = "dmtable: root: the kernel refuses the table: Invalid argument"
    opened = open_root(shell, tmp_path, dmtable=f"echo '{why}' >&2; exit 1")
    assert opened.said == f"die: the root does not verify: {why}; write the disk image again"


@SHELLS
def test_a_root_that_cannot_be_read(shell: str, tmp_path: Path) -> None:
    opened = open_root(shell, tmp_path, readable=False)
    what = rf"die: cannot read the verified root on {tmp_path}/root: .*mapped.*; the disk fails"
    assert re.fullmatch(what, opened.said)
