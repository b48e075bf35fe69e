"""How a build and its workers end when they are told to stop, and when they are killed.

doit runs steps in forked processes, and steps fork again to hash and to unpack. None of them may outlive the
build: they inherit its lock. A step that is ended leaves what the next build removes; a task that starts
programs of its own has to end these first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # Spec: prctl(2), linux/prctl.h
# How long cleaning up may take, in seconds. A pool whose worker was killed half through an answer waits
# for the rest of it for ever (Python 3.11 concurrent/futures/process.py, wait_result_broken_or_wakeup).
PATIENCE = 15.0


class Stopped(KeyboardInterrupt):
    """A signal asked the build to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.strsignal(number))


def raise_when_stopped() -> None:
    """Makes the first signal that asks this process to stop a :class:`Stopped`, and the second its end."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _raise_again
    # Whoever became this process may have held an interrupt back until somebody is there to take it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def bind_workers() -> None:
    """Makes processes that are forked from now on end with the one that forked them.

    Signals of the terminal are for the build alone: it ends its workers.
    """
    library = ctypes.CDLL(None)
    # A signal between the fork and the handlers of the worker would be lost, and the worker would not end.
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOPS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, STOPS),
        after_in_child=partial(_become_worker, library),
    )


def clean_up_when_stopped() -> None:
    """Makes a forked process that runs a task leave it by an exception when it is told to stop."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _leave_task)


def _stop(number: int, frame: FrameType | None) -> None:
    what = f"{str(signal.strsignal(number)).lower()}; what was finished is kept"
    os.write(2, f"\ndodo.py: {what}, the same command goes on from there\n".encode())
    for stop in STOPS:
        signal.signal(stop, partial(_give_up, 128 + number))
    _raise_stopped(number)


def _raise_stopped(number: int, *_: object) -> None:
    _in_a_while(PATIENCE, partial(_give_up, 128 + number))
    raise Stopped(number)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Where Python lets no exception out, as in what it calls at a fork, a signal must wait a moment."""
    if isinstance(unraisable.exc_value, Stopped):
        _in_a_while(0.05, partial(_raise_stopped, unraisable.exc_value.number))
    else:
        sys.__unraisablehook__(unraisable)


def _in_a_while(seconds: float, handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _give_up(status: int, number: int, frame: FrameType | None) -> None:
    os._exit(status)


def _become_worker(library: ctypes.CDLL) -> None:
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _say_nothing)  # unlike SIG_IGN this is not inherited by programs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _leave_task(number: int, frame: FrameType | None) -> None:
    for stop in STOPS:
        signal.signal(stop, _say_nothing)
    raise SystemExit(128 + number)


def _say_nothing(number: int, frame: FrameType | None) -> None:
    pass
