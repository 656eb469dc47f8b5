"""The plan of which utterances make which batch; it is endless, and its only state is the position in it.

An epoch's plan is a function of the seed and of the epoch's number. The utterances are drawn for a whole
optimizer step first, and only then cut into the micro-batches of each accumulation step and process. So a
step has the same utterances on one GPU and on eight, as long as the product of GPUs, accumulation steps and
utterances of a micro-batch is the same; with a step of so many frames, whatever their number.

The plan is arrays, some ten bytes for each utterance. The micro-batches of a step are made when it is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.rows.plan import RowMicroBatch, RowPlan
from s3prl_melhubert.pretrain.training.seeds import ORDER, numpy_generator

# There are at most so many groups of similar length, each with enough utterances for so many steps.
MAX_BUCKETS = 16
STEPS_PER_BUCKET = 8
MOST_UTTERANCES = 1_000_000  # of a step; a typing error makes more, and would fill the memory
BLOCK = 1 << 20  # utterances whose frames are added up at a time


@dataclass(frozen=True)
class MicroBatch:
    """The utterances that one process reads at once."""

    epoch: int
    # These are the places in the epoch's plan. Randomness is drawn by place: an utterance that stands at two
    # places, because the last step had to be filled up, gets two crops and two masks.
    places: tuple[int, ...]
    utterances: tuple[int, ...]  # their numbers in the dataset
    ends_step: bool = False  # whether it is the last one of its process in an optimizer step


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The steps of an epoch, each a list of micro-batches: those of process p are `step[p :: processes]`."""

    plan: BatchPlan
    epoch: int
    order: np.ndarray  # (places,): the utterances, those of a step beside each other
    bounds: np.ndarray  # (steps + 1,): the stretches of `order` that are steps
    turns: np.ndarray  # (steps,): which stretch comes at which step
    places: np.ndarray  # (steps,): the first place of each step

    def __len__(self) -> int:
        return len(self.turns)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of this epoch."""
        return sum(array.nbytes for array in (self.order, self.bounds, self.turns, self.places))

    def utterances(self, step: int) -> np.ndarray:
        """The utterances of a step, from short to long; the first of them has the place `places[step]`."""
        stretch = int(self.turns[step])
        chosen = self.order[self.bounds[stretch] : self.bounds[stretch + 1]]
        return chosen[np.argsort(self.plan.lengths[chosen], kind="stable")]

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> list[MicroBatch]:
        if not -len(self) <= step < len(self):
            raise IndexError(step)
        place = int(self.places[step])
        parts = self.plan.cut(self.utterances(step))
        batches = []
        for number, part in enumerate(parts):
            places = tuple(range(place, place + len(part)))
            ends_step = number >= len(parts) - self.plan.processes
            batches.append(MicroBatch(self.epoch, places, tuple(part.tolist()), ends_step))
            place += len(part)
        return batches


class BatchPlan:
    """The cutting of an epoch into steps.

    Args:
        lengths: frames of each utterance as the model will read it, that is, after cropping.
        utterances_per_batch: size of a micro-batch, unless `max_frames` is given.
        accumulate: micro-batches of a step on each process, unless `frames_per_batch` is given.
        processes: number of processes that train together.
        seed: the seed of the order.
        max_frames: frames of a micro-batch, padding included, instead of a number of utterances.
        frames_per_batch: frames of a step on all processes together, padding not included; then as many
            micro-batches are accumulated as that takes.

    Raises:
        MelHuBERTError: there are no utterances, one is longer than `max_frames`, or a step may have fewer
            utterances than there are processes.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        *,
        utterances_per_batch: int,
        accumulate: int,
        processes: int,
        seed: int,
        max_frames: int | None = None,
        frames_per_batch: int | None = None,
    ):
        lengths = np.asarray(lengths)
        if len(lengths) == 0:
            raise MelHuBERTError("no utterances to make batches of")
        longest = int(lengths.max())
        if max_frames is not None and max_frames < longest:
            raise MelHuBERTError(
                f"max_frames: {max_frames} found, but the longest utterance has {longest} frames "
                "after cropping; raise max_frames or lower sequence_length"
            )
        self.utterances_per_batch = utterances_per_batch
        self.accumulate = accumulate
        self.processes = processes
        self.seed = seed
        self.max_frames = max_frames
        self.frames_per_batch = frames_per_batch
        # Small numbers are sorted faster, and the plan keeps them.
        self.lengths = lengths.astype(np.uint16 if longest < 1 << 16 else np.int32)
        # The utterances from short to long.
        self._sorted = np.argsort(self.lengths, kind="stable").astype(_index(len(lengths)))
        self._frames = int(lengths.sum(dtype=np.int64))  # of all utterances
        self._bounds: np.ndarray | None = None  # of steps of so many utterances
        size = self._step_size(longest)
        # Groups of similar length.
        self._buckets = int(np.clip(len(lengths) // (STEPS_PER_BUCKET * size), 1, MAX_BUCKETS))
        if frames_per_batch is None:
            # The last of these steps is filled up with utterances that begin at `_last_pool`.
            self._bounds, self._last_pool = self._bounds_by_count()

    def _step_size(self, longest: int) -> int:
        """The utterances of a step of long ones, or of a step of so many frames on average.

        Raises:
            MelHuBERTError: they are too many, or may be too few for the processes.
        """
        if self.frames_per_batch is None:
            size = self._micro_batch_size(longest) * self.accumulate * self.processes
            how = f" ({self.accumulate} x {self.processes} micro-batches)"
            key = "train_batch_size or max_frames"
        else:
            if self.frames_per_batch < longest * self.processes:
                raise MelHuBERTError(
                    f"frames_per_batch: {self.frames_per_batch} found, but the longest utterance has "
                    f"{longest} frames after cropping, and each of {self.processes} processes reads at least "
                    f"one; expected at least {longest * self.processes}"
                )
            size = -(-len(self.lengths) // self.steps_per_epoch)
            key, how = "frames_per_batch", f" ({self.frames_per_batch} frames)"
        if size > MOST_UTTERANCES:
            raise MelHuBERTError(
                f"{key}: {size} utterances in a step{how}, expected at most {MOST_UTTERANCES}"
            )
        return size

    def _micro_batch_size(self, longest: int) -> int:
        return self.utterances_per_batch if self.max_frames is None else self.max_frames // longest

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, which is the same in every epoch."""
        if self._bounds is not None:
            return len(self._bounds) - 1
        assert self.frames_per_batch is not None
        return max(1, self._frames // self.frames_per_batch)

    @property
    def repeating_step(self) -> int:
        """The utterances of a step if they are more than there are, so that some come again; else 0."""
        places = 0 if self._bounds is None or self.steps_per_epoch > 1 else int(self._bounds[-1])
        return places if places > len(self.lengths) else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that all epochs share."""
        arrays = (self.lengths, self._sorted, self._bounds)
        return sum(array.nbytes for array in arrays if array is not None)

    def epoch(self, epoch: int) -> EpochPlan:
        """The steps of an epoch; without `frames_per_batch`, each has `accumulate * processes` micro-batches.

        Every utterance comes at least once. Utterances that do not fill a step of their length join the next
        longer ones. Where steps are counted in utterances, the last one is filled up with utterances of this
        epoch; where they are counted in frames, they share the frames out evenly, to within an utterance.
        """
        random = numpy_generator(ORDER, self.seed, epoch)
        count = len(self._sorted)
        places = max(count, self.processes) if self._bounds is None else int(self._bounds[-1])
        order = np.empty(places, self._sorted.dtype)
        order[:count] = self._sorted
        for bucket in np.array_split(order[:count], self._buckets):  # from short to long; in place
            random.shuffle(bucket)
        if self._bounds is None:
            order[count:] = order[np.arange(places - count) % count]  # fewer utterances than processes
            bounds = self._bounds_by_frames(order)
        else:
            bounds = self._bounds
            first = self._last_pool
            order[count:] = order[first + np.arange(count - first, places - first) % (count - first)]
        turns = random.permutation(len(bounds) - 1).astype(order.dtype)
        first_places = np.zeros(len(turns), bounds.dtype)
        np.cumsum(np.diff(bounds)[turns[:-1]], out=first_places[1:])
        return EpochPlan(self, epoch, order, bounds, turns, first_places)

    def _bounds_by_count(self) -> tuple[np.ndarray, int]:
        """Where steps begin and end that all have `accumulate * processes` full micro-batches.

        Returns:
            The bounds, and where the utterances begin that fill up the last step: those of the longest
            bucket, after what the buckets before it left.
        """
        stretches, begin, end = [], 0, 0
        for number, members in enumerate(np.array_split(self._sorted, self._buckets)):
            end += len(members)
            size = self._micro_batch_size(int(self.lengths[members[-1]])) * self.accumulate * self.processes
            count = (end - begin) // size if number < self._buckets - 1 else -(-(end - begin) // size)
            stretches.append(begin + size * np.arange(count))
            begin += size * count
        bounds = np.concatenate([*stretches, [begin]])
        return bounds.astype(_index(begin)), int(stretches[-1][0])

    def _bounds_by_frames(self, order: np.ndarray) -> np.ndarray:
        """Where steps begin and end that share the frames out evenly.

        A step ends with the utterance in which its share of all frames ends. No share is smaller than the
        longest utterance of each process together, so every process has an utterance in every step.
        """
        steps = self.steps_per_epoch
        lengths = self.lengths
        total = self._frames + int(lengths[order[len(self._sorted) :]].sum(dtype=np.int64))
        shares = np.arange(1, steps + 1, dtype=np.int64) * total // steps
        ends = np.empty(steps, np.int64)
        found, before = 0, 0
        for begin in range(0, len(order), BLOCK):
            sums = before + np.cumsum(lengths[order[begin : begin + BLOCK]], dtype=np.int64)
            until = int(np.searchsorted(shares, sums[-1], side="right"))
            ends[found:until] = begin + np.searchsorted(sums, shares[found:until]) + 1
            found, before = until, int(sums[-1])
        bounds = np.concatenate([[0], ends])
        return bounds.astype(_index(len(order)))

    def cut(self, utterances: np.ndarray) -> list[np.ndarray]:
        """Cut the utterances of a step, from short to long, into micro-batches.

        Their number is a multiple of the number of processes, unless a step has too few utterances for that.
        """
        if self.frames_per_batch is None:
            return np.split(utterances, self.accumulate * self.processes)
        count = len(utterances)
        lengths = self.lengths[utterances]
        if self.max_frames is None:
            least = -(-count // self.utterances_per_batch)
        else:
            least = -(-int(lengths.sum(dtype=np.int64)) // self.max_frames)
        parts = min(count, self.processes * -(-least // self.processes))
        while parts < count and not self._fits(lengths, parts):
            parts = min(count, parts + self.processes)
        return np.array_split(utterances, parts)

    def _fits(self, lengths: np.ndarray, parts: int) -> bool:
        """Whether utterances of these lengths, from short to long, fit into so many micro-batches."""
        if self.max_frames is None:
            return True
        limit = self.max_frames
        return all(len(part) * int(part[-1]) <= limit for part in np.array_split(lengths, parts))


def _index(count: int) -> type[np.signedinteger]:
    """The smallest type for the numbers of so many things."""
    return np.int32 if count < 1 << 31 else np.int64


@dataclass
class PlanSampler:
    """The micro-batches of one process, step after step over the epochs, for a DataLoader.

    Args:
        plan: the plan of each epoch.
        process: number of this process among `plan.processes`.
        first_step: step to begin with, counted over all epochs.
        last_step: step to end before.
    """

    plan: BatchPlan | RowPlan
    process: int
    first_step: int
    last_step: int

    def __iter__(self) -> Iterator[MicroBatch | RowMicroBatch]:
        per_epoch = self.plan.steps_per_epoch
        epoch, skip = divmod(self.first_step, per_epoch)
        left = self.last_step - self.first_step
        while left > 0:
            plan = self.plan.epoch(epoch)
            for step in range(skip, min(per_epoch, skip + left)):
                yield from plan[step][self.process :: self.plan.processes]
                left -= 1
            epoch, skip = epoch + 1, 0


def in_order(
    lengths: Sequence[int] | np.ndarray, utterances_per_batch: int, max_frames: int | None = None
) -> list[MicroBatch]:
    """Each utterance once, from short to long, for a validation.

    Args:
        lengths: frames of each utterance as the model will read it.
        utterances_per_batch: size of a micro-batch, unless `max_frames` is given.
        max_frames: frames of a micro-batch, padding included; an utterance that is longer has one of its own.
    """
    batches: list[MicroBatch] = []
    members: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        full = len(members) == utterances_per_batch
        if max_frames is not None:
            full = bool(members) and (len(members) + 1) * int(lengths[number]) > max_frames
        if full:
            batches.append(MicroBatch(0, tuple(members), tuple(members)))
            members = []
        members.append(number)
    return [*batches, MicroBatch(0, tuple(members), tuple(members))]
