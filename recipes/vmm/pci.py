"""PCI configuration space of a paused machine, through configuration mechanism #1 (ports 0xCF8 and 0xCFC).

Spec: PCI Local Bus Specification 3.0, sections 3.2.2.3.2 (mechanism), 6.1 (header), 6.2.5.1 (base addresses).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

_ADDRESS, _DATA = 0xCF8, 0xCFC
_VENDOR, _COMMAND, _HEADER_TYPE, _FIRST_BAR = 0x00, 0x04, 0x0C, 0x10
_COMMAND_ENABLE = 7
"""I/O decoding, memory decoding, bus master."""


class Ports(Protocol):
    """32-bit port access."""

    def outl(self, port: int, value: int) -> None:
        """Writes 32 bits to a port."""

    def inl(self, port: int) -> int:
        """32 bits from a port."""


@dataclass(frozen=True)
class Bar64:
    """A 64-bit memory region a device asks for; ``register`` is the offset of the lower half."""

    register: int
    size: int
    prefetchable: bool


@dataclass(frozen=True)
class Function:
    """One function on bus 0."""

    ports: Ports
    device: int
    function: int

    def read(self, register: int) -> int:
        """32 bits of configuration space at a multiple of 4."""
        self._select(register)
        return self.ports.inl(_DATA)

    def write(self, register: int, value: int) -> None:
        """Writes 32 bits of configuration space at a multiple of 4."""
        self._select(register)
        self.ports.outl(_DATA, value)

    def set_bits(self, register: int, bits: int) -> None:
        """Sets bits of a register whose other bits keep their value."""
        self.write(register, self.read(register) | bits)

    def enable(self) -> None:
        """Lets the device answer at its addresses; zeros in the status half change nothing."""
        self.write(_COMMAND, self.read(_COMMAND) & 0xFFFF | _COMMAND_ENABLE)

    @property
    def present(self) -> bool:
        """Whether there is a device."""
        return self.read(_VENDOR) & 0xFFFF != 0xFFFF

    @property
    def is_bridge(self) -> bool:
        """Whether there is another bus behind it."""
        return self.read(_HEADER_TYPE) >> 16 & 0x7F == 1

    @property
    def has_functions(self) -> bool:
        """Whether functions 1 to 7 may exist."""
        return bool(self.read(_HEADER_TYPE) & 1 << 23)

    def bars64(self) -> list[Bar64]:
        """The 64-bit memory regions, while the device does not decode memory."""
        found, register = [], _FIRST_BAR
        while register < _FIRST_BAR + 6 * 4:
            low = self.read(register)
            if low & 1 or low & 6 != 4:
                register += 4
                continue
            old = low, self.read(register + 4)
            self.write(register, 0xFFFFFFFF)
            self.write(register + 4, 0xFFFFFFFF)
            mask = self.read(register + 4) << 32 | self.read(register) & ~0xF
            self.write(register, old[0])
            self.write(register + 4, old[1])
            if mask:
                found.append(Bar64(register, (1 << 64) - mask, bool(low & 8)))
            register += 8
        return found

    def place(self, bar: Bar64, address: int) -> None:
        """Sets the address of a region."""
        self.write(bar.register, address & 0xFFFFFFFF)
        self.write(bar.register + 4, address >> 32)

    def _select(self, register: int) -> None:
        self.ports.outl(_ADDRESS, 1 << 31 | self.device << 11 | self.function << 8 | register)


def functions(ports: Ports) -> Iterator[Function]:
    """Every function on bus 0, in the order of its address."""
    for device in range(32):
        first = Function(ports, device, 0)
        if not first.present:
            continue
        yield first
        if first.has_functions:
            others = (Function(ports, device, number) for number in range(1, 8))
            yield from (other for other in others if other.present)
