"""What the stand-ins have in common: command lines, the table, the cloud behind it, and failures.

A stand-in is a few lines of bash that hand its command line to a thread of the test, which has the cloud: a
script makes hundreds of calls in a test, and none of them has to start Python.
"""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tool.cloud_standins.query import QueryError

Record = dict[str, Any]


class RefusedError(Exception):
    """The program ends with this status and these words on standard error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Flag:
    """One option.

    Attributes:
        values: pattern of the whole value; of each, where there may be many.
        many: any number of words follow it, up to the next option.
        switch: nothing follows it.
    """

    values: str = r"[^\n]+"
    many: bool = False
    switch: bool = False
    required: bool = True


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        doc: address of the page that documents the command, its options and their values.
        words: patterns of what stands there without an option in front.
        changes: it makes, changes or deletes something.
    """

    doc: str
    run: Callable[[State, Arguments], object]
    flags: Mapping[str, Flag] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    changes: bool = False


@dataclass
class State:
    """What there is: records by kind and name.

    Attributes:
        signed_out: nobody is signed in.
        bad_disk: no disk is taken.
    """

    kinds: dict[str, dict[str, Record]] = field(default_factory=dict)
    signed_out: bool = False
    bad_disk: bool = False

    def of(self, kind: str) -> dict[str, Record]:
        """Everything of a kind, by name."""
        return self.kinds.setdefault(kind, {})


@dataclass
class Arguments:
    """A command line that the table allows."""

    command: str
    values: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """A file that the command line names."""
        return self.folder / name

    def __getitem__(self, flag: str) -> str:
        """The only value of an option."""
        return self.values[flag][0]

    def get(self, flag: str, default: str = "") -> str:
        """The value of an option, or another where it was not given."""
        return self.values[flag][0] if self.values.get(flag) else default

    def has(self, flag: str) -> bool:
        """Whether an option was given."""
        return flag in self.values


def optional(flag: Flag) -> Flag:
    """The same option, for a command that does not need it."""
    return Flag(flag.values, many=flag.many, switch=flag.switch, required=False)


def parse(
    argv: Sequence[str], table: Mapping[str, Command], common: Mapping[str, Flag], usage: int
) -> Arguments:
    """The command line, checked against the table.

    Raises:
        RefusedError: with status ``usage``: something is not in it.
    """
    count = next((n for n in range(len(argv), 0, -1) if " ".join(argv[:n]) in table), 0)
    if not count:
        raise RefusedError(usage, f"invalid choice: {' '.join(argv[:3])}")
    found = Arguments(" ".join(argv[:count]))
    command = table[found.command]
    flags = {**command.flags, **common}
    rest = list(argv[count:])
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            found.words.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = flags.get(name)
        if flag is None:
            raise RefusedError(usage, f"unrecognized arguments: {word}")
        if name in found.values:
            raise RefusedError(usage, f"argument {name}: given twice")
        values = [value] if equals else []
        if not flag.switch and not equals:
            while rest and (not values or flag.many) and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            if not values:
                raise RefusedError(usage, f"argument {name}: expected one argument")
        for item in values:
            if re.fullmatch(flag.values, item) is None:
                raise RefusedError(usage, f"{found.command}: {item!r} is not a valid value for '{name}'.")
        found.values[name] = values
    _check_words(found, command, usage)
    missing = [name for name, flag in flags.items() if flag.required and name not in found.values]
    if missing:
        raise RefusedError(usage, f"the following arguments are required: {', '.join(missing)}")
    return found


def _check_words(found: Arguments, command: Command, usage: int) -> None:
    if len(found.words) != len(command.words):
        raise RefusedError(usage, f"unrecognized arguments: {' '.join(found.words)}")
    for word, pattern in zip(found.words, command.words, strict=True):
        if re.fullmatch(pattern, word) is None:
            raise RefusedError(usage, f"{found.command}: {word!r} is not a valid value")


@dataclass(frozen=True)
class Call:
    """A call that a script made."""

    argv: tuple[str, ...]
    command: str
    changes: bool


@dataclass
class Cloud:
    """A cloud and the program that reaches it.

    Attributes:
        fail: number of the call that fails, from 1; 0 for none.
        half: it fails after it has done its work.
        after: what there was after each call that changed something, by the number of the call.
    """

    program: str
    table: Mapping[str, Command]
    common: Mapping[str, Flag]
    usage: int
    show: Callable[[Arguments, object], str]
    state: State = field(default_factory=State)
    calls: list[Call] = field(default_factory=list)
    fail: int = 0
    half: bool = False
    after: dict[int, State] = field(default_factory=dict)

    def answer(self, argv: Sequence[str], folder: Path) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a call from a folder."""
        try:
            arguments = parse(argv, self.table, self.common, self.usage)
            arguments.folder = folder
            return 0, self.show(arguments, self._perform(argv, arguments)), ""
        except RefusedError as error:
            return error.status, "", f"{error.message}\n"
        except QueryError as error:
            return self.usage, "", f"{error}\n"

    def _perform(self, argv: Sequence[str], arguments: Arguments) -> object:
        command = self.table[arguments.command]
        self.calls.append(Call(tuple(argv), arguments.command, command.changes))
        number = len(self.calls)
        if number == self.fail and not self.half:
            raise RefusedError(1, "HTTPSConnectionPool: Max retries exceeded")
        answer = deepcopy(command.run(self.state, arguments))
        if command.changes:
            self.after[number] = deepcopy(self.state)
        if number == self.fail:
            raise RefusedError(1, "Connection aborted.")
        return answer


_CLIENT = """#!/bin/bash
# Hands the command line of {program} to the test, and prints what it answers.
LC_ALL=C
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "$#" "$PWD" "$@" >&3
read -r -u 3 status out error
IFS= read -r -u 3 -N "$out" text
printf '%s' "$text"
IFS= read -r -u 3 -N "$error" text
printf '%s' "$text" >&2
exit "$status"
"""


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        words = [self._word()]
        words += [self._word() for _ in range(int(words[0]) + 1)]
        assert isinstance(self.server, Server)
        status, out, error = self.server.cloud.answer(words[2:], Path(words[1]))
        data = [text.encode() for text in (out, error)]
        self.wfile.write(f"{status} {len(data[0])} {len(data[1])}\n".encode() + b"".join(data))

    def _word(self) -> str:
        word = b""
        while (byte := self.rfile.read(1)) != b"\0":
            assert byte, "the stand-in ended in the middle of its command line"
            word += byte
        return word.decode()


class Server(socketserver.TCPServer):
    """A cloud that a program in a folder reaches as long as the block lasts."""

    def __init__(self, cloud: Cloud, programs: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cloud = cloud
        path = programs / cloud.program
        path.write_text(_CLIENT.format(program=cloud.program, port=self.server_address[1]))
        path.chmod(0o755)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self.shutdown()
        self._thread.join()
        self.server_close()
