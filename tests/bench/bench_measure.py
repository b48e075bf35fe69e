"""How long predicting many machines takes: ``python -m tests.bench.bench_measure [MACHINES]``.

The image is an 18 MB UKI of random bytes; firmware is the recorded OVMF build. Hashing in four banks is all
the cost, so ten machines should take about as long as one.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace

from recipes.measure import boot
from recipes.measure.boot import BootInputs
from recipes.measure.stub import StubInputs
from recipes.measure.trace import ALL_ALGORITHMS
from recipes.units import MIB
from tests.unit.measure_images import pe_image, uki
from tests.vectors import pcr_cases as cases

KERNEL_SIZE, INITRD_SIZE = 12 * MIB, 6 * MIB


def inputs() -> BootInputs:
    """An image of about 18 MB with the recorded firmware."""
    case = cases.load("q35-512m-1cpu")
    noise = random.Random(1)
    image = uki(
        osrel=b"ID=bench\n",
        cmdline=b"console=ttyS0",
        linux=pe_image([(".text", noise.randbytes(KERNEL_SIZE))]),
        initrd=noise.randbytes(INITRD_SIZE),
    )
    return BootInputs(
        firmware_code=cases.flash(cases.stored_flash(case)),
        firmware_model=cases.model(case),
        variables=cases.variables(case),
        gpt_event=bytes(612),
        stub=StubInputs(name="bench.efi", uki=image),
    )


def run(machines: int) -> tuple[float, float]:
    """Seconds of the shared part, and of all machines in all banks."""
    case = cases.load("q35-512m-1cpu")
    given, base, tables = inputs(), cases.machine(case), cases.acpi(case)
    start = time.perf_counter()
    prepared = boot.prepare(given)
    shared = time.perf_counter()
    for number in range(machines):
        machine = replace(base, vcpus=number + 1)
        prediction = boot.replay_boot(machine, prepared, tables)
        for trace in prediction.traces:
            for algorithm in ALL_ALGORITHMS:
                prediction.value(trace.register, algorithm)
    return shared - start, time.perf_counter() - shared


def main() -> None:
    """Prints one line."""
    machines = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    shared, each = run(machines)
    print(f"{machines} machines: {shared:.3f} s shared, {each:.3f} s for all ({each / machines:.4f} s each)")


if __name__ == "__main__":
    main()
