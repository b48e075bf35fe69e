"""What the boot script makes of kernel modules that do not load, in two shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

# What busybox's insmod says (modutils/modutils.c, moderror) for the names that start so.
INSMOD = """#!/bin/sh
case ${1##*/} in
    good*) exit 0 ;;
    idle*) echo "insmod: can't insert '$1': No such device" >&2 ;;
    above*) echo "insmod: can't insert '$1': unknown symbol in module, or unknown parameter" >&2 ;;
    *) echo "insmod: can't insert '$1': invalid module format" >&2 ;;
esac
exit 1
"""
UNKNOWN = "unknown symbol in module, or unknown parameter"
FOREIGN = "invalid module format"
ADVICE = "build it for the kernel of this UKI"
SCRIPT = """
die() { echo "die: $*"; exit 1; }
log() { echo "$*"; }
. ./functions
load_modules ./list
"""


@pytest.mark.parametrize("shell", ["dash", "busybox"])
@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["good", "good2"], []),
        (["idle", "good"], ["module idle has nothing to drive"]),
        (
            ["idle", "above", "good"],
            ["module idle has nothing to drive", "module above builds on one that has nothing to drive"],
        ),
        (
            ["good", "above"],
            [
                f"die: module above does not load: insmod: can't insert 'above': {UNKNOWN}; {ADVICE}",
            ],
        ),
        (
            ["idle", "other"],
            [
                "module idle has nothing to drive",
                f"die: module other does not load: insmod: can't insert 'other': {FOREIGN}; {ADVICE}",
            ],
        ),
    ],
)
def test_modules_that_do_not_load(tmp_path: Path, shell: str, modules: list[str], said: list[str]) -> None:
    text = (ROOT / "initrd/boot.sh").read_text()
    start = text.index("load_modules() {")
    function = text[start : text.index("\n}\n", start) + 3]
    assert "/run/insmod.log" in function
    (tmp_path / "functions").write_text(function.replace("/run/insmod.log", "./insmod.log"))
    (tmp_path / "list").write_text("".join(f"{module}\n" for module in modules))
    (tmp_path / "insmod").write_text(INSMOD)
    (tmp_path / "insmod").chmod(0o755)
    # A function, because busybox prefers its own insmod to one in PATH.
    lines = 'insmod() { ./insmod "$@"; }' + SCRIPT
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-c", lines]
    result = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout.splitlines(), result.stderr) == (said, "")
