"""Golden machines with known registers and volumes with usual providers, for tests of unlocking."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from recipes.golden.manifest import GoldenMachine, Omitted, RegisterRow
from recipes.golden.unlock import (
    Formatting,
    Rollback,
    Sealing,
    TpmPolicy,
    UnlockVolume,
    VolumeProvider,
)
from recipes.measure.tpm import register
from recipes.measure.trace import Established, HashAlgorithm, Step, Trace, digests_of
from recipes.measure.userspace import phase_traces

COVERED = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13)


def events(index: int, machine: str) -> tuple[bytes, ...]:
    """What a machine measures into a register; 0, 1 and 7 hold the platform and differ."""
    platform = machine if index in (0, 1, 7) else "image"
    return (f"PCR {index} of {platform}".encode(), b"separator")


def extended(*parts: bytes, algorithm: str = "sha256") -> bytes:
    """A PCR after these events."""
    value = bytes(hashlib.new(algorithm).digest_size)
    for part in parts:
        value = hashlib.new(algorithm, value + hashlib.new(algorithm, part).digest()).digest()
    return value


def machine(name: str = "m", *, omitted: Mapping[str, str] | None = None) -> GoldenMachine:
    """A machine with every register that a UEFI boot has, but for those omitted with a reason."""
    missing = dict(omitted or {})
    wanted = [index for index in COVERED if register(index) not in missing]
    traces = [Trace(register(index), _steps(index, name)) for index in wanted]
    traces += [trace for boot in traces if boot.register == "PCR11" for trace in phase_traces(boot)]
    rows = [
        RegisterRow(
            register=trace.register,
            algorithm=algorithm,
            value=_value(trace, name, algorithm.value),
            established=Established.BOOTED,
        )
        for trace in traces
        for algorithm in HashAlgorithm
    ]
    return GoldenMachine(
        name=name,
        vmm="qemu 7.2.22",
        identity="{}",
        launch=f"run-{name}.sh",
        registers=tuple(rows),
        policies=(),
        omitted=tuple(Omitted(register=key, reason=reason) for key, reason in missing.items()),
        traces=tuple(traces),
    )


def _steps(index: int, name: str) -> tuple[Step, ...]:
    return tuple(
        Step(
            register=register(index),
            operation="EV_IPL",
            digests=digests_of(part),
            size=len(part),
            source="test",
        )
        for part in events(index, name)
    )


def _value(trace: Trace, name: str, algorithm: str) -> bytes:
    index = int(trace.register.partition(":")[0].removeprefix("PCR"))
    boot = events(index, name)
    phases = ("enter-initrd", "leave-initrd", "sysinit", "ready")[: len(trace.steps) - len(boot)]
    return extended(*boot, *(phase.encode() for phase in phases), algorithm=algorithm)


def volume(
    *names: str,
    tpm2: TpmPolicy | None = None,
    formatting: Formatting = Formatting.IF_BLANK,
    marker: bool = True,
    escrow: bool = False,
) -> UnlockVolume:
    """A data partition with these providers; all of them can give the key of a new volume."""
    providers = tuple(VolumeProvider(name=name, formats=True) for name in names or ("tpm2",))
    return UnlockVolume(
        name="data",
        key=("data",),
        providers=providers,
        formatting=formatting,
        marker=marker,
        escrow=escrow,
        tpm2=tpm2,
    )


def signed(*pcrs: int, release: int = 0) -> TpmPolicy:
    rollback = Rollback(0x01801C00, release) if release else None
    return TpmPolicy(sealing=Sealing.SIGNED, pcrs=pcrs, rollback=rollback)


def literal(*pcrs: int) -> TpmPolicy:
    return TpmPolicy(sealing=Sealing.LITERAL, pcrs=pcrs)
