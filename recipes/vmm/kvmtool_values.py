"""The values of kvmtool's options: numbers as C reads them, memory, disks, networks, processors.

Where C reads the front of a word and drops the rest, the word is refused: nobody means that.

Spec: islet-project/3rd-kvmtool builtin-run.c, disk/core.c, virtio/net.c, virtio/9p.c; commit 3cac6a9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import MeasureError, suggestion
from ..machine import HostFeatures, KvmtoolNetwork, VirtioTransport
from .kvmtool_words import Given, shown

RAM_BASE = 0x8000_0000
"""Where RAM begins unless ``-m SIZE@ADDR`` says so, and the lowest address it may have.

Spec: kvmtool arm/include/arm-common/kvm-arch.h ARM_MEMORY_AREA.
"""
MAX_RAM_TOP = 1 << 51
"""RAM lies in the lower half of a realm's IPA space. Spec: RMM 1.0, RmiRealmParams.s2sz, 52 bits at most."""
MAX_SVE_VL = 2048
"""Spec: Arm ARM, the greatest SVE vector length in bits."""
MAX_TAG = 32
"""Bytes of a 9p share's tag. Spec: kvmtool include/kvm/virtio-9p.h MAX_TAG_LEN."""
MPIDR_MASK = 0xFF_00FF_FFFF
"""The affinity fields of MPIDR_EL1. Spec: kvmtool arm/include/arm-common ARM_MPIDR_HWID_BITMASK."""

_UNITS = {"b": 0, "k": 10, "m": 20, "": 20, "g": 30, "t": 40, "p": 50}
_MEMORY = re.compile(r"([0-9]{1,40})([bkmgtp]?)(?:@([0-9]{1,40})([bkmgtp]?))?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,40}|0[0-7]{0,40}|[1-9][0-9]{0,40}", re.ASCII)
_NETWORK_KEYS = frozenset(
    [
        *("downscript", "fd", "guest_ip", "guest_mac", "host_ip", "mode", "mq", "nosetip", "script"),
        *("tapif", "trans", "vhost"),
    ]
)
_NETWORK_MODES = ("user", "tap", "none")
_DISK_WORDS = ("ro", "direct")
_TRUTH = {"0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}


def number(given: Given, low: int, high: int) -> int:
    """A number as ``strtoull(..., 0)`` reads it: decimal, or ``0x`` hexadecimal, or ``0`` octal.

    Raises:
        MeasureError: something else, or outside ``low`` to ``high``.
    """
    text = given.value or ""
    if _NUMBER.fullmatch(text) is None:
        what = "not a number; write decimal digits, 0x and hexadecimal ones, or 0 and octal ones"
        raise MeasureError(f"{given.where}: {what}")
    octal = text.startswith("0") and text[1:2] not in ("x", "X", "")
    value = int(text, 8) if octal else int(text, 0)
    if not low <= value <= high:
        raise MeasureError(f"{given.where}: {value} is not in the range of {low} to {high}")
    return value


def memory(given: Given) -> tuple[int, int]:
    """Size and address of RAM in bytes, from ``SIZE[@ADDR]`` with units of which MiB is the default.

    Raises:
        MeasureError: it is neither, or RAM cannot lie there.
    """
    match = _MEMORY.fullmatch(given.value or "")
    if match is None:
        what = "not a size; write for example 256M or 256M@2G (units B K M G T P, by default M)"
        raise MeasureError(f"{given.where}: {what}")
    size = int(match[1]) << _UNITS[match[2].lower()]
    base = RAM_BASE if match[3] is None else int(match[3]) << _UNITS[match[4].lower()]
    if size == 0:
        raise MeasureError(f"{given.where}: no memory; give the realm some, for example 256M")
    if base < RAM_BASE:
        what = f"RAM at {base:#x} lies among the devices below 2 GiB; write an address of 2G or more"
        raise MeasureError(f"{given.where}: {what}")
    if base + size > MAX_RAM_TOP:
        what = f"RAM ends at {base + size:#x}, and a realm's ends at {MAX_RAM_TOP:#x} or below; give it less"
        raise MeasureError(f"{given.where}: {what}")
    if base % 4096:
        raise MeasureError(f"{given.where}: RAM begins inside a granule; write a multiple of 4 KiB")
    return size, base


def disk(given: Given) -> tuple[str, bool]:
    """Path of a disk image, or a SCSI target with its ``scsi:``; and whether it is a target.

    Raises:
        MeasureError: the path is empty, or a word behind a comma is not known.
    """
    path, *words = (given.value or "").split(",")
    for word in words:
        if word not in _DISK_WORDS:
            what = f"{shown(word)} is no word for a disk; kvmtool ends the path at the first comma"
            raise MeasureError(f"{given.where}: {what}, and knows ro and direct")
    target = path.startswith("scsi:")
    if path == "" or (target and path.split(":")[1] == ""):
        raise MeasureError(f"{given.where}: it names no disk; write its path")
    return path, target


def share(given: Given) -> str:
    """``DIR,TAG`` of a 9p share as written; the tag may be left out.

    Raises:
        MeasureError: there is no folder, or the tag is too long.
    """
    text = given.value or ""
    folder, _, tag = text.partition(",")
    if not folder:
        raise MeasureError(f"{given.where}: it names no folder; write DIR,TAG")
    if len(tag.encode("utf-8", "surrogateescape")) > MAX_TAG:
        raise MeasureError(f"{given.where}: the tag has more than {MAX_TAG} bytes; take a shorter one")
    return text


def network(given: Given) -> tuple[KvmtoolNetwork | None, bool]:
    """A network device, or None for ``mode=none``; and whether it is one in user mode.

    A word alone (``virtio``, ``none``, ``user``) names no setting: it stands for a tap device.

    Raises:
        MeasureError: a key or a value is not known, or not what kvmtool would read.
    """
    text = given.value or ""
    if "=" not in text and "," not in text:
        return KvmtoolNetwork(options=text), False
    kept: list[str] = []
    transport, user = None, False
    for part in text.split(","):
        key, _, value = part.partition("=")
        if not key or not value or "=" in value:
            what = "kvmtool splits it at each comma and each equals sign; write key=value,key=value"
            raise MeasureError(f"{given.where}: {what}")
        if key not in _NETWORK_KEYS:
            what = f"unknown network parameter {shown(key)}"
            raise MeasureError(f"{given.where}: {what}{suggestion(key, _NETWORK_KEYS)}")
        if key == "trans":
            transport = _network_transport(given, value)
            continue
        if key == "mode":
            if not value.startswith(_NETWORK_MODES):
                raise MeasureError(f"{given.where}: unknown mode {shown(value)}; write user, tap or none")
            if value.startswith("none"):
                return None, False
            user = value.startswith("user")
        kept.append(part)
    return KvmtoolNetwork(options=",".join(kept), transport=transport), user


def _network_transport(given: Given, value: str) -> VirtioTransport:
    if value not in ("pci", "mmio"):
        what = f"kvmtool falls back to the machine's transport for trans={shown(value)}"
        raise MeasureError(f"{given.where}: {what}; write trans=pci or trans=mmio")
    return VirtioTransport(value)


def flash_size(given: Given, size: int) -> int:
    """The size of the flash that ``-F`` names, as it is.

    Raises:
        MeasureError: empty, or larger than kvmtool can count.
    """
    # Spec: kvmtool hw/cfi_flash.c: the size is kept in 32 bits, and its highest bit is looked for.
    if size == 0:
        raise MeasureError(f"{given.where}: the file is empty; give one with content, or no -F")
    if size >= 1 << 32:
        what = f"the file has {size} bytes, and kvmtool counts them in 32 bits"
        raise MeasureError(f"{given.where}: {what}; give one of less than 4 GiB")
    return size


def mpidrs(given: Given) -> tuple[int, ...]:
    """Comma-separated hexadecimal MPIDRs, cut to their affinity fields.

    Raises:
        MeasureError: one is no hexadecimal number of 64 bits, or two have the same affinity fields.
    """
    words = (given.value or "").split(",")
    if not all(re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", word, re.ASCII) for word in words):
        raise MeasureError(f"{given.where}: not hexadecimal numbers with commas between; write 0,1,100")
    found = tuple(int(word, 16) & MPIDR_MASK for word in words)
    twice = next((value for index, value in enumerate(found) if value in found[:index]), None)
    if twice is not None:
        raise MeasureError(f"{given.where}: {twice:x} stands for two vCPUs; give each its own")
    return found


def sve_vector_length(given: Given, *, power_of_two: bool) -> int:
    """An SVE vector length in bits; 0 for none, where the dialect has that.

    Raises:
        MeasureError: not one that the architecture has.
    """
    text = given.value or ""
    if power_of_two and text.startswith("0"):
        # This option alone is read with base 10.
        raise MeasureError(f"{given.where}: write decimal digits without a zero in front")
    value = number(given, 0, (1 << 64) - 1)
    if value == 0 and not power_of_two:
        return 0
    if value % 128 or not 128 <= value <= MAX_SVE_VL or (power_of_two and value & (value - 1)):
        rule = "a power of two" if power_of_two else "a multiple of 128"
        raise MeasureError(f"{given.where}: not {rule} from 128 to {MAX_SVE_VL} bits")
    return value


def personalization(given: Given) -> str:
    """A realm personalization value without its trailing zero bytes, from text or from hexadecimal digits.

    Bytes that are not UTF-8 become surrogates, as they do in a command line that Python is given.

    Raises:
        MeasureError: more than 64 bytes of text, or not 128 hexadecimal digits.
    """
    text = given.value or ""
    if given.option is not None and given.option.name == "realm-pv-hex":
        if not re.fullmatch(r"[0-9a-fA-F]{128}", text, re.ASCII):
            raise MeasureError(
                f"{given.where}: {len(text)} characters; write 128 hexadecimal digits (64 bytes)"
            )
        return bytes.fromhex(text).rstrip(b"\0").decode("utf-8", "surrogateescape")
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > 64:
        raise MeasureError(f"{given.where}: {size} bytes; a realm personalization value has at most 64")
    return text


def parse_host(words: Sequence[str]) -> HostFeatures:
    """What ``--host KEY=VALUE`` words say of the host.

    Raises:
        MeasureError: a key is unknown or given twice, or its value is out of range.
    """
    # Ranges. Spec: Arm ARM ID_AA64DFR1_EL1.BRPs (64 at most), ZCR_EL1, ID_AA64MMFR0_EL1.PARange.
    limits = {"num_bps": (0, 64), "num_wps": (0, 64), "sve_vl": (0, MAX_SVE_VL), "ipa_bits": (32, 52)}
    found: dict[str, int] = {}
    lpa2: bool | None = None
    for word in words:
        key, equals, text = word.partition("=")
        where = f"--host {shown(word)}"
        if key not in limits and key != "lpa2":
            raise MeasureError(f"{where}: {shown(key)} is not known{suggestion(key, [*limits, 'lpa2'])}")
        if not equals or not text:
            raise MeasureError(f"{where}: its value is missing; write {key}=VALUE")
        if key in found or (key == "lpa2" and lpa2 is not None):
            raise MeasureError(f"{where}: {key} is given twice; write it once")
        if key == "lpa2":
            if text not in _TRUTH:
                raise MeasureError(f"{where}: neither yes nor no")
            lpa2 = _TRUTH[text]
            continue
        low, high = limits[key]
        value = int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else -1
        if not low <= value <= high or (key == "sve_vl" and value % 128):
            multiple = ", a multiple of 128" if key == "sve_vl" else ""
            raise MeasureError(f"{where}: not a number from {low} to {high}{multiple}")
        found[key] = value
    return HostFeatures(
        num_bps=found.get("num_bps"),
        num_wps=found.get("num_wps"),
        sve_vl=found.get("sve_vl"),
        ipa_bits=found.get("ipa_bits"),
        lpa2=bool(lpa2),
    )
