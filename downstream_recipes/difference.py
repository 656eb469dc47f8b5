"""A difference from SUPERB: one setting, or one property of a corpus, that is not what SUPERB has.

A score compares with SUPERB's only where there are none; whatever shows a score shows them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """Something in which an experiment is not SUPERB's."""

    setting: str  # its place in the configuration, such as runner.total_steps, or what it is in words
    superb: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.setting} {self.here} (SUPERB: {self.superb})"


def differences_of(counts: Mapping[str, tuple[int, int]]) -> list[Difference]:
    """The numbers of a corpus that are not SUPERB's.

    Args:
        counts: SUPERB's number and the one that was found, by what is counted.
    """
    return [Difference(name, superb, here) for name, (superb, here) in counts.items() if here != superb]
