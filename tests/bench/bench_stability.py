"""How long a realm's RIM takes over a matrix of machines, beside one measurement of the same files.

The kernel is of 40 MiB and the initramfs of 64 MiB, both of random bytes; the matrix has 10 sizes of memory
from 256 MiB on and 20 sets of devices. The pages of the files are hashed once and the register is computed
once up to the device tree, so the matrix should take less than three measurements.
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.golden.stability import examine
from recipes.golden.stability_axes import axis, matrix
from recipes.machine import KvmtoolMachine
from recipes.machine.kvmtool_profiles import DEFAULT_PROFILE
from recipes.measure.kvmtool import replay
from recipes.steps.blobs import FileBlob
from recipes.units import MIB
from tests.bench.common import Row, measure

HERE = "tests.bench.bench_stability"
KERNEL_SIZE, INITRD_SIZE = 40 * MIB, 64 * MIB
BSS = 1 * MIB
RUNS = 3
# The other stack whose device tree is modelled; the rest need a captured one, which holds for one launch.
OTHER_PROFILE = "kvmtool-eac5-tf-rmm"


def rows() -> list[Row]:
    """The measured jobs."""
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder))
        return [row for algorithm in ("sha256", "sha512") for row in _rows(algorithm, files)]


def _rows(algorithm: str, files: tuple[Path, Path]) -> Iterator[Row]:
    size = KERNEL_SIZE + INITRD_SIZE
    one = measure(f"RIM, {algorithm}", size, f"{HERE}:job_one", algorithm, *files, runs=RUNS)
    yield one
    jobs = (("RIM of 200 machines", "job_matrix"), ("stability report, 180 machines", "job_report"))
    for name, job in jobs:
        row = measure(f"{name}, {algorithm}", size, f"{HERE}:{job}", algorithm, *files, runs=RUNS)
        yield row.against(one, "one measurement")
    name = f"RIM of 200 machines, {algorithm}, {OTHER_PROFILE}"
    row = measure(name, size, f"{HERE}:job_matrix", algorithm, *files, OTHER_PROFILE, runs=RUNS)
    yield row.against(one, "one measurement")


def job_one(algorithm: str, kernel: str, initrd: str) -> None:
    """One measurement."""
    case = _case(algorithm, kernel, initrd)
    replay(case.machine, case.kernel, case.initrd)


def job_matrix(algorithm: str, kernel: str, initrd: str, profile: str = DEFAULT_PROFILE) -> None:
    """Ten sizes of memory by twenty sets of devices, and what each option does to the RIM."""
    case = _case(algorithm, kernel, initrd, profile)
    memory = ",".join(str(256 + 64 * step) for step in range(10))
    axes = (axis("memory", memory), axis("disks", "0-4"), axis("nics", "0-3"))
    report = examine(case.machine, case.kernel, case.initrd, axes, alone=False)
    assert len({row.rim for row in report.rows}) == 10 * 8


def job_report(algorithm: str, kernel: str, initrd: str) -> None:
    """The default report: its matrix, and every other option changed alone."""
    case = _case(algorithm, kernel, initrd)
    examine(case.machine, case.kernel, case.initrd, matrix(case.machine, {}))


@dataclass(frozen=True)
class _Case:
    machine: KvmtoolMachine
    kernel: FileBlob
    initrd: FileBlob


def _case(algorithm: str, kernel: str, initrd: str, profile: str = DEFAULT_PROFILE) -> _Case:
    machine = KvmtoolMachine(
        name="bench", profile=profile, vcpus=1, memory=256 * MIB, algorithm=algorithm, islet=True
    )
    return _Case(machine, FileBlob.of(Path(kernel)), FileBlob.of(Path(initrd)))


def _write(folder: Path) -> tuple[Path, Path]:
    """A kernel with an arm64 header, and an initramfs."""
    noise = random.Random(1)
    # Spec: Linux Documentation/arch/arm64/booting.rst, decompressed kernel image.
    header = struct.pack("<2I6Q4sI", 0, 0, 0, KERNEL_SIZE + BSS, 0, 0, 0, 0, b"ARM\x64", 0)
    kernel, initrd = folder / "Image", folder / "initramfs.cpio.gz"
    kernel.write_bytes(header + noise.randbytes(KERNEL_SIZE - len(header)))
    initrd.write_bytes(noise.randbytes(INITRD_SIZE))
    return kernel, initrd
