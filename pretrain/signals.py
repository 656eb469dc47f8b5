"""SIGTERM and SIGINT, noted where they would kill: a run finishes its step, saves, and then ends."""

from __future__ import annotations

import signal


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying of them; the second one kills."""

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
