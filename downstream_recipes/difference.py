"""A difference from SUPERB: one setting, or one property of a corpus, that is not what SUPERB has.

A score compares with SUPERB's only where there are none; whatever shows a score shows them, too.
"""

from __future__ import annotations

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
