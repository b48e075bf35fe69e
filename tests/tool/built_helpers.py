"""The C programs of the initramfs, for tests that run them: from the helpers step, or compiled here."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from recipes.sources.toolchain import read_helper
from recipes.steps.helpers import read_helpers
from tests.support import ROOT, require_tool

SOURCES = ROOT / "initrd" / "helpers"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
# Every wrong access and every overflow ends the program with a status of its own, so that no test takes it
# for one of the program's codes.
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SANITIZER_STATUS = 99
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_STATUS}",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}",
    "LSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}",
}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the programs lie until the tests end."""
    return tempfile.TemporaryDirectory(prefix="goldsmith-helpers-")


@cache
def helper(name: str, *, sanitized: bool = False) -> Path:
    """The program ``name``; a sanitized one, where the compiler can do that, stops at any wrong access."""
    path = Path(_folder().name) / f"{name}{'.sanitized' if sanitized else ''}"
    if not sanitized and _take_built(name, path):
        return path
    known = read_helper(name, {each.name: each.read_bytes() for each in SOURCES.iterdir() if each.is_file()})
    files = [str(SOURCES / source) for source in known.sources]
    libraries = [f"-l{library}" for library in known.libraries]
    argv = [require_tool("cc"), *FLAGS, "-o", str(path), *files, *libraries]
    if sanitized and subprocess.run([*argv, *SANITIZERS], capture_output=True).returncode == 0:
        return path
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def _take_built(name: str, path: Path) -> bool:
    """Whether an image's helpers are there, are not older than their sources, and run on this host."""
    newest = max(each.stat().st_mtime_ns for each in SOURCES.iterdir())
    for product in sorted((ROOT / "out").glob("*/helpers.tar")):
        data = read_helpers(product).get(name) if product.stat().st_mtime_ns > newest else None
        if data is None:
            continue
        path.write_bytes(data)
        path.chmod(0o755)
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        except OSError:
            continue
        # The loader's word for a C library that is older than that of the image.
        if done.returncode >= 0 and b"GLIBC_" not in done.stderr and done.returncode != 127:
            return True
    return False
