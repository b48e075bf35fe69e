"""Launches of IGVM files that are bytes in memory."""

from __future__ import annotations

import hashlib

from recipes.formats.igvm import parse_igvm
from recipes.machine.sev import SevMachine, SevMode
from recipes.machine.sev_cpus import CPU_MODELS, CpuSignature
from recipes.measure.igvm import IgvmLaunch, replay
from recipes.measure.igvm_image import IgvmImage
from recipes.measure.sev import SevPrediction


def image(data: bytes) -> IgvmImage:
    file = parse_igvm(data, "F.igvm", size=len(data))

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return IgvmImage.of("F.igvm", file, sha256=hashlib.sha256(data), read=read)


def machine(*, vcpus: int = 1, features: int = 1, cpu: CpuSignature | None = None) -> SevMachine:
    signature = cpu or CPU_MODELS["EPYC-v4"]
    return SevMachine(name="test", mode=SevMode.SEV_SNP, vcpus=vcpus, cpu=signature, features=features)


def launch(
    igvm: IgvmImage, *, vcpus: int = 1, features: int = 1, cpu: CpuSignature | None = None
) -> IgvmLaunch:
    return IgvmLaunch(machine=machine(vcpus=vcpus, features=features, cpu=cpu), igvm=igvm)


def predict(
    data: bytes, *, vcpus: int = 1, features: int = 1, cpu: CpuSignature | None = None
) -> SevPrediction:
    return replay(launch(image(data), vcpus=vcpus, features=features, cpu=cpu))
