"""SIGTERM and SIGINT are noted instead of obeyed at once: a run finishes its step, saves, and then ends."""

from __future__ import annotations

import os
import signal
import time

# A scheduler or a terminal signals all processes of a job, and torchrun passes on what it got itself: each
# process gets the same signal twice, the second one a little later.
SAME_SIGNAL_S = 5.0


class StopSignals:
    """Notes the first SIGTERM or SIGINT within the block; a second one of the same kind kills.

    Under torchrun, a second one that comes soon after the first is the same one. torchrun itself kills what
    has not ended after 30 s.
    """

    def __enter__(self) -> StopSignals:
        self.received: signal.Signals | None = None
        self._first: dict[int, float] = {}  # when each signal came first
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.received, now = signal.Signals(number), time.monotonic()
        first = self._first.setdefault(number, now)
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, self._before[self.received])
        elif now > first + SAME_SIGNAL_S:
            signal.signal(number, self._before[self.received])
            signal.raise_signal(number)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
