"""What a recipe says about the attestation service: its port, and who may hand in another workload."""

from __future__ import annotations

from ..reader import Marks, Place
from ..record import dataclass
from .volumes import FilePath
from .workload import WorkloadSpec

DEFAULT_PORT = 8000
# What the service is written in, and what makes its TLS key.
PROGRAMS = ("python3", "openssl")
# How the guest mounts a workload that came as a file.
LOOP = "loop"


@dataclass(frozen=True, kw_only=True)
class AttestSpec:
    """The attestation service of an image.

    Attributes:
        operators: a certificate, PEM: that of the one operator, or of a CA for operators. Whoever has a key
            that it vouches for may hand in another workload. Without it nobody may.
        port: it listens on, over TLS 1.3.
    """

    operators: FilePath | None = None
    port: int = DEFAULT_PORT


def check_attest(
    marks: Marks,
    place: Place,
    spec: AttestSpec,
    *,
    packages: tuple[str, ...],
    modules: tuple[str, ...],
    workload: WorkloadSpec | None,
) -> None:
    """Notes what the service lacks in an image.

    Args:
        packages: of the root file system.
        modules: of the root file system.
        workload: that of the image.
    """
    for name in PROGRAMS:
        if name not in packages:
            marks.add(place, f"the attestation service needs {name}; add it to rootfs.packages")
    if not 0 < spec.port < 65536:
        marks.add((*place, "port"), f"attest.port is {spec.port}; a port is 1 to 65535")
    if spec.operators is None:
        return
    here = (*place, "operators")
    if workload is None:
        marks.add(here, "there is no workload to exchange; write workload, or leave operators out")
    elif LOOP not in modules:
        marks.add(here, f"a workload that comes is mounted as a file; add {LOOP} to rootfs.modules")
