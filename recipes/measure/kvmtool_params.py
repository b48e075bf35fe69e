"""The parameters of a realm that kvmtool creates, and which machines it does not start at all.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9, and 61403e79 for the newer
dialect: arm/aarch64/kvm.c, arm/aarch64/realm.c, arm/aarch64/rim-measure.c.
"""

from __future__ import annotations

from ..errors import MeasureError
from ..machine import KvmtoolMachine, KvmtoolProfile, RipasPolicy
from ..units import GIB, KIB, MIB, PAGE_SIZE
from .kvmtool_layout import LOWEST_RAM
from .rmm import RealmFlags, RealmParams
from .trace import HashAlgorithm

# arm/aarch64/kvm.c, validate_realm_cfg.
_ALGORITHMS = (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
# The measurer has room for so many; kvmtool itself takes more where the host's KVM does.
MAX_VCPUS = 16
# include/kvm/disk-image.h: MAX_DISK_IMAGES.
MAX_DISKS = 4
# Arm architecture: a vector length is a multiple of 128 bits; PMCR_EL0.N counts up to 31 counters; with
# FEAT_Debugv8p9 there are up to 64 breakpoints.
_SVE_STEP, _MAX_SVE = 128, 2048
_MAX_COUNTERS = 31
# kvmtool hw/cfi_flash.c: the size is kept in 32 bits.
_MAX_FLASH = (1 << 32) - 1
_MAX_BREAKPOINTS = 64
# arm/aarch64/kvm.c, kvm__get_vm_type: at least so many bits are for memory, and one more for what is shared.
_MIN_IPA_BITS = 32


def algorithm_of(machine: KvmtoolMachine) -> HashAlgorithm:
    """The hash algorithm of the realm.

    Raises:
        MeasureError: RMM 1.0 does not have it.
    """
    for algorithm in _ALGORITHMS:
        if algorithm.value == machine.algorithm:
            return algorithm
    known = " or ".join(item.value for item in _ALGORITHMS)
    raise MeasureError(
        f"--measurement-algo {machine.algorithm}: RMM 1.0 does not measure with it; use {known}"
    )


def check_machine(machine: KvmtoolMachine, profile: KvmtoolProfile, *, has_initrd: bool) -> None:
    """Refuse what kvmtool refuses, and options of the other dialect.

    Raises:
        MeasureError: this machine is not started.
    """
    algorithm_of(machine)
    if not 1 <= machine.vcpus <= MAX_VCPUS:
        raise MeasureError(f"-c {machine.vcpus}: a realm has 1 to {MAX_VCPUS} vCPUs; give such a number")
    disks = machine.disks + len(machine.scsi_disks)
    if disks > MAX_DISKS:
        raise MeasureError(f"-d: {disks} disks, kvmtool takes {MAX_DISKS}; remove {disks - MAX_DISKS}")
    if machine.mpidrs and len(machine.mpidrs) != machine.vcpus:
        raise MeasureError(
            f"--mpidrs: {len(machine.mpidrs)} given for {machine.vcpus} vCPUs; give one for each, or none"
        )
    if len(set(machine.mpidrs)) != len(machine.mpidrs):
        raise MeasureError("--mpidrs: two vCPUs with one number; give each its own")
    if not has_initrd and not disks and not machine.nodefaults:
        # builtin-run.c: kvmtool would then share a folder of the host as root file system.
        raise MeasureError(
            "command line: neither initramfs nor disk, and a root file system in a folder of the host is not "
            "modelled; give -i FILE, -d FILE or --nodefaults"
        )
    if not 0 <= machine.pmu_counters <= _MAX_COUNTERS:
        raise MeasureError(
            f"--pmu-counters {machine.pmu_counters}: a PMU has up to {_MAX_COUNTERS} counters; give fewer"
        )
    if machine.flash > _MAX_FLASH:
        raise MeasureError(
            f"-F: {machine.flash} bytes, and kvmtool counts them in 32 bits; give a smaller file"
        )
    if profile.ripas is RipasPolicy.RAM_BLOCKS and machine.memory % PAGE_SIZE:
        raise MeasureError(
            f"-m: {machine.memory} bytes are no whole pages of {PAGE_SIZE}, and all of RAM is made of them; "
            "give a size in MiB"
        )
    _check_dialect(machine, profile)


def _check_dialect(machine: KvmtoolMachine, profile: KvmtoolProfile) -> None:
    foreign = (
        (("--islet", machine.islet),)
        if profile.options == "rel0"
        else (
            ("--ipa-size", machine.ipa_bits != 0),
            ("--measurement-log", machine.measurement_log),
            ("--restricted_mem", machine.restricted_memory),
            ("--host lpa2", machine.host.lpa2),
        )
    )
    for option, given in foreign:
        if given:
            raise MeasureError(
                f"{option}: the kvmtool of profile {profile.name} does not know it; remove it, or take "
                "another profile with --profile"
            )


def realm_params(machine: KvmtoolMachine, profile: KvmtoolProfile) -> RealmParams:
    """The parameters, each as the page that is measured encodes it.

    Raises:
        MeasureError: a value is out of range, exceeds the host, or follows from the host and is not known.
    """
    bits = sve_bits(machine, profile)
    flags = RealmFlags.SVE if bits else 0
    flags |= RealmFlags.PMU if machine.pmu_counters else 0
    flags |= RealmFlags.LPA2 if machine.host.lpa2 else 0
    return RealmParams(
        flags=flags,
        s2sz=ipa_width(machine, profile),
        sve_vl=bits // _SVE_STEP - 1 if bits else 0,
        num_bps=_breakpoints(machine, profile, "num_bps", machine.host.num_bps),
        num_wps=_breakpoints(machine, profile, "num_wps", machine.host.num_wps),
        pmu_num_ctrs=machine.pmu_counters,
    )


def params_source(machine: KvmtoolMachine, profile: KvmtoolProfile) -> str:
    """The options that the parameters come from, as one text."""
    host = machine.host
    length = "--sve-vl" if profile.options == "eac5" else "--sve-max-vl"
    given = {
        f"--measurement-algo {machine.algorithm}": True,
        "--islet": machine.islet,
        "--disable-sve": machine.disable_sve and profile.sve_vl != 0,
        f"{length} {machine.sve_vl}": machine.sve_vl,
        f"--pmu-counters {machine.pmu_counters}": machine.pmu_counters,
        f"--ipa-size {machine.ipa_bits}": machine.ipa_bits,
        memory_option(machine): _width_follows_memory(machine, profile) and ends_above_4_gib(machine),
        f"--host num_bps={host.num_bps}": host.num_bps is not None,
        f"--host num_wps={host.num_wps}": host.num_wps is not None,
        f"--host sve_vl={host.sve_vl}": _sve_is_hosts(machine, profile),
        "--host lpa2": host.lpa2,
    }
    return ", ".join(option for option, counts in given.items() if counts)


def memory_option(machine: KvmtoolMachine) -> str:
    """``-m`` as it would be written for the machine's memory, in the largest unit that makes it whole."""
    # Of a size without a letter kvmtool takes MiB; an address is written with its letter, to be plain.
    size = _in_units(machine.memory).removesuffix("M")
    return f"-m {size}" + (f"@{_in_units(machine.ram_base)}" if machine.ram_base != LOWEST_RAM else "")


def _in_units(size: int) -> str:
    units = ((GIB, "G"), (MIB, "M"), (KIB, "K"), (1, "B"))
    return next(f"{size // unit}{letter}" for unit, letter in units if size % unit == 0)


def ipa_width(machine: KvmtoolMachine, profile: KvmtoolProfile) -> int:
    """Bits of the realm's IPA space (s2sz).

    Raises:
        MeasureError: the host supports fewer.

    Spec: arm/aarch64/kvm.c, kvm__get_vm_type.
    """
    last = machine.ram_base + machine.memory - 1
    width = machine.ipa_bits or profile.s2sz or max(_MIN_IPA_BITS, last.bit_length()) + 1
    limit = machine.host.ipa_bits
    if limit is not None and width > limit:
        raise MeasureError(
            f"-m: RAM up to {last:#x} needs {width} IPA bits, the host has {limit}; give less memory"
        )
    return width


def _width_follows_memory(machine: KvmtoolMachine, profile: KvmtoolProfile) -> bool:
    return not machine.ipa_bits and profile.s2sz is None


def ends_above_4_gib(machine: KvmtoolMachine) -> bool:
    """Whether RAM reaches beyond the addresses of 32 bits."""
    return machine.ram_base + machine.memory > 4 * GIB


def sve_bits(machine: KvmtoolMachine, profile: KvmtoolProfile) -> int:
    """SVE vector length in bits, 0 for no SVE.

    Raises:
        MeasureError: no such length, more than the host has, or it follows from the host and is not known.
    """
    host = machine.host.sve_vl
    if machine.disable_sve:
        if machine.sve_vl:
            raise MeasureError(
                f"--disable-sve: an SVE vector length of {machine.sve_vl} bits is asked for as well; drop one"
            )
        return 0
    if machine.sve_vl:
        bits = machine.sve_vl
    elif host is not None and _sve_is_hosts(machine, profile):
        bits = host
    elif profile.sve_vl is None:
        raise MeasureError(
            f"{profile.name}: the SVE vector length follows from the host; give --host sve_vl=BITS (0: none) "
            "or --disable-sve"
        )
    else:
        bits = profile.sve_vl
    if bits % _SVE_STEP or not 0 <= bits <= _MAX_SVE:
        raise MeasureError(
            f"SVE vector length of {bits} bits: give a multiple of {_SVE_STEP} up to {_MAX_SVE}, or "
            "--disable-sve"
        )
    if host is not None and bits > host:
        raise MeasureError(f"SVE vector length of {bits} bits: the host has {host}; give that or less")
    return bits


def _sve_is_hosts(machine: KvmtoolMachine, profile: KvmtoolProfile) -> bool:
    """Whether the greatest length of the host is the realm's."""
    open_ = not machine.disable_sve and not machine.sve_vl and profile.sve_vl != 0
    return open_ and machine.host.sve_vl is not None


def _breakpoints(machine: KvmtoolMachine, profile: KvmtoolProfile, name: str, given: int | None) -> int:
    """NUM_BPS or NUM_WPS as encoded."""
    if machine.islet:
        # Spec: Islet rmm/src/rmi/features.rs: neither field of feature register 0 is set.
        if given:
            raise MeasureError(f"--host {name}={given}: realms with --islet have none; drop one of the two")
        return 0
    if given is None:
        if profile.breakpoints is None:
            raise MeasureError(
                f"{profile.name}: the number of breakpoints follows from the host; give --host {name}=NUMBER"
            )
        return profile.breakpoints
    least = profile.breakpoints_encoding
    if not least <= given <= _MAX_BREAKPOINTS:
        raise MeasureError(f"--host {name}={given}: no such number; give {least} to {_MAX_BREAKPOINTS}")
    return given - profile.breakpoints_encoding
