"""The plan of which stretches of which utterances lie in which row.

An epoch is a stream of all crops in random order. Each optimizer step takes the next frames of it, exactly as
many as its rows hold; a crop that lies across two steps is cut. Within a step crops are laid into rows, the
longest first, each into the row with the least space that it fits. What fits nowhere whole is cut into pieces
that fill the rows up.

An epoch's order is a function of the seed and of the epoch's number, and the rows of a step are one of the
order and of the step. So a run that was interrupted goes on exactly, and a step has the same rows on one GPU
and on eight, as long as it has as many.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.seeds import ORDER, numpy_generator

# Of a crop that is cut, no piece is shorter than this share of a row: 1 s of 15 s.
SHORTEST_PIECE = 1 / 15
MOST_ROWS = 1_000_000  # of a step; a typing error makes more, and would fill the memory


class Piece(NamedTuple):
    """A stretch of a crop, or the whole of it."""

    place: int  # of the crop in the epoch; randomness is drawn by it
    utterance: int  # number in the dataset
    start: int  # first frame, counted from the start of the crop
    length: int  # frames


Row = tuple[Piece, ...]


@dataclass(frozen=True)
class RowMicroBatch:
    """The rows that one process reads at once."""

    epoch: int
    rows: tuple[Row, ...]
    ends_step: bool = False  # whether it is the last one of its process in an optimizer step


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The cutting of an epoch into steps of rows.

    Args:
        lengths: frames of each utterance as the model will read it, that is, after cropping.
        time: frames of a row; no crop is longer.
        rows: rows of a step, on all processes together.
        rows_per_batch: rows of a micro-batch at most.
        processes: number of processes that train together.
        seed: the seed of the order.

    Raises:
        MelHuBERTError: there are no utterances, or a step has too many rows or too few.
    """

    lengths: Sequence[int] | np.ndarray
    _: KW_ONLY
    time: int
    rows: int
    rows_per_batch: int
    processes: int
    seed: int
    frames: int = field(init=False)  # of all crops

    def __post_init__(self):
        lengths = np.asarray(self.lengths, dtype=np.int32)
        if len(lengths) == 0:
            raise MelHuBERTError("no utterances to make batches of")
        if self.rows > MOST_ROWS:
            raise MelHuBERTError(
                f"train_batch_size, max_frames or frames_per_batch: {self.rows} rows in a step, expected at "
                f"most {MOST_ROWS}"
            )
        if self.rows < self.processes:
            raise MelHuBERTError(
                f"frames_per_batch: {self.rows} rows of {self.time} frames in a step, expected at least one "
                f"for each of {self.processes} processes"
            )
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "frames", int(lengths.sum(dtype=np.int64)))

    @property
    def accumulate(self) -> int:
        """Micro-batches of a step on each process."""
        return -(-self.rows // (self.rows_per_batch * self.processes))

    @property
    def parts(self) -> int:
        """Micro-batches of a step on all processes; each has as many rows, if need be empty ones."""
        return self.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, which is the same in every epoch."""
        return -(-self.frames // (self.rows * self.time))

    @property
    def repeating_step(self) -> int:
        """0: a step repeats no utterances; rows that they do not fill stay empty."""
        return 0

    @property
    def most(self) -> int:
        """Stretches that a row has at most: half as many again as fill one on average, and one more."""
        return 1 + -(-3 * self.time * len(self.lengths) // (2 * self.frames))

    def epoch(self, epoch: int) -> EpochRows:
        """The steps of an epoch."""
        order = numpy_generator(ORDER, self.seed, epoch).permutation(
            np.arange(len(self.lengths), dtype=np.int32)
        )
        return EpochRows(self, epoch, order, np.cumsum(np.asarray(self.lengths)[order], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class EpochRows:
    """The steps of an epoch, each a list of micro-batches: those of process p are `step[p :: processes]`."""

    plan: RowPlan
    epoch: int
    order: np.ndarray  # (N,) int32: the utterances
    ends: np.ndarray  # (N,) int64: the frames of the stream up to the end of each

    def __len__(self) -> int:
        return self.plan.steps_per_epoch

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of this epoch."""
        return self.order.nbytes + self.ends.nbytes

    def __iter__(self) -> Iterator[list[RowMicroBatch]]:
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> list[RowMicroBatch]:
        if not -len(self) <= step < len(self):
            raise IndexError(step)
        plan, step = self.plan, step % len(self)
        size = plan.rows * plan.time
        shortest = max(1, int(plan.time * SHORTEST_PIECE))
        pieces = [
            piece
            for piece in self._stream(step * size, (step + 1) * size)
            if piece.length >= min(shortest, int(plan.lengths[piece.utterance]))
        ]
        rows = lay(pieces, plan.rows, plan.time, plan.most, shortest)
        parts = plan.parts
        rows += [()] * (-len(rows) % parts)
        return [
            # The rows stand from the longest crop to the shortest, so that each part gets some of all kinds.
            RowMicroBatch(self.epoch, tuple(rows[part::parts]), ends_step=part >= parts - plan.processes)
            for part in range(parts)
        ]

    def _stream(self, first: int, last: int) -> Iterator[Piece]:
        """The pieces of the frames from `first` up to `last`; after its end the stream begins again."""
        total, count = self.plan.frames, len(self.order)
        place = int(np.searchsorted(self.ends, first % total, side="right")) + first // total * count
        while first < last:
            again, number = divmod(place, count)
            end = again * total + int(self.ends[number])
            utterance = int(self.order[number])
            start = end - int(self.plan.lengths[utterance])
            stop = min(end, last)
            yield Piece(place, utterance, first - start, stop - first)
            first, place = stop, place + 1


def lay(pieces: Sequence[Piece], rows: int, time: int, most: int, shortest: int) -> list[Row]:
    """Lay pieces into rows, and cut those that fit nowhere.

    Args:
        pieces: what to lay; together about as many frames as the rows hold.
        rows: number of rows.
        time: frames of a row.
        most: pieces of a row at most.
        shortest: frames that a piece has at least where one is cut. What would be shorter is left out of the
            epoch, and so is what finds no space at all.

    Returns:
        The rows, those with the longest pieces first.
    """
    laid: list[list[Piece]] = [[] for _ in range(rows)]
    spaces = [(time, -row) for row in range(rows)]  # of the rows that have some, the smallest first

    def lay_into(place: int, piece: Piece) -> None:
        space, row = spaces.pop(place)
        laid[-row].append(piece)
        if space > piece.length and len(laid[-row]) < most:
            insort(spaces, (space - piece.length, row))

    left = []
    for piece in sorted(pieces, key=lambda piece: -piece.length):
        place = bisect_left(spaces, (piece.length, -rows))
        if place < len(spaces):
            lay_into(place, piece)
        else:
            left.append(piece)
    for piece in left:
        while piece.length >= shortest and spaces and spaces[-1][0] >= shortest:
            length = min(piece.length, spaces[-1][0])
            rest = piece.length - length
            if 0 < rest < shortest <= length - (shortest - rest):
                length -= shortest - rest  # so that the rest can be a piece, too
            lay_into(len(spaces) - 1, piece._replace(length=length))
            piece = piece._replace(start=piece.start + length, length=piece.length - length)
    return [tuple(row) for row in laid]
