"""How long one launch digest and a matrix of 48 take, as whole processes, beside sev-snp-measure.

Debian's 4 MiB firmware, and a kernel and an initrd of a few MiB. Both programs run from compiled modules, as
an installation has them. Without sev-snp-measure its rows are left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.common import ROOT, Row, measure, measure_in_turn
from tests.vectors.sev_inputs import AMDSEV, content, write_inputs

HERE = "tests.bench.bench_snp"
CPUS = ("EPYC-v4", "EPYC-IBPB", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")
VCPUS = (1, 2, 4, 8, 16, 32, 48, 64)
RUNS = 15


def rows() -> list[Row]:
    """The measured jobs."""
    with tempfile.TemporaryDirectory() as place:
        folder = write_inputs(Path(place))
        names = ("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")
        kept = {name: os.environ.get(name) for name in names}
        os.environ |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": f"{place}/compiled"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            return _rows(folder)
        finally:
            for key, value in kept.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def _rows(folder: Path) -> list[Row]:
    size = len(content(AMDSEV))
    direct = len(content("kernel")) + len(content("initrd"))
    measure("compile", 0, _ours(folder, direct=True))
    pages = measure("4 KiB pages, SHA-384", size, f"{HERE}:job_pages", folder, runs=RUNS)
    jobs = [
        ("digest", size, _ours(folder)),
        ("digest, --json", size, _ours(folder, json=True)),
        ("digest with kernel", size + direct, _ours(folder, direct=True)),
        ("  with kernel, --json", size + direct, _ours(folder, direct=True, json=True)),
        ("matrix of 48", size, _ours(folder, matrix=True)),
    ]
    program = shutil.which("sev-snp-measure", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
    if program is not None:
        jobs += [
            ("sev-snp-measure", size, _theirs(program, folder)),
            ("  with kernel", size + direct, _theirs(program, folder, direct=True)),
        ]
    one, as_json, kernel, kernel_json, many, *others = measure_in_turn(*jobs, runs=RUNS)
    found = [pages, one.against(pages, "4 KiB pages"), many.against(one, "1 digest", wall=True)]
    if program is None:
        return [*found, as_json, kernel, kernel_json]
    theirs, their_kernel = others
    their_matrix = measure("  matrix of 48", size, f"{HERE}:job_their_matrix", program, folder)
    label = "sev-snp-measure"
    return [
        *found,
        theirs,
        one.against(theirs, label, wall=True),
        as_json.against(theirs, label, wall=True),
        their_kernel,
        kernel.against(their_kernel, label, wall=True),
        kernel_json.against(their_kernel, label, wall=True),
        their_matrix,
        many.against(their_matrix, label, wall=True),
    ]


def _ours(folder: Path, *, direct: bool = False, matrix: bool = False, json: bool = False) -> list[str]:
    words = [sys.executable, "-m", "recipes", "measure"]
    if json:
        words.append("--json")
    if matrix:
        words += ["--matrix-vcpus", ",".join(map(str, VCPUS)), "--matrix-cpus", ",".join(CPUS)]
    words += ["--", "qemu-system-x86_64", "-machine", "q35,confidential-guest-support=sev0"]
    words += ["-object", "sev-snp-guest,id=sev0,kernel-hashes=on", "-cpu", "EPYC-v4", "-smp", "4"]
    words += ["-bios", str(folder / AMDSEV)]
    if direct:
        words += ["-kernel", str(folder / "kernel"), "-initrd", str(folder / "initrd"), "-append", "x"]
    return words


def _theirs(
    program: str, folder: Path, *, direct: bool = False, vcpus: int = 4, cpu: str = "EPYC-v4"
) -> list[str]:
    words = [program, "--mode", "snp", "--vcpus", str(vcpus), "--vcpu-type", cpu]
    words += ["--ovmf", str(folder / AMDSEV)]
    if direct:
        words += ["--kernel", str(folder / "kernel"), "--initrd", str(folder / "initrd"), "--append", "x"]
    return words


def job_pages(folder: str) -> None:
    """Nothing but the hashes of the pages: what no measurement can do without."""
    view = memoryview(Path(folder, AMDSEV).read_bytes())
    for start in range(0, len(view), 4096):
        hashlib.sha384(view[start : start + 4096]).digest()


def job_their_matrix(program: str, folder: str) -> None:
    """One process for each shape, which is the only way it has."""
    for cpu in CPUS:
        for vcpus in VCPUS:
            argv = _theirs(program, Path(folder), vcpus=vcpus, cpu=cpu)
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
