from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from recipes.errors import ToolError
from recipes.vmm.launch import Lines, Program, Qemu
from recipes.vmm.qtest import QTest


class Server:
    """A qtest server: a memory, and a fw_cfg device with one item."""

    def __init__(self, connection: socket.socket) -> None:
        self.file = connection.makefile("rw")
        self.memory: dict[int, int] = {}
        self.item = b"firmware"
        self.high = 0
        self.log: list[str] = []

    def serve(self) -> None:
        for line in self.file:
            self.log.append(line.strip())
            answer = self.answer(line.split())
            self.file.write(answer + "\n")
            self.file.flush()

    def answer(self, words: list[str]) -> str:
        name, numbers = words[0], [int(word, 16) for word in words[1:3]]
        if name == "outl" and numbers[0] == 0x518:
            self.transfer(int.from_bytes(numbers[1].to_bytes(4, "little"), "big"))
        if name == "inl":
            return {0xCFC: "IRQ raise 9\nOK 0x12345678", 0x10: "OK z"}.get(numbers[0], "FAIL Unknown port")
        if name == "read" and numbers[0] == 0xBAD:
            return "OK 0x00"
        if name == "read":
            return "OK 0x" + bytes(self.memory.get(numbers[0] + at, 0) for at in range(numbers[1])).hex()
        if name == "write":
            self.store(numbers[0], bytes.fromhex(words[3].removeprefix("0x")))
        return "OK"

    def transfer(self, at: int) -> None:
        command = bytes(self.memory[at + offset] for offset in range(16))
        control, length = int.from_bytes(command[:4], "big"), int.from_bytes(command[4:8], "big")
        address = int.from_bytes(command[8:], "big")
        if control == 0x200000 | 8 | 2:
            self.store(address, self.item[:length].ljust(length, b"\0"))
        elif control == 0x200000 | 8 | 16:
            self.item = bytes(self.memory[address + offset] for offset in range(length))
        else:
            self.store(at, b"\0\0\0\1")
            return
        self.store(at, bytes(4))

    def store(self, address: int, data: bytes) -> None:
        self.memory.update({address + at: value for at, value in enumerate(data)})


class FakeQemu(Program):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__(["qemu"], timeout=5)
        self.connection = connection

    def channel(self, name: str) -> Lines:
        assert name == "qtest"
        return Lines(self, self.connection)


@pytest.fixture
def pair() -> Iterator[tuple[QTest, Server]]:
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    thread = threading.Thread(target=server.serve)
    thread.start()
    program = FakeQemu(ours)
    port = QTest(cast("Qemu", program))
    yield port, server
    port.close()
    thread.join(5)
    server.file.close()
    theirs.close()
    program.end()


def test_ports_and_memory(pair: tuple[QTest, Server]) -> None:
    port, server = pair
    port.outl(0xCF8, 0x80000060)
    assert port.inl(0xCFC) == 0x12345678
    port.write_memory(0x100000, b"\1\2")
    assert port.read_memory(0x100000, 3) == b"\1\2\0"
    assert server.log[0] == "outl 0xcf8 0x80000060"
    assert server.log[2:] == ["write 0x100000 0x2 0x0102", "read 0x100000 0x3"]


def test_fw_cfg_items(pair: tuple[QTest, Server]) -> None:
    port, server = pair
    assert port.read(0x20, 8) == b"firmware"
    assert port.read(0x20, 0) == b""
    port.write(0x20, b"other")
    assert server.item == b"other"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda port: port.inl(0x99), "qemu: qtest: inl 0x99: FAIL Unknown port"),
        (lambda port: port.inl(0x10), "qemu: qtest: 'z' instead of a number"),
        (lambda port: port.read_memory(0xBAD, 2), "qemu: qtest: 1 bytes of memory instead of 2"),
        (
            lambda port: port.read(0x21, 2),
            "qemu: qtest: fw_cfg item 0x21: DMA control is 0x1 after the transfer",
        ),
    ],
)
def test_failures(pair: tuple[QTest, Server], action: Callable[[QTest], object], message: str) -> None:
    with pytest.raises(ToolError) as caught:
        action(pair[0])
    assert str(caught.value) == message + "\n    $ qemu"
