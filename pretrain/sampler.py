"""Which utterances make which batch: an endless, reproducible plan that needs no state but its position.

An epoch's plan is a function of the seed and the epoch's number. Utterances are drawn for the whole
optimizer step first and only then cut into the micro-batches of each accumulation step and process, so
that the same step sees the same utterances on one GPU or on eight, as long as their product is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.seeds import ORDER, numpy_generator

# At most so many groups of similar length, each of enough utterances that its batches vary.
MAX_BUCKETS = 16
STEPS_PER_BUCKET = 8


@dataclass(frozen=True)
class MicroBatch:
    """What one process reads at once."""

    epoch: int
    # Places in the epoch's plan. Randomness is drawn by place: an utterance that stands at two places
    # (because the last step had to be filled up) gets two crops and two masks.
    places: tuple[int, ...]
    utterances: tuple[int, ...]  # their numbers in the dataset


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch is cut into steps.

    Args:
        lengths: frames of each utterance as the model will read it, that is, after cropping.
        utterances_per_batch: size of a micro-batch, unless `max_frames` is given.
        max_frames: or the frames of a micro-batch, padding included.
        accumulate: micro-batches of a step on each process.
        processes: how many train together.
        seed: of the order.
    """

    lengths: Sequence[int]
    utterances_per_batch: int
    accumulate: int
    processes: int
    seed: int
    max_frames: int | None = None
    _buckets: list[tuple[np.ndarray, int]] = field(init=False, repr=False)

    def __post_init__(self):
        lengths = np.asarray(self.lengths)
        if len(lengths) == 0:
            raise MelHuBERTError("no utterances to make batches of")
        if self.max_frames is not None and self.max_frames < lengths.max():
            raise MelHuBERTError(
                f"max_frames: {self.max_frames} found, but the longest utterance has {lengths.max()} frames "
                "after cropping; raise max_frames or lower sequence_length"
            )
        order = np.argsort(lengths, kind="stable")
        step_size = self._micro_batch_size(lengths.max()) * self.accumulate * self.processes
        count = int(np.clip(len(order) // (STEPS_PER_BUCKET * step_size), 1, MAX_BUCKETS))
        buckets = []
        for members in np.array_split(order, count):  # from short to long
            buckets.append((members, self._micro_batch_size(lengths[members].max())))
        object.__setattr__(self, "_buckets", buckets)

    def _micro_batch_size(self, longest: int) -> int:
        return self.utterances_per_batch if self.max_frames is None else self.max_frames // int(longest)

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch."""
        steps, left = 0, 0
        for i, (members, size) in enumerate(self._buckets):
            step_size = size * self.accumulate * self.processes
            pool = left + len(members)
            last = i == len(self._buckets) - 1
            steps += -(-pool // step_size) if last else pool // step_size
            left = pool % step_size
        return steps

    def epoch(self, epoch: int) -> list[list[MicroBatch]]:
        """The steps of an epoch, each a list of `accumulate * processes` micro-batches.

        Every utterance comes at least once. Those that do not fill a step of their length join the next
        longer ones; the last step is filled up with utterances of this epoch.
        """
        random = numpy_generator(ORDER, self.seed, epoch)
        lengths = np.asarray(self.lengths)
        parts = self.accumulate * self.processes
        steps: list[tuple[np.ndarray, int]] = []
        left = np.empty(0, dtype=int)
        for i, (members, size) in enumerate(self._buckets):
            pool = np.concatenate([left, random.permutation(members)])
            count, rest = divmod(len(pool), size * parts)
            if rest and i == len(self._buckets) - 1:
                count += 1
                pool = np.resize(pool, count * size * parts)  # repeats it from its start
            used = count * size * parts
            steps += [(step, size) for step in pool[:used].reshape(count, -1)]
            left = pool[used:]

        plan, place = [], 0
        for i in random.permutation(len(steps)):
            step, size = steps[i]
            step = step[np.argsort(lengths[step], kind="stable")]  # similar lengths into a micro-batch
            micro_batches = []
            for utterances in step.reshape(parts, size):
                places = tuple(range(place, place + size))
                micro_batches.append(MicroBatch(epoch, places, tuple(utterances.tolist())))
                place += size
            plan.append(micro_batches)
        return plan


@dataclass
class PlanSampler:
    """The micro-batches of one process, step after step over the epochs, for a DataLoader.

    Args:
        plan: of each epoch.
        process: which of `plan.processes`.
        first_step, last_step: from where to where, counted over all epochs; the last is not included.
    """

    plan: BatchPlan
    process: int
    first_step: int
    last_step: int

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.plan.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        per_epoch = self.plan.steps_per_epoch
        epoch, skip = divmod(self.first_step, per_epoch)
        left = self.last_step - self.first_step
        while left > 0:
            for step in self.plan.epoch(epoch)[skip : skip + left]:
                yield from step[self.process :: self.plan.processes]
                left -= 1
            epoch, skip = epoch + 1, 0


def in_order(lengths: Sequence[int], plan: BatchPlan) -> list[MicroBatch]:
    """Each utterance once, from short to long, in micro-batches of the plan's size: for validation."""
    batches: list[MicroBatch] = []
    members: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        full = len(members) == plan.utterances_per_batch
        if plan.max_frames is not None:
            full = bool(members) and (len(members) + 1) * lengths[number] > plan.max_frames
        if full:
            batches.append(MicroBatch(0, tuple(members), tuple(members)))
            members = []
        members.append(number)
    return [*batches, MicroBatch(0, tuple(members), tuple(members))]
