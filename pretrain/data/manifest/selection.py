"""Some of the utterances of one or more manifests, numbered through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s3prl_melhubert.pretrain.data.manifest.columns import BLOCK, Utterances
from s3prl_melhubert.pretrain.data.manifest.utterance import FRAME_SHIFT_MS, Utterance


@dataclass(frozen=True)
class Amount:
    """How much speech some utterances are."""

    utterances: int = 0
    frames: int = 0  # of 10 ms

    def __str__(self) -> str:
        return f"{self.utterances} utterances, {self.frames * FRAME_SHIFT_MS / 3_600_000:.2f} h"


@dataclass(frozen=True, eq=False)
class Selection:
    """The utterances of several manifests, one after the other, or those of them whose lengths were chosen.

    Nothing but four bytes for each of them is in memory, and not even those where all are chosen.
    """

    parts: tuple[Utterances, ...]
    rows: tuple[np.ndarray | None, ...]  # of each part, those that are chosen, in order; None: all
    ends: np.ndarray  # (parts,): the number after the last utterance of each part

    @classmethod
    def of(cls, parts: Sequence[Utterances], keeps: Callable[[np.ndarray], np.ndarray]) -> Selection:
        """Choose by length.

        Args:
            parts: the manifests.
            keeps: is given (n,) lengths in frames of 10 ms, and tells which of them to keep.
        """
        rows: list[np.ndarray | None] = []
        for part in parts:
            found = []
            for begin in range(0, len(part), BLOCK):
                kept = np.flatnonzero(keeps(part.lengths[begin : begin + BLOCK]))
                found.append((begin + kept).astype(np.int32 if len(part) < 1 << 31 else np.int64))
            chosen = np.concatenate(found)
            rows.append(chosen if len(chosen) < len(part) else None)
        counts = [len(part) if some is None else len(some) for part, some in zip(parts, rows, strict=True)]
        return cls(tuple(parts), tuple(rows), np.cumsum(counts))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, number: int) -> tuple[int, int]:
        """The part that an utterance is from, and its row there."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = int(np.searchsorted(self.ends, number, side="right"))
        row = number - (int(self.ends[part - 1]) if part else 0)
        rows = self.rows[part]
        return part, row if rows is None else int(rows[row])

    def __iter__(self) -> Iterator[Utterance]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Utterance:
        part, row = self.place(int(number))
        return self.parts[part][row]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int32 frames of 10 ms."""
        pairs = zip(self.parts, self.rows, strict=True)
        lengths = [part.lengths if rows is None else part.lengths[rows] for part, rows in pairs]
        return lengths[0] if len(lengths) == 1 else np.concatenate(lengths)

    @property
    def amount(self) -> Amount:
        """How much is chosen."""
        return Amount(len(self), int(self.lengths.sum(dtype=np.int64)))

    @property
    def left_out(self) -> Amount:
        """How much is not."""
        chosen = self.amount
        utterances, frames = sum(map(len, self.parts)), sum(part.frames for part in self.parts)
        return Amount(utterances - chosen.utterances, frames - chosen.frames)

    def named_lengths(self) -> Iterator[tuple[list[bytes], list[int]]]:
        """Yields ids, as they are in the file, and lengths, block by block."""
        for part, rows in zip(self.parts, self.rows, strict=True):
            yield from part.named_lengths(rows)

    @property
    def names_and_lengths(self) -> str:
        """How many utterances these are, and a hash of their names and lengths."""
        digest = hashlib.sha256()
        for pairs in self.named_lengths():
            digest.update(b"".join(map(b"%b %d\n".__mod__, zip(*pairs, strict=True))))
        return f"{len(self)} utterances, {digest.hexdigest()[:12]}"
