"""What something was made from then, and would be made from now: whether what was begun may be continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3prl_melhubert.errors import shown


@dataclass(frozen=True)
class Change:
    """Something that is no longer what it was."""

    name: str
    before: Any  # None for what was absent then
    now: Any  # None for what is absent now

    def __str__(self) -> str:
        """`seed 1, now 2`, at most a few lines long; of a mapping, only what changed in it."""
        if isinstance(self.before, Mapping) and isinstance(self.now, Mapping):
            inner = [f"{self.name} {each}" for each in changes(self.before, self.now)]
            if inner:  # otherwise one side says None, and the other nothing
                return "; ".join(inner)
        before, now = ("absent" if value is None else shown(value) for value in (self.before, self.now))
        return f"{self.name} {before}, now {now}"


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, absent_is_same: bool = False
) -> list[Change]:
    """What is no longer what it was, in the order in which it was noted.

    Args:
        before: what was noted when the thing was begun.
        now: what it would be made from now.
        absent_is_same: whether a name that only one side has does not count, because earlier versions did
            not note it. Otherwise it counts as None there.
    """
    names = [name for name in before if name in now] if absent_is_same else [*{**before, **now}]
    pairs = ((name, before.get(name), now.get(name)) for name in names)
    return [Change(*pair) for pair in pairs if pair[1] != pair[2]]
