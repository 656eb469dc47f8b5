"""SIGTERM and SIGINT are noted instead of obeyed at once: a run finishes its step, saves, and then ends."""

from __future__ import annotations

import signal


class StopSignals:
    """Notes the first SIGTERM or SIGINT within the block; a second one of the same kind kills."""

    def __enter__(self) -> StopSignals:
        self.received: signal.Signals | None = None
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self._before[self.received])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
