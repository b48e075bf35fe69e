"""A terminal in front of a TPM: a program that opens its path speaks to a software TPM, or to a made-up one.

The helpers of the initramfs open a character device, write a command and read a response. A pseudo terminal
in raw mode is such a device for everybody who has no kernel driver for a TPM.
"""

from __future__ import annotations

import os
import pty
import select
import socket
import termios
import threading
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Self

# Tag, size, code. Spec: TCG TPM 2.0 Library part 1 section 18.
HEADER_SIZE = 10
# A terminal holds no more than this until somebody reads. Spec: Linux drivers/tty/n_tty.c, N_TTY_BUF_SIZE.
TERMINAL_SIZE = 4095

Respond = Callable[[bytes], bytes]
"""What is answered to a command, byte for byte."""


def through(server: str) -> Respond:
    """Answers of the software TPM that listens at this socket, one connection for each command."""

    def respond(command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(server)
            line.sendall(command)
            response = line.recv(8192)
            while len(response) < HEADER_SIZE or len(response) < int.from_bytes(response[2:6], "big"):
                more = line.recv(8192)
                if not more:
                    break
                response += more
            return response

    return respond


class TpmBridge:
    """A terminal whose ``path`` is a TPM while the context lasts; ``commands`` has the codes it was sent."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.commands: list[int] = []
        self._stop, self._stopped = os.pipe()
        # The far end stays open here too: a terminal that nobody holds open gives errors, not silence.
        self._near, self._far = pty.openpty()
        tty.setraw(self._far)
        self.path = os.ttyname(self._far)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stopped)
        self._thread.join(70)
        for descriptor in (self._near, self._far, self._stop):
            os.close(descriptor)

    def forget(self) -> None:
        """Drops what was answered and not read."""
        termios.tcflush(self._far, termios.TCIOFLUSH)
        self.commands.clear()

    def _serve(self) -> None:
        pending = b""
        while True:
            ready, _, _ = select.select([self._near, self._stop], [], [])
            if self._stop in ready:
                return
            pending += os.read(self._near, 8192)
            while len(pending) >= HEADER_SIZE and len(pending) >= int.from_bytes(pending[2:6], "big"):
                size = int.from_bytes(pending[2:6], "big")
                command, pending = pending[:size], pending[size:]
                self.commands.append(int.from_bytes(command[6:10], "big"))
                os.write(self._near, self.respond(command)[:TERMINAL_SIZE])
