"""VMs in a recipe of HATs': a family of them is one entry; and the networks that they are launched with.

Spec: private-compute-infra-toolkit/hats 7d61840, client/proto/launcher_config.proto, client/launcher/qemu.cc.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import product
from typing import Annotated

from ..errors import suggestion
from ..machine.hats import CvmType, HatsNetwork, HatsShape, NetworkMode, TcbVersion
from ..machine.sev_cpus import CpuSignature
from ..reader import Marks, Place, Size, Text
from ..record import dataclass, replace
from ..units import GIB, KIB, MIB, align_up, format_size
from .common import Word

# Names that QEMU's options hold, where a comma would start another one. Spec: Linux 6.12
# include/uapi/linux/if.h IFNAMSIZ.
Bridge = Annotated[str, Text(r"[A-Za-z0-9_.-]{1,15}", "virbr0")]
MIN_MEMORY, MAX_MEMORY, MAX_VCPUS = 256 * MIB, 1024 * GIB, 255
# Spec: QEMU 10.0 hw/core/machine.c set_memory_options(); hw/i386/pc_q35.c pc_q35_init() (RAM is split from
# here on); include/hw/pci-host/q35.h Q35_PCI_HOST_HOLE64_SIZE_DEFAULT; hw/i386/pc.c AMD_HT_START.
_MEMORY_UNIT, _SPLIT_Q35, _PCI_HOLE64, _HYPERTRANSPORT = 8 * KIB, 0xB000_0000, 32 * GIB, 0xFD_0000_0000
_MAX_TCB = 255  # Spec: AMD SEV-SNP ABI 56860, table 3 (TCB_VERSION): a byte each


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """A port of the host that leads to the workload."""

    port: int


@dataclass(frozen=True, kw_only=True)
class BridgeSpec:
    """A bridge of the host, the address that the VM has on it, and the gateway there."""

    device: Bridge
    address: str
    gateway: str


@dataclass(frozen=True, kw_only=True)
class NetworksSpec:
    """The network modes that VMs are launched with."""

    inbound_only: PortSpec | None = None
    inbound_and_outbound: PortSpec | None = None
    virtual_bridge: BridgeSpec | None = None


@dataclass(frozen=True, kw_only=True)
class CpuSpec:
    """The host's processor, as CPUID and attestation reports number it."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, kw_only=True)
class TcbSpec:
    """The lowest version of each part of AMD's firmware that is accepted."""

    boot_loader: int
    snp: int
    microcode: int
    tee: int = 0


@dataclass(frozen=True, kw_only=True)
class HatsMachineSpec:
    """A family of VMs: every combination of the lists is one, with a policy of its own.

    Attributes:
        networks: modes of ``networks``; all of them where none is named.
    """

    name: Word
    cvm_type: CvmType
    vcpus: tuple[int, ...]
    memory: tuple[Annotated[int, Size], ...]
    cpu: CpuSpec | None = None
    min_tcb_version: TcbSpec | None = None
    networks: tuple[NetworkMode, ...] = ()


def networks(spec: NetworksSpec) -> dict[NetworkMode, HatsNetwork]:
    """The modes of a recipe, in the order of the launcher's own."""
    found = {}
    for mode in NetworkMode:
        given = getattr(spec, mode.value)
        if isinstance(given, PortSpec):
            found[mode] = HatsNetwork(mode=mode, port=given.port)
        elif isinstance(given, BridgeSpec):
            found[mode] = HatsNetwork(
                mode=mode, bridge=given.device, address=given.address, gateway=given.gateway
            )
    return found


def check_networks(marks: Marks, spec: NetworksSpec) -> None:
    """Notes modes that the launcher would refuse, or that lead nowhere."""
    place: Place = ("networks",)
    if not networks(spec):
        marks.add(place, "networks: name one mode at least")
    for mode in (NetworkMode.INBOUND_ONLY, NetworkMode.INBOUND_AND_OUTBOUND):
        given = getattr(spec, mode.value)
        if given is not None and not 1 <= given.port <= 65535:
            marks.add((*place, mode.value, "port"), f"port: {given.port} is not 1 to 65535")
    bridge = spec.virtual_bridge
    if bridge is None:
        return
    here, parsed = (*place, NetworkMode.VIRTUAL_BRIDGE.value), []
    for key, text in (("address", bridge.address), ("gateway", bridge.gateway)):
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            marks.add((*here, key), f"{key}: {text!r} is no IPv4 address; write for example 10.1.2.3")
            continue
        why = _no_host(address)
        if why:
            marks.add((*here, key), f"{key}: {text} is {why}, and no machine's; write for example 10.1.2.3")
        parsed.append(address)
    # The launcher's command line has this mask and no other.
    if len(parsed) == 2 and int(parsed[0]) >> 8 != int(parsed[1]) >> 8:
        what = f"gateway: {bridge.gateway} is not in the network {parsed[0]}/24, which is what HATs sets up"
        marks.add((*here, "gateway"), what)
    if len(parsed) == 2 and parsed[0] == parsed[1]:
        what = f"gateway: {bridge.gateway} is the VM's own address; give the one that the bridge has"
        marks.add((*here, "gateway"), what)


def _no_host(address: ipaddress.IPv4Address) -> str:
    """What an address is for, where no machine of a /24 network can have it."""
    if address.is_multicast:
        return "for multicast"
    if address.is_loopback or address.is_unspecified or address.is_reserved:
        return "set aside (RFC 6890)"
    return {0: "the network itself", 255: "for broadcast"}.get(int(address) & 0xFF, "")


def check_machine(marks: Marks, spec: HatsMachineSpec, index: int, described: NetworksSpec) -> None:
    """Notes what no machine can have, and what does not belong together."""
    place: Place = ("machines", index)
    for key in ("vcpus", "memory", "networks"):
        values = getattr(spec, key)
        if not values and key != "networks":
            marks.add((*place, key), f"{key}: the list is empty")
        for number, value in enumerate(values):
            if value in values[:number]:
                marks.add((*place, key, number), f"{key}: listed twice")
    for number, vcpus in enumerate(spec.vcpus):
        if not 1 <= vcpus <= MAX_VCPUS:
            marks.add((*place, "vcpus", number), f"vcpus: {vcpus} is not 1 to {MAX_VCPUS}")
    for number, memory in enumerate(spec.memory):
        if not MIN_MEMORY <= memory <= MAX_MEMORY:
            marks.add((*place, "memory", number), "memory: must be 256MiB to 1024GiB")
    known = [mode.value for mode in networks(described)]
    for number, mode in enumerate(spec.networks):
        if mode.value not in known:
            what = f"{mode.value} is not described under networks of the recipe"
            marks.add((*place, "networks", number), f"networks: {what}{suggestion(mode.value, known)}")
    _check_protection(marks, spec, place)


def check_memory(
    marks: Marks, spec: HatsMachineSpec, index: int, phys_bits: int, protected_type: str
) -> None:
    """Notes amounts of memory that QEMU lays out in a way that is not modelled, or not at all.

    Args:
        protected_type: QEMU's machine type of VMs with SEV-SNP.
    """
    for number, memory in enumerate(spec.memory):
        kind = "microvm" if spec.cvm_type is CvmType.DEFAULT else protected_type
        why = _no_layout(kind, memory, phys_bits)
        if why:
            marks.add(("machines", index, "memory", number), f"memory: {why}")


def _no_layout(kind: str, memory: int, phys_bits: int) -> str:
    """What the replay of a memory map would stop at; here, where the recipe has a line for it."""
    if memory % _MEMORY_UNIT:
        what = f"{memory} bytes are not whole units of 8 KiB, which is what QEMU makes of it"
        return f"{what}; give a multiple of 8 KiB"
    low = min(memory, 3 * GIB) if kind == "microvm" else memory if memory < _SPLIT_Q35 else 2 * GIB
    end = 4 * GIB + memory - low
    if kind != "microvm":
        end = align_up(end, GIB) + _PCI_HOLE64
    if end > 1 << phys_bits:
        what = f"{format_size(memory)} and what lies behind need more than {phys_bits} address bits"
        return f"{what}; give less, or a CPU with more bits"
    if kind != "microvm" and end > _HYPERTRANSPORT:
        what = f"with {format_size(memory)} QEMU moves RAM above 1 TiB on AMD CPUs, which is not modelled"
        return f"{what}; give at most {format_size(_HYPERTRANSPORT - _PCI_HOLE64 - 2 * GIB)}"
    return ""


def _check_protection(marks: Marks, spec: HatsMachineSpec, place: Place) -> None:
    """SEV-SNP machines have a processor and its lowest firmware; test machines have neither."""
    for key in ("cpu", "min_tcb_version"):
        given = getattr(spec, key) is not None
        if spec.cvm_type is CvmType.SEVSNP and not given:
            marks.add(place, f"{key} is missing; a policy for {CvmType.SEVSNP.value} needs it")
        if spec.cvm_type is CvmType.DEFAULT and given:
            what = f"{key}: nothing vouches for a machine of {CvmType.DEFAULT.value}; remove it"
            marks.add((*place, key), what)
    if spec.cpu is not None:
        try:
            CpuSignature(spec.cpu.family, spec.cpu.model, spec.cpu.stepping)
        except ValueError as error:
            marks.add((*place, "cpu"), f"cpu: {error}")
    if spec.min_tcb_version is not None:
        for key in ("boot_loader", "tee", "snp", "microcode"):
            value = getattr(spec.min_tcb_version, key)
            if value > _MAX_TCB:
                marks.add((*place, "min_tcb_version", key), f"{key}: {value} is not 0 to {_MAX_TCB}")


def shapes(
    spec: HatsMachineSpec, described: dict[NetworkMode, HatsNetwork], base: HatsShape
) -> Iterator[HatsShape]:
    """Every VM of a family.

    Args:
        base: what all families have in common.
    """
    cpu, tcb = spec.cpu, spec.min_tcb_version
    family = replace(
        base,
        machine=spec.name,
        cvm_type=spec.cvm_type,
        cpu=None if cpu is None else CpuSignature(cpu.family, cpu.model, cpu.stepping),
        tcb=None
        if tcb is None
        else TcbVersion(boot_loader=tcb.boot_loader, tee=tcb.tee, snp=tcb.snp, microcode=tcb.microcode),
    )
    chosen = [network for mode, network in described.items() if mode in (spec.networks or described)]
    for vcpus, memory, network in product(spec.vcpus, spec.memory, chosen):
        yield replace(family, vcpus=vcpus, memory=memory, network=network)
