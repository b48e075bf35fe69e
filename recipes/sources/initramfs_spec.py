"""What a recipe decides about the initramfs, and which decisions there can be."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..errors import SpecError
from .providers import Provider
from .volume_checks import check_volume, one_of, whole_seconds
from .volumes import ROOT, VolumeSpec

PHASES = ("enter-initrd", "leave-initrd")  # systemd-pcrphase.service(8): the phases of an initramfs
BANKS = ("sha1", "sha256", "sha384", "sha512")  # Linux drivers/char/tpm/tpm-sysfs.c: the banks sysfs shows
# Our own programs in C, below initrd/helpers: device-mapper tables, TPM commands, the key for the operator.
TABLES, TPM, ESCROW = "dmtable", "tpm2", "escrow"
_CHOICES = {
    "profile": ("release", "dev"),
    "on_failure": ("panic", "poweroff", "reboot", "shell"),
    "tpm": ("required", "if-present"),
    "root": ("verity", "luks2"),
}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_CMDLINE = re.compile(r"([!-~]([ -~]*[!-~])?)?")


@dataclass(frozen=True)
class VerifiedPartitions:
    """Partitions that are opened by a root hash known here: PARTUUIDs of the data and of the hash tree."""

    data: str
    hashes: str
    root_hash: bytes


@dataclass(frozen=True, kw_only=True)
class InitramfsSpec:
    """What the recipe decides about the initramfs.

    Attributes:
        kernel_release: as in ``usr/lib/modules``.
        cmdline: the kernel's command line without `` roothash=...``; a release boots with no other.
        profile: ``release`` or ``dev``.
        on_failure: ``panic``, ``poweroff``, ``reboot``, or ``shell`` in profile dev.
        tpm: ``required`` or ``if-present``.
        device_timeout: seconds until a partition or the TPM must be there.
        modules: names of kernel modules, loaded in order with what they need.
        tpm_modules: those loaded before the first phase is measured; only TPM drivers belong here.
        banks: PCR banks the phases are extended in, where the TPM has them.
        root: ``verity``, or ``luks2``: the volume named ``root``.
        network: ``none``, ``dhcp``, or an address with its prefix and, behind a comma, a gateway.
        workload: partitions to open as ``/dev/mapper/workload``.
    """

    architecture: str
    kernel_release: str
    modules: tuple[str, ...]
    volumes: tuple[VolumeSpec, ...] = ()
    cmdline: str = ""
    profile: str = "release"
    on_failure: str = "panic"
    tpm: str = "required"
    device_timeout: int = 30
    tpm_modules: tuple[str, ...] = ()
    banks: tuple[str, ...] = BANKS
    root: str = "verity"
    network: str = "none"
    workload: VerifiedPartitions | None = None

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Those of all volumes, each once."""
        return tuple({each.name: each for volume in self.volumes for each in volume.providers}.values())


def helpers_needed(spec: InitramfsSpec) -> tuple[str, ...]:
    """Names of the compiled helpers that the initramfs has, sorted."""
    names = {TABLES, *(name for provider in spec.providers for name in provider.helpers)}
    for volume in spec.volumes:
        names |= {TPM} if volume.marker is not None else set()
        names |= {ESCROW} if volume.escrow else set()
    return tuple(sorted(names))


def secret_paths(spec: InitramfsSpec) -> tuple[str, ...]:
    """Tree paths that are secret on purpose, sorted; a release that has any is refused."""
    return tuple(sorted(path for volume in spec.volumes for path in volume.secrets))


def check_spec(spec: InitramfsSpec) -> None:
    """Nothing, when there can be such an initramfs.

    Raises:
        SpecError: the first thing that is wrong.
    """
    for field, allowed in _CHOICES.items():
        one_of(f"initramfs.{field}", getattr(spec, field), allowed)
    if spec.on_failure == "shell" and spec.profile != "dev":
        raise SpecError("initramfs.on_failure: a release never gives a shell; use panic, or set profile: dev")
    if not _CMDLINE.fullmatch(spec.cmdline):
        raise SpecError(
            f"kernel.cmdline: {spec.cmdline!r} has more than printable ASCII or a space at an end; remove it"
        )
    whole_seconds("initramfs.device_timeout", spec.device_timeout)
    for bank in spec.banks:
        one_of("initramfs: PCR bank", bank, BANKS)
    _check_network(spec.network)
    names = [volume.name for volume in spec.volumes]
    if len(set(names)) != len(names):
        raise SpecError(f"volumes {', '.join(names)}: a name is there twice; names are device-mapper names")
    if (spec.root == "luks2") != (ROOT in names):
        fault = "needs a volume named root; add it" if ROOT not in names else "and a volume is named root"
        advice = "" if ROOT not in names else "; use luks2, or take the volume out"
        raise SpecError(f"initramfs.root: {spec.root} {fault}{advice}")
    for volume in spec.volumes:
        check_volume(volume, profile=spec.profile, network=spec.network)


def _check_network(network: str) -> None:
    """Nothing, for ``none``, ``dhcp``, and an address of a host with a prefix and a gateway in its reach."""
    if network in ("none", "dhcp"):
        return
    where = f"initramfs.network: {network!r}"
    advice = "write none, dhcp, or one such as 10.0.2.15/24,10.0.2.2"
    own, _, router = network.partition(",")
    try:
        address = ipaddress.ip_interface(own)
        gateway = ipaddress.ip_address(router) if router else None
    except ValueError:
        address, gateway = None, None
    # One spelling for each, and the one that the guest's tools read: no mask, no zone, no address alone.
    if address is None or "%" in network or network != ",".join(map(str, filter(None, (address, gateway)))):
        raise SpecError(f"{where} is no address with a prefix; {advice}")
    if not _is_host(address.ip, address.network):
        raise SpecError(f"{where}: {address.ip} is no host's address in {address.network}; {advice}")
    if gateway is None:
        return
    # Routers have addresses of their link too (RFC 4861 section 4.2), which are in no other network.
    reached = address.version == 6 and gateway.version == 6 and gateway.is_link_local
    if gateway == address.ip or not (reached or _is_host(gateway, address.network)):
        raise SpecError(f"{where}: {gateway} is no gateway of {address.ip} in {address.network}; {advice}")


def _is_host(address: _Address, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether a machine of the network may have the address."""
    # Networks of two addresses have none to spare (RFC 3021); IPv6 has no broadcast, and routers are anycast.
    pair = network.prefixlen >= network.max_prefixlen - 1
    ends = (network.network_address, network.broadcast_address) if network.version == 4 and not pair else ()
    odd = address.is_multicast or address.is_loopback or address.is_unspecified
    return address in network and address not in ends and not odd
