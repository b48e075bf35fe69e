"""A real ``lkvm run`` command line as the realm it starts.

Nothing is guessed: what kvmtool would take from the host (processors, memory, a kernel of its own choice)
must be written out, and an option that changes the realm in a way that is not modelled is an error. No file
is opened here: whether files exist, and that a disk is not a folder, is for the caller to see.

Spec: islet-project/3rd-kvmtool builtin-run.c, arm/aarch64/kvm.c; commit 3cac6a9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import MeasureError, suggestion
from ..machine import HostFeatures, Irqchip, KvmtoolMachine, KvmtoolNetwork, VirtioTransport
from ..machine.kvmtool_profiles import find_profile
from . import kvmtool_values as values
from .kvmtool_options import EAC5, OPTIONS, Kind, Use
from .kvmtool_values import parse_host
from .kvmtool_words import Given, shown, split

__all__ = ["KvmtoolFiles", "KvmtoolLaunch", "is_kvmtool", "parse", "parse_host"]

MAX_DISKS = 4
"""Disk images and SCSI targets together. Spec: kvmtool include/kvm/disk-image.h MAX_DISK_IMAGES."""
MAX_VCPUS = 16
"""The measurer takes any greater number for this one."""
MAX_PMU_COUNTERS = 31
"""Spec: Arm ARM PMCR_EL0.N."""

NO_HOST = HostFeatures()
"""Nothing is known of the host."""

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_ALGORITHMS = ("sha256", "sha512")
_LOG_LEVELS = ("debug", "error", "info", "warning")
_LEGACY = {"virtio-legacy": "pci-legacy", "force-pci": "pci"}
"""Old options that set the transport. Spec: kvmtool virtio/core.c virtio_transport_parser()."""


@dataclass(frozen=True, kw_only=True)
class KvmtoolFiles:
    """Paths of a command line, as written there.

    Attributes:
        disks: of disk images, in order, without ``,ro`` and ``,direct``.
        flash: of ``-F``; the machine holds its size.
        metadata: of ``--metadata``, which is not measured.
        dtb: of ``--dtb``: a device tree that takes the place of the generated one.
    """

    kernel: str
    initrd: str | None = None
    disks: tuple[str, ...] = ()
    flash: str | None = None
    metadata: str | None = None
    dtb: str | None = None


@dataclass(frozen=True)
class KvmtoolLaunch:
    """A command line in its parts.

    Attributes:
        ignored: options without influence on the RIM, each with the reason.
    """

    machine: KvmtoolMachine
    files: KvmtoolFiles
    ignored: tuple[str, ...]


@dataclass
class _Line:
    """What the options said so far: of each the last, and of those that may stand often all."""

    last: dict[str, Given] = field(default_factory=dict)
    disks: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)
    networks: list[KvmtoolNetwork] = field(default_factory=list)
    user_network: bool = False
    no_network: bool = False
    ignored: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether the option stands, and was not taken back."""
        return name in self.last

    def text(self, name: str) -> str | None:
        """The option's value, or None."""
        return self.last[name].value if name in self.last else None

    def number(self, name: str, low: int, high: int) -> int:
        """The option's number, or 0."""
        return values.number(self.last[name], low, high) if name in self.last else 0


def is_kvmtool(program: str) -> bool:
    """Whether the first word of a command line names kvmtool or its measurer."""
    name = program.rpartition("/")[2]
    return name in ("vm", "kvmtool") or name == "lkvm" or name.startswith("lkvm-")


def parse(
    argv: Sequence[str],
    *,
    profile: str | None = None,
    host: HostFeatures = NO_HOST,
    name: str = "command line",
    flash_size: Callable[[str], int] | None = None,
) -> KvmtoolLaunch:
    """The realm and the files of an ``lkvm run`` command line.

    Args:
        argv: the words, the program's name first.
        profile: name of the stack; by default ``kvmtool-eac5``, or ``kvmtool-rel0-islet`` for a command line
            with options that only the newer dialect has.
        host: what the command line does not say.
        name: what to call the machine.
        flash_size: the size of the file at a path; without it the machine's flash is left at 0.

    Raises:
        MeasureError: naming the option that is unknown, missing, wrong or not modelled.
    """
    program = argv[0] if argv else ""
    if not is_kvmtool(program):
        raise MeasureError(f"{shown(program)}: not kvmtool; a command line begins with lkvm run")
    if not argv[1:]:
        raise MeasureError(f"{shown(program)}: there is no command behind it; write {shown(program)} run ...")
    if argv[1] != "run":
        raise MeasureError(f"{shown(program)} {shown(argv[1])}: starts no realm; the second word is run")
    profile_name, given = split(argv[2:], profile)
    dialect = find_profile(profile_name).options
    line = _Line()
    for item in given:
        _add(line, item)
    _check_realm(line)
    files = _files(line, dialect)
    machine = _machine(line, profile_name, host, name)
    if files.flash is not None and flash_size is not None:
        size = values.flash_size(line.last["flash"], flash_size(files.flash))
        machine = replace(machine, flash=size)
    return KvmtoolLaunch(machine, files, tuple(line.ignored))


def _add(line: _Line, given: Given) -> None:
    """Takes one option in."""
    option = given.option
    if option is None:
        if line.has("kernel"):
            raise MeasureError(f"{given.where}: a word without an option, and the kernel is given already")
        line.last["kernel"] = given
    elif given.negated and option.kind.is_callback and option.use is not Use.IGNORED:
        raise MeasureError(f"{given.where}: kvmtool reads no such form; leave {option.label} out instead")
    elif given.negated and not option.kind.is_callback:
        line.last.pop(option.name, None)
    elif option.use is Use.REFUSED:
        raise MeasureError(f"{given.where}: not modelled; {option.why}")
    elif option.use is Use.IGNORED:
        _ignore(line, given, option.why)
    elif option.kind in (Kind.FLAG, Kind.TEXT):
        line.last[option.name] = given
    else:
        _add_callback(line, given, option.name)


def _ignore(line: _Line, given: Given, why: str) -> None:
    if given.option is not None and given.option.name == "loglevel" and given.value not in _LOG_LEVELS:
        raise MeasureError(f"{given.where}: unknown level; known: {', '.join(_LOG_LEVELS)}")
    line.ignored.append(f"{given.where}: {why}")


def _add_callback(line: _Line, given: Given, name: str) -> None:
    if name == "disk":
        _add_disk(line, given)
    elif name == "9p":
        line.shares.append(values.share(given))
    elif name == "network":
        _add_network(line, given)
    elif name in _LEGACY:
        line.last["virtio-transport"] = replace(given, value=_LEGACY[name])
    else:
        line.last[name] = given


def _add_disk(line: _Line, given: Given) -> None:
    path, target = values.disk(given)
    (line.targets if target else line.disks).append(path)
    if len(line.disks) + len(line.targets) > MAX_DISKS:
        raise MeasureError(f"{given.where}: more than {MAX_DISKS} disks; kvmtool takes no more")
    if "," in (given.value or ""):
        line.ignored.append(f"{given.where}: ro and direct are between kvmtool and the disk")


def _add_network(line: _Line, given: Given) -> None:
    network, user = values.network(given)
    if network is None:
        line.no_network = True
        return
    if user and line.user_network:
        raise MeasureError(f"{given.where}: a second device in user mode; kvmtool takes one")
    line.user_network |= user
    line.networks.append(network)


def _check_realm(line: _Line) -> None:
    """Stops at a command line that starts no realm."""
    if line.has("realm"):
        return
    for option in OPTIONS:
        if option.realm_only and line.has(option.name):
            raise MeasureError(f"{option.label}: only realms have it; add --realm")
    raise MeasureError("--realm: missing; what it starts is not a realm, and nothing of it is measured")


def _files(line: _Line, dialect: str) -> KvmtoolFiles:
    kernel = line.text("kernel")
    if line.has("firmware"):
        if kernel is not None:
            raise MeasureError("-k with -f: kvmtool takes a kernel or a firmware; leave one of them out")
        raise MeasureError(f"{line.last['firmware'].where}: not modelled; give a kernel by -k")
    if kernel is None:
        raise MeasureError("-k: missing; kvmtool would look for a kernel of the host's")
    if not (line.disks or line.targets or line.has("initrd") or line.has("nodefaults")):
        what = "neither an initrd nor a disk, and kvmtool would share folders of the host instead"
        raise MeasureError(f"-i: missing; there is {what}; give one by -i or -d, or write --nodefaults")
    for name in ("kernel", "initrd", "flash", "metadata", "dtb"):
        if line.text(name) == "":
            raise MeasureError(f"{line.last[name].where}: it names no file; write its path")
    _note_unmeasured(line, dialect)
    return KvmtoolFiles(
        kernel=kernel,
        initrd=line.text("initrd"),
        disks=tuple(line.disks),
        flash=line.text("flash"),
        metadata=line.text("metadata"),
        dtb=line.text("dtb"),
    )


def _note_unmeasured(line: _Line, dialect: str) -> None:
    """Lists the options that are read, and leave the RIM as it is."""
    for option in OPTIONS:
        if option.why and option.use is Use.READ and line.has(option.name):
            line.ignored.append(f"{line.last[option.name].where}: {option.why}")
    if dialect == EAC5 and line.has("disable-sve"):
        line.ignored.append("--disable-sve: realms have no SVE without --sve-vl")


def _machine(line: _Line, profile: str, host: HostFeatures, name: str) -> KvmtoolMachine:
    memory, ram_base = _memory(line)
    vcpus = _vcpus(line)
    return KvmtoolMachine(
        name=name,
        profile=profile,
        vcpus=vcpus,
        memory=memory,
        ram_base=ram_base,
        algorithm=_choice(line, "measurement-algo", _ALGORITHMS, "sha256"),
        islet=line.has("islet"),
        parameters=_parameters(line),
        nodefaults=line.has("nodefaults"),
        console=line.last["console"].value or "" if line.has("console") else "serial",
        irqchip=Irqchip(_choice(line, "irqchip", [item.value for item in Irqchip], "gicv3-its")),
        transport=VirtioTransport(
            _choice(line, "virtio-transport", [item.value for item in VirtioTransport], "pci")
        ),
        networks=tuple(line.networks) if line.networks else () if line.no_network else None,
        shares=tuple(line.shares),
        vsock=line.number("vsock", 0, _U64),
        balloon=line.has("balloon"),
        rng=line.has("rng"),
        disks=len(line.disks),
        scsi_disks=tuple(line.targets),
        kaslr_seed=line.number("kaslr-seed", 0, _U64),
        sve_vl=_sve(line),
        disable_sve=line.has("disable-sve"),
        pmu=line.has("pmu"),
        pmu_counters=line.number("pmu-counters", 0, MAX_PMU_COUNTERS),
        mpidrs=_mpidrs(line, vcpus),
        counter_frequency=line.number("override-bad-firmware-cntfrq", 0, _U32),
        ipa_bits=line.number("ipa-size", 32, 52),
        measurement_log=line.has("measurement-log"),
        restricted_memory=line.has("restricted_mem"),
        personalization=_personalization(line),
        host=_host(line, profile, host),
    )


def _vcpus(line: _Line) -> int:
    if not line.has("cpus"):
        raise MeasureError("-c: missing; kvmtool would take the number of the host's processors")
    given = line.last["cpus"]
    count = values.number(given, 0, (1 << 31) - 1)
    if count == 0:
        what = "stands for the number of the host's processors; write the number of vCPUs"
        raise MeasureError(f"{given.where}: {what}")
    if count > MAX_VCPUS:
        what = f"more than {MAX_VCPUS} vCPUs; the measurer would go on with {MAX_VCPUS} of them"
        raise MeasureError(f"{given.where}: {what}; write {MAX_VCPUS} or fewer")
    return count


def _memory(line: _Line) -> tuple[int, int]:
    if not line.has("mem"):
        raise MeasureError("-m: missing; kvmtool would choose by the host's memory")
    return values.memory(line.last["mem"])


def _choice(line: _Line, name: str, known: Sequence[str], default: str) -> str:
    if not line.has(name):
        return default
    given = line.last[name]
    value = given.value or ""
    if value not in known:
        raise MeasureError(f"{given.where}: not known{suggestion(value, known)}")
    return value


def _parameters(line: _Line) -> str | None:
    text = line.text("params")
    if text is not None and not text.isascii():
        raise MeasureError(
            f"{line.last['params'].where}: not ASCII; a kernel command line has no other letters"
        )
    return text


def _sve(line: _Line) -> int:
    for name in ("sve-vl", "sve-max-vl"):
        if line.has(name):
            given = line.last[name]
            length = values.sve_vector_length(given, power_of_two=name == "sve-max-vl")
            if length and line.has("disable-sve"):
                raise MeasureError(
                    f"{given.where}: with --disable-sve there is no SVE; leave one of them out"
                )
            return length
    return 0


def _mpidrs(line: _Line, vcpus: int) -> tuple[int, ...]:
    if not line.has("mpidrs"):
        return ()
    found = values.mpidrs(line.last["mpidrs"])
    if len(found) != vcpus:
        what = f"{len(found)} MPIDRs for {vcpus} vCPUs; write one for each"
        raise MeasureError(f"{line.last['mpidrs'].where}: {what}")
    return found


def _personalization(line: _Line) -> str:
    if line.has("realm-pv") and line.has("realm-pv-hex"):
        raise MeasureError("--realm-pv with --realm-pv-hex: both give the same value; leave one of them out")
    for name in ("realm-pv", "realm-pv-hex"):
        if line.has(name):
            return values.personalization(line.last[name])
    return ""


def _host(line: _Line, profile: str, host: HostFeatures) -> HostFeatures:
    """The host's features, with what the newer measurer's options say of them."""
    encoding = find_profile(profile).breakpoints_encoding
    for name, known in (("num-bps", host.num_bps), ("num-wps", host.num_wps)):
        if not line.has(name):
            continue
        # The measurer puts the number into the parameters as it stands: it is in the register's encoding.
        count = line.number(name, 0, 63) + encoding
        if known is not None and known != count:
            what = f"the host has {known}, and this stands for {count}"
            raise MeasureError(f"{line.last[name].where}: {what}; leave one of them out")
        host = replace(host, num_bps=count) if name == "num-bps" else replace(host, num_wps=count)
    return host
