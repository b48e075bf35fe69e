"""QEMU's qtest protocol: ports and memory of a machine, driven from outside while its processors stand still.

Spec: QEMU 7.2 softmmu/qtest.c (the comment "QTest Protocol").
"""

from __future__ import annotations

from ..errors import ToolError
from .fwcfg import DmaAccess, DmaControl
from .launch import Lines, Qemu

FW_CFG_DMA = 0x514
"""Port of the upper half of the DMA address; the lower half follows and starts the command."""

_COMMAND_AT = 0x100000
_BUFFER_AT = 0x101000
"""Scratch memory above 1 MiB; the paused guest's memory is empty and is thrown away."""


class QTest:
    """Ports, memory and the fw_cfg device of a paused machine."""

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self._lines: Lines = qemu.channel("qtest")

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()

    def outl(self, port: int, value: int) -> None:
        """Writes 32 bits to a port."""
        self._command(f"outl {port:#x} {value:#x}")

    def inl(self, port: int) -> int:
        """32 bits from a port."""
        return self._number(self._command(f"inl {port:#x}"))

    def write_memory(self, address: int, data: bytes) -> None:
        """Writes guest memory."""
        self._command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read_memory(self, address: int, size: int) -> bytes:
        """``size`` bytes of guest memory."""
        answer = self._command(f"read {address:#x} {size:#x}", limit=2 * size + 64)
        try:
            data = bytes.fromhex(answer.removeprefix("0x"))
        except ValueError:
            data = b""
        if len(data) != size:
            raise self._error(f"{len(data)} bytes of memory instead of {size}")
        return data

    def read(self, selector: int, size: int) -> bytes:
        """The first ``size`` bytes of a fw_cfg item."""
        if size == 0:
            return b""
        self._transfer(DmaControl.READ, selector, size)
        return self.read_memory(_BUFFER_AT, size)

    def write(self, selector: int, data: bytes) -> None:
        """Overwrites the beginning of a fw_cfg item."""
        self.write_memory(_BUFFER_AT, data)
        self._transfer(DmaControl.WRITE, selector, len(data))

    def _transfer(self, direction: DmaControl, selector: int, size: int) -> None:
        control = selector << 16 | DmaControl.SELECT | direction
        self.write_memory(_COMMAND_AT, DmaAccess(control=control, length=size, address=_BUFFER_AT).pack())
        # The port takes big-endian halves; writing the lower one starts the transfer, which is over at once.
        self.outl(FW_CFG_DMA, 0)
        self.outl(FW_CFG_DMA + 4, int.from_bytes(_COMMAND_AT.to_bytes(4, "big"), "little"))
        left = int.from_bytes(self.read_memory(_COMMAND_AT, 4), "big")
        if left:
            raise self._error(f"fw_cfg item {selector:#x}: DMA control is {left:#x} after the transfer")

    def _number(self, text: str) -> int:
        try:
            return int(text, 16)
        except ValueError:
            raise self._error(f"{text!r} instead of a number") from None

    def _command(self, command: str, limit: int = 4096) -> str:
        """What follows OK in the answer; interrupts the server reports in between are skipped."""
        self._lines.send(command)
        while True:
            answer = self._lines.receive(limit)
            if answer.startswith("IRQ "):
                continue
            if answer != "OK" and not answer.startswith("OK "):
                raise self._error(f"{command[:60]}: {answer[:100]}")
            return answer[3:]

    def _error(self, what: str) -> ToolError:
        return self._qemu.error(f"qtest: {what}")
