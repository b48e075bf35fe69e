"""How a build and its workers end when they are told to stop, and when they are killed.

doit runs steps in forked processes, and steps fork again to hash and to unpack. The first clean up after
themselves, the second have nothing to clean up; neither may outlive the build.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from functools import partial
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # Spec: prctl(2), linux/prctl.h


class Stopped(KeyboardInterrupt):
    """A signal asked the build to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.strsignal(number))


def raise_when_stopped() -> None:
    """Makes every signal that asks this process to stop a :class:`Stopped`, unless they are ignored here."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_stopped)


def bind_workers() -> None:
    """Makes processes that are forked from now on end with the one that forked them, without a word.

    They inherit the lock of the build, and would hold it for ever if they outlived a killed build.
    """
    library = ctypes.CDLL(None)
    os.register_at_fork(after_in_child=partial(_become_worker, library))


def clean_up_when_stopped() -> None:
    """Makes a forked process that runs a step clean up before it ends. The first action of every task."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end_worker)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _become_worker(library: ctypes.CDLL) -> None:
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end_worker(number: int, frame: FrameType | None) -> None:
    for stop in STOPS:
        signal.signal(stop, _say_nothing)  # the build asks again at once; that must not disturb it
    raise SystemExit(128 + number)


def _say_nothing(number: int, frame: FrameType | None) -> None:
    pass
