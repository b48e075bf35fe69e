"""Which guests' reports an operator accepts: launch measurements, privilege level, patch levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, ImageError, SpecError, suggestion
from ..formats.snp_report import Tcb
from ..units import MIB
from .owned import read_owned

# AMD 56860 section 7.3: SHA-384.
_MEASUREMENT = re.compile(r"[0-9a-fA-F]{96}")
_MAX_FILE = MIB
# Virtual machine privilege levels. Spec: AMD APM volume 2 section 15.36.7.
_VMPLS = range(4)
_PRODUCTS = ("Milan", "Genoa", "Turin")
_PARTS = ("bootloader", "tee", "snp", "microcode")
_TURIN_PARTS = ("fmc", *_PARTS)
_NUMBER = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class MinimumTcb:
    """The least patch levels of one product; those of two products are not comparable.

    Attributes:
        parts: names and numbers, as ``Tcb`` has them; what is not named is not compared.
    """

    product: str
    parts: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: str) -> MinimumTcb:
        """The minimum that is written ``Milan:snp=24,microcode=219``.

        Raises:
            SpecError: it is written otherwise.
        """
        where = f"minimum TCB {text!r}"
        product, colon, rest = text.partition(":")
        if not colon or product not in _PRODUCTS:
            raise SpecError(f"{where}: begin it with a product and a colon{suggestion(product, _PRODUCTS)}")
        known = _TURIN_PARTS if product == "Turin" else _PARTS
        parts: dict[str, int] = {}
        for item in rest.split(","):
            name, _, number = item.partition("=")
            if name not in known:
                raise SpecError(f"{where}: {product} has no part {name!r}{suggestion(name, known)}")
            if name in parts or _NUMBER.fullmatch(number) is None or int(number) > 255:
                raise SpecError(f"{where}: write {name} once, with a number up to 255: {name}=1")
            parts[name] = int(number)
        return cls(product, tuple(parts.items()))

    def below(self, tcb: Tcb) -> str:
        """Which least levels are not reached, as they were written; empty where all are."""
        return ",".join(f"{name}={least}" for name, least in self.parts if getattr(tcb, name) < least)


@dataclass(frozen=True)
class TeePolicy:
    """What a report has to say, besides that its guest cannot be debugged or taken elsewhere.

    Attributes:
        measurements: of the launch; any of them will do.
        vmpl: privilege level that asked for the report.
        minimum: for every product whose reports are accepted; without any, every patch level is.
    """

    measurements: frozenset[bytes]
    vmpl: int = 0
    minimum: tuple[MinimumTcb, ...] = ()

    def __post_init__(self) -> None:
        if self.vmpl not in _VMPLS:
            raise SpecError(f"VMPL {self.vmpl} is not 0 to {_VMPLS[-1]}; 0 is the usual one")
        products = [each.product for each in self.minimum]
        for product in products:
            if products.count(product) > 1:
                raise SpecError(f"minimum TCB: {product} is there twice; write its parts in one")


def read_measurements(path: Path) -> frozenset[bytes]:
    """The launch measurements of a file: 96 hexadecimal digits a line, comments behind ``#``; read once.

    Raises:
        ImageError: it cannot be read, others may write it, or it names none.
        FormatError: a line is no measurement.
    """
    try:
        data = read_owned(path, _MAX_FILE + 1)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; name a file of launch measurements") from None
    if len(data) > _MAX_FILE:
        raise FormatError(str(path), f"more than {_MAX_FILE} bytes; write a measurement a line")
    return _measurements(data.decode("ascii", "replace").splitlines(), str(path))


def _measurements(lines: Sequence[str], source: str) -> frozenset[bytes]:
    found = set()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if _MEASUREMENT.fullmatch(text) is None:
            what = f"line {number} is no launch measurement; write its 96 hexadecimal digits"
            raise FormatError(source, what)
        found.add(bytes.fromhex(text))
    if not found:
        raise ImageError(f"{source}: no measurement is in it, so no report is accepted; write one a line")
    return frozenset(found)
