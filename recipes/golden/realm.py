"""From a replayed realm launch to its entry in the golden manifest."""

from __future__ import annotations

from collections.abc import Sequence

from ..machine import KvmtoolMachine
from ..measure.islet import RemPrediction
from ..measure.kvmtool import RealmPrediction
from ..measure.trace import Established, Trace
from .manifest import GoldenMachine, Policy, RegisterPolicy, RegisterRow

# What a verifier does with the registers of a realm, and what they cover.
# Spec: RMM specification 1.0-rel0 section A7.1; islet-project/realm-verifier 567e908.
RIM_COVERS = "kernel, initramfs, device tree (memory, vCPUs, number of devices, command line), entry point"
REM_COVERS = "applications that app-manager provisioned: vendor key, its certification, image configuration"
STAND_IN_COVERS = f"{REM_COVERS}; the stand-in that this image has extends nothing, so it stays zero"

# What no register of a realm covers.
UNMEASURED = (
    "content of disks: app-manager encrypts them, and no register holds what is on them",
    "realm personalization value, metadata, MAC address, vsock CID, tap device and paths on the host",
    "which device is behind an interrupt: the device tree of PCI devices says only how many there are",
    "secondary vCPUs' registers where the RMM measures runnable RECs only",
    "RAM that the launch does not populate; the guest sees zeros or its own data there",
    "network, vsock and console traffic, time, and everything the realm does that extends no register",
)


def golden_realm(
    machine: KvmtoolMachine,
    prediction: RealmPrediction,
    *,
    launch: str,
    rems: Sequence[tuple[str, RemPrediction]] = (),
    extended: bool = True,
) -> GoldenMachine:
    """The manifest's entry of one realm machine.

    Args:
        launch: the command line that starts it.
        rems: REM values by name, ``REM0:hello``: the applications in the order in which they extend it.
        extended: whether the image has an application manager that extends them.
    """
    rows = [
        RegisterRow(
            register="RIM",
            algorithm=prediction.algorithm,
            value=prediction.rim,
            established=prediction.established,
        )
    ]
    traces = [prediction.trace]
    for name, rem in rems:
        rows.append(
            RegisterRow(
                register=name,
                algorithm=prediction.algorithm,
                value=rem.value,
                established=Established.SPEC_ONLY,
            )
        )
        traces.append(Trace(name, rem.trace.steps))
    policies = [RegisterPolicy(register="RIM", policy=Policy.MACHINE, covers=RIM_COVERS)]
    if rems:
        name = rems[0][0].partition(":")[0]
        policy, covers = (Policy.ENFORCE, REM_COVERS) if extended else (Policy.RECORD, STAND_IN_COVERS)
        policies.append(RegisterPolicy(register=name, policy=policy, covers=covers))
    return GoldenMachine(
        name=machine.name,
        vmm=f"kvmtool, {prediction.profile}{' with --islet' if machine.islet else ''}",
        identity=machine.identity(),
        launch=launch,
        registers=tuple(rows),
        policies=tuple(policies),
        omitted=(),
        traces=tuple(traces),
    )
