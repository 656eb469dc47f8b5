"""What is wrong with a corpus, collected and told at once.

A check that stops at the first missing file makes its user start it a hundred times. So checks add each
fault to a `Problems` under its kind, and the end is one error with a line a kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from s3prl_melhubert.errors import MelHuBERTError

NAMED = 10  # faults of a kind that a report names; the rest are counted


class Kind(NamedTuple):
    """A kind of fault."""

    what: str  # in the plural: "files that cannot be read"
    remedy: str  # what the user can do about it


class Problems:
    """Faults by kind, in the order in which the kinds first appeared.

    Args:
        skipped: kinds that are no faults, because the user wants what is so left out.

    Attributes:
        left_out: what is of these kinds.
    """

    def __init__(self, skipped: Iterable[Kind] = ()) -> None:
        self._found: dict[Kind, list[str]] = {}
        self._skipped = frozenset(skipped)
        self.left_out: list[str] = []

    def skips(self, kind: Kind) -> bool:
        """Whether what is of this kind is left out."""
        return kind in self._skipped

    def add(self, kind: Kind, name: str) -> None:
        """Note one fault; `name` says where it is, and what was found if the kind does not."""
        if self.skips(kind):
            self.left_out.append(name)
            return
        self._found.setdefault(kind, []).append(name)

    def __len__(self) -> int:
        """Count the faults of all kinds."""
        return sum(map(len, self._found.values()))

    def report(self) -> list[str]:
        """Write a line for each kind: what it is, how many there are, the first ten, and what to do."""
        return [_in_words(kind, names) for kind, names in self._found.items()]

    def raise_if_any(self, corpus: str) -> None:
        """End the check.

        Args:
            corpus: what was checked, for the error: "LibriSpeech in data/LibriSpeech".

        Raises:
            MelHuBERTError: something was added. One kind is told on one line; several on a line each,
                below one with their number.
        """
        lines = self.report()
        if len(lines) == 1:
            raise MelHuBERTError(f"{corpus}: {lines[0]}")
        if lines:
            heading = f"{corpus}: {len(self)} faults of {len(lines)} kinds"
            raise MelHuBERTError("\n  ".join([heading, *lines]))


def _in_words(kind: Kind, names: list[str]) -> str:
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{kind.what}: {len(names)} ({', '.join(names[:NAMED])}{more}); {kind.remedy}"
