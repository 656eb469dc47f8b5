"""Ctrl-C while a command runs: what it must not fall into, whom it is for, and when it ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130  # the exit status of what SIGINT ends
LOOK_AGAIN_S = 0.05
IMPORTLIB = "<frozen importlib._bootstrap>"


@contextmanager
def ctrl_c_between_imports() -> Iterator[None]:
    """Put Ctrl-C off to the end of an import while the block runs; afterwards it ends the process at once.

    Of an import that is cut short, half a library is left. Whoever imports it again gets an error, or the
    process crashes, and a library that tries several imports takes Ctrl-C for one that failed. A second
    Ctrl-C during the import ends the process. After the block, Python would print a traceback of its own end.
    Where SIGINT is ignored, it stays ignored.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    put_off = _PutOff()
    before = signal.signal(signal.SIGALRM, put_off.look_again)
    signal.signal(signal.SIGINT, put_off.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def ctrl_c_for_this_thread_alone() -> Iterator[None]:
    """Keep SIGINT, which a terminal sends to all processes, from those that begin while the block runs.

    They inherit that it is blocked. A worker that is importing would end in the lines of a traceback, and a
    DataLoader waits five seconds for one that ended in the middle of a batch. This process ends its workers
    when it is interrupted. A signal that comes within the block is noticed after it.
    """
    from multiprocessing import resource_tracker

    # Python's multiprocessing has this helper begin before its processes, and that lets SIGINT through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _PutOff:
    """Handles the signals: that of Ctrl-C, and that of a clock, by which the end of an import is noticed."""

    def __init__(self) -> None:
        self.waits = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.waits:
            print("melhubert: interrupted", file=sys.stderr, flush=True)
            os._exit(STATUS)
        self.look_again(number, frame)

    def look_again(self, number: int, frame: FrameType | None) -> None:
        self.waits = _imports(frame)
        if not self.waits:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN_S)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported, as the frame and those that called it tell."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTLIB:
            return True
        frame = frame.f_back
    return False
