"""The provider that asks on the console, with a terminal in place of it."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

GOOD = "a passphrase \\ with  spaces "
WAIT = 20.0


@dataclass
class Console:
    """A terminal that a provider talks to.

    Attributes:
        shown: all that came out of it.
    """

    folder: Path
    master: int
    terminal: int
    shown: str = ""

    def run(self, *typed: tuple[str, str], purpose: str = "open", attempt: int = 1) -> tuple[int, bytes, str]:
        """Exit code, key and words of the provider.

        Args:
            typed: a line for each time that the console shows the text before it.
        """
        key, words = self.folder / "key", self.folder / "words"
        argv = [require_tool("busybox"), "sh", str(self.folder / "passphrase")]
        env = {
            "UNLOCK_VOLUME": "data",
            "UNLOCK_PURPOSE": purpose,
            "UNLOCK_ATTEMPT": str(attempt),
            "UNLOCK_CONF": str(self.folder / "conf"),
            "UNLOCK_SECONDS": (self.folder / "seconds").read_text(),
            "PATH": os.environ["PATH"],
        }
        with key.open("wb") as out, words.open("wb") as err:
            # The shell of the driver gives it descriptor 3.
            wrapped = ["/bin/sh", "-c", 'exec "$@" 3>&1 >&2', "sh", *argv]
            process = subprocess.Popen(wrapped, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
            for prompt, line in typed:
                self._type(prompt, line)
            code = process.wait(WAIT)
        self._read()
        return code, key.read_bytes(), words.read_text()

    def _type(self, prompt: str, line: str) -> None:
        """Types when the question is there and the terminal shows no more what is typed."""
        until = time.monotonic() + WAIT
        while not self.shown.endswith(f"{prompt}: ") or self.echo:
            assert time.monotonic() < until, self.shown
            time.sleep(0.01)
            self._read()
        os.write(self.master, f"{line}\n".encode())
        # The answer is taken before the next question is looked for.
        self.shown += "|"

    @property
    def echo(self) -> bool:
        """Whether the terminal shows what is typed."""
        flags = termios.tcgetattr(self.terminal)[3]
        return bool(flags & termios.ECHO)

    def _read(self) -> None:
        try:
            self.shown += os.read(self.master, 4096).decode()
        except BlockingIOError:
            return


@contextmanager
def _console(folder: Path, providers: str, timeout: int) -> Iterator[Console]:
    master, terminal = pty.openpty()
    try:
        os.set_blocking(master, False)
        script = (ROOT / "initrd/unlock.d/passphrase").read_text()
        assert "/dev/console" in script
        (folder / "passphrase").write_text(script.replace("/dev/console", os.ttyname(terminal)))
        (folder / "conf").write_text(f"PROVIDERS='{providers}'\n")
        (folder / "seconds").write_text(str(timeout))
        yield Console(folder, master, terminal)
    finally:
        os.close(master)
        os.close(terminal)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with _console(tmp_path, "passphrase", 15) as found:
        yield found


OPEN, NEW, AGAIN = "passphrase for volume data", "new passphrase for volume data", "the same again"


def test_the_key_is_what_was_typed_and_nothing_of_it_is_shown(console: Console) -> None:
    assert console.run((OPEN, GOOD)) == (11, GOOD.encode(), "")
    assert GOOD not in console.shown
    assert console.echo


def test_too_few_characters_are_asked_for_again(console: Console) -> None:
    assert console.run((OPEN, "123456789012345")) == (10, b"", "")
    assert "too short" in console.shown


def test_a_new_passphrase_is_typed_twice(console: Console) -> None:
    assert console.run((NEW, GOOD), (AGAIN, GOOD), purpose="format") == (11, GOOD.encode(), "")
    assert console.run((NEW, GOOD), (AGAIN, GOOD + "x"), purpose="format") == (10, b"", "")
    assert "these were two passphrases" in console.shown
    assert console.run((NEW, "too short"), purpose="format") == (10, b"", "")
    assert "at least 16 characters" in console.shown


def test_the_third_wrong_passphrase_is_the_last(console: Console) -> None:
    assert console.run((OPEN, GOOD), attempt=3)[0] == 11
    assert console.run(attempt=4) == (20, b"", "3 passphrases opened nothing\n")


def test_whoever_types_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with _console(tmp_path, "passphrase", 2) as console:
        assert console.run() == (10, b"", "nothing was typed\n")
        # It left before the driver would have killed it, so the terminal is as it was.
        assert console.echo


def test_behind_another_provider_it_makes_no_volume(tmp_path: Path) -> None:
    with _console(tmp_path, "tpm2 passphrase", 15) as console:
        words = "not the first provider of the volume, so it makes no new one\n"
        assert console.run(purpose="format") == (30, b"", words)
        assert console.run((OPEN, GOOD)) == (11, GOOD.encode(), "")
