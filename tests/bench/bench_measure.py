"""How long predicting takes, for one machine and for ten.

The image is an 18 MiB UKI of random bytes; firmware is the recorded OVMF build. Hashing in four banks is all
the cost, so ten machines should take about as long as one.
"""

from __future__ import annotations

import random
from dataclasses import replace

from recipes.measure import boot
from recipes.measure.boot import BootInputs
from recipes.measure.stub import StubInputs
from recipes.measure.trace import ALL_ALGORITHMS
from recipes.units import MIB
from tests.bench.common import Row, measure
from tests.unit.measure_images import pe_image, uki
from tests.vectors import pcr_cases as cases

HERE = "tests.bench.bench_measure"
KERNEL_SIZE, INITRD_SIZE = 12 * MIB, 6 * MIB


def rows() -> list[Row]:
    """The measured jobs."""
    size = KERNEL_SIZE + INITRD_SIZE
    one = measure("prediction of 1 machine", size, f"{HERE}:job_predict", 1, runs=3)
    ten = measure("prediction of 10 machines", size, f"{HERE}:job_predict", 10, runs=3)
    return [one, ten.against(one, "1 machine")]


def job_predict(machines: str) -> None:
    """Every register of machines that differ in their processors, in all banks."""
    case = cases.load("q35-512m-1cpu")
    base, tables, prepared = cases.machine(case), cases.acpi(case), boot.prepare(_inputs())
    for number in range(int(machines)):
        prediction = boot.replay_boot(replace(base, vcpus=number + 1), prepared, tables)
        for trace in prediction.traces:
            for algorithm in ALL_ALGORITHMS:
                prediction.value(trace.register, algorithm)


def _inputs() -> BootInputs:
    """An image of about 18 MiB with the recorded firmware."""
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
