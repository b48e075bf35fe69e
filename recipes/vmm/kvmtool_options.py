"""Every option that ``lkvm run`` knows on arm64, and what each means to a measurement.

An option that is in no row is an error. Two dialects are known: ``eac5``, kvmtool of the RMM 1.0-eac5 stack,
and ``rel0``, the one of the 1.0-rel0 stack. Rows stand in the order in which kvmtool declares them.

Spec: islet-project/3rd-kvmtool builtin-run.c (BUILD_OPTIONS), arm/aarch64/include/kvm/kvm-config-arch.h,
arm/include/arm-common/kvm-config-arch.h; eac5: commit 3cac6a9, rel0: commit 61403e79.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How kvmtool reads an option, and with it what ``--no-NAME`` does.

    Spec: kvmtool include/kvm/parse-options.h.
    """

    FLAG = "flag"
    """No value; the negated form takes it back (OPT_BOOLEAN)."""
    TEXT = "text"
    """A value; the negated form forgets it (OPT_STRING, OPT_INTEGER, OPT_UINTEGER, OPT_U64)."""
    CALLBACK = "callback"
    """A value for a function, which reads no negated form (OPT_CALLBACK)."""
    CALLBACK_FLAG = "callback-flag"
    """A function without a value (OPT_CALLBACK_NOOPT)."""
    CALLBACK_DEFAULT = "callback-default"
    """A function whose value may be missing at the end or before a dash (OPT_CALLBACK_DEFAULT)."""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows, always or in general."""
        return self not in (Kind.FLAG, Kind.CALLBACK_FLAG)

    @property
    def is_callback(self) -> bool:
        """Whether the negated form has no meaning of its own."""
        return self not in (Kind.FLAG, Kind.TEXT)


class Use(Enum):
    """What an option is to a measurement."""

    READ = "read"
    """It is read into the machine or its files."""
    IGNORED = "ignored"
    """It has no influence on the RIM."""
    REFUSED = "refused"
    """It would change the realm in a way that is not modelled."""


EAC5 = "eac5"
REL0 = "rel0"
BOTH = frozenset([EAC5, REL0])


@dataclass(frozen=True)
class Option:
    """One row of kvmtool's tables.

    Attributes:
        short: its letter, or empty.
        dialects: the dialects that have it.
        why: why it is not read; or, for an option that is read and leaves the RIM as it is, why that is so.
        realm_only: kvmtool refuses it without ``--realm``.
        measurer_only: only the measurer's build has it; the program that starts a realm does not.
    """

    name: str
    kind: Kind
    use: Use = Use.READ
    short: str = ""
    dialects: frozenset[str] = BOTH
    why: str = ""
    realm_only: bool = False
    measurer_only: bool = False

    @property
    def label(self) -> str:
        """The option as messages name it: the letter where there is one."""
        return f"-{self.short}" if self.short else f"--{self.name}"


def _ignored(name: str, kind: Kind, why: str, dialects: frozenset[str] = BOTH) -> Option:
    return Option(name, kind, Use.IGNORED, dialects=dialects, why=why)


def _refused(name: str, kind: Kind, why: str, dialects: frozenset[str] = BOTH) -> Option:
    return Option(name, kind, Use.REFUSED, dialects=dialects, why=why)


_EAC5 = frozenset([EAC5])
_REL0 = frozenset([REL0])
_MESSAGES = "messages of kvmtool only"
_FOLDER = "used when the root file system is a folder of the host, which is not modelled"
_SCREEN = "a screen changes the console of the kernel's command line and adds a device"

OPTIONS = (
    _ignored("name", Kind.TEXT, "names the guest on the host"),
    Option("cpus", Kind.TEXT, short="c"),
    Option("mem", Kind.CALLBACK, short="m"),
    _ignored("ipc-dir", Kind.CALLBACK, "where kvmtool keeps its sockets on the host", _REL0),
    _ignored("term-file", Kind.CALLBACK, "the host side of a terminal", _REL0),
    Option("disk", Kind.CALLBACK, short="d"),
    Option("balloon", Kind.FLAG),
    _refused("vnc", Kind.FLAG, _SCREEN),
    _refused("gtk", Kind.FLAG, _SCREEN),
    _refused("sdl", Kind.FLAG, _SCREEN),
    Option("rng", Kind.FLAG),
    Option("nodefaults", Kind.FLAG),
    Option("9p", Kind.CALLBACK),
    Option("console", Kind.TEXT),
    Option("vsock", Kind.TEXT),
    _ignored("dev", Kind.TEXT, "which device file of the host is KVM's"),
    _ignored("tty", Kind.CALLBACK, "the host side of a serial port"),
    _ignored("sandbox", Kind.TEXT, _FOLDER),
    _ignored("hugetlbfs", Kind.TEXT, "the host's pages behind the realm's memory"),
    Option("virtio-legacy", Kind.CALLBACK_FLAG),
    Option("virtio-transport", Kind.CALLBACK),
    _ignored("loglevel", Kind.CALLBACK, _MESSAGES),
    Option("restricted_mem", Kind.FLAG, dialects=_REL0),
    _refused("pkvm", Kind.FLAG, "a protected VM of pKVM's is no realm", _REL0),
    Option("kernel", Kind.TEXT, short="k"),
    Option("initrd", Kind.TEXT, short="i"),
    Option("params", Kind.TEXT, short="p"),
    Option("firmware", Kind.TEXT, short="f"),
    Option("flash", Kind.TEXT, short="F"),
    Option("network", Kind.CALLBACK_DEFAULT, short="n"),
    _ignored("no-dhcp", Kind.FLAG, _FOLDER),
    _refused("vfio-pci", Kind.CALLBACK, "a device of the host changes the device tree"),
    _ignored("debug", Kind.CALLBACK_FLAG, _MESSAGES),
    _ignored("debug-single-step", Kind.FLAG, "debugging from the host"),
    _ignored("debug-ioport", Kind.FLAG, _MESSAGES),
    _ignored("debug-mmio", Kind.FLAG, _MESSAGES),
    _ignored("debug-iodelay", Kind.TEXT, "delays disk requests"),
    # The architecture's options, Islet's additions among them.
    Option("mpidrs", Kind.TEXT, measurer_only=True),
    Option("num-bps", Kind.TEXT, dialects=_REL0, measurer_only=True),
    Option("num-wps", Kind.TEXT, dialects=_REL0, measurer_only=True),
    Option("ipa-size", Kind.TEXT, dialects=_REL0, measurer_only=True),
    Option("islet", Kind.FLAG, dialects=_EAC5, measurer_only=True),
    Option("metadata", Kind.TEXT, why="its content is not measured; Islet's RMM compares it with the RIM"),
    _refused("aarch32", Kind.FLAG, "realms are 64-bit guests"),
    Option("pmu", Kind.FLAG),
    _ignored("disable-mte", Kind.FLAG, "memory tagging is in no parameter of a realm"),
    _ignored("vcpu-affinity", Kind.CALLBACK, "which processors of the host run the vCPUs"),
    Option("kaslr-seed", Kind.TEXT),
    _ignored("no-pvtime", Kind.FLAG, "stolen time is not in the device tree"),
    Option("sve-max-vl", Kind.CALLBACK, dialects=_REL0),
    Option("disable-sve", Kind.FLAG),
    Option("realm", Kind.FLAG),
    Option("measurement-algo", Kind.TEXT, realm_only=True),
    Option("measurement-log", Kind.FLAG, dialects=_REL0, realm_only=True),
    Option("realm-pv", Kind.TEXT, realm_only=True, why="the personalization value is not part of the RIM"),
    Option(
        "realm-pv-hex",
        Kind.TEXT,
        dialects=_REL0,
        realm_only=True,
        why="the personalization value is not part of the RIM",
    ),
    Option("sve-vl", Kind.TEXT, dialects=_EAC5, realm_only=True),
    Option("pmu-counters", Kind.TEXT, realm_only=True),
    _ignored("dump-dtb", Kind.TEXT, "writes a copy of the device tree on the host"),
    Option("dtb", Kind.TEXT, dialects=_REL0),
    Option("override-bad-firmware-cntfrq", Kind.TEXT),
    Option("force-pci", Kind.CALLBACK_FLAG),
    Option("irqchip", Kind.CALLBACK),
    _ignored("firmware-address", Kind.TEXT, "used with --firmware only"),
)
"""All rows of both dialects."""


def options_of(dialect: str) -> tuple[Option, ...]:
    """The rows that a dialect has."""
    return tuple(option for option in OPTIONS if dialect in option.dialects)
