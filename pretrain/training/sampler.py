"""The plan of which utterances make which batch; it is endless, and its only state is the position in it.

An epoch's plan is a function of the seed and of the epoch's number. The utterances are drawn for a whole
optimizer step first, and only then cut into the micro-batches of each accumulation step and process. So a
step has the same utterances on one GPU and on eight, as long as the product of GPUs, accumulation steps and
utterances of a micro-batch is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.seeds import ORDER, numpy_generator

# There are at most so many groups of similar length, each with enough utterances for so many steps.
MAX_BUCKETS = 16
STEPS_PER_BUCKET = 8
MOST_UTTERANCES = 1_000_000  # of a step; a typing error makes more, and would fill the memory


@dataclass(frozen=True)
class MicroBatch:
    """The utterances that one process reads at once."""

    epoch: int
    # These are the places in the epoch's plan. Randomness is drawn by place: an utterance that stands at two
    # places, because the last step had to be filled up, gets two crops and two masks.
    places: tuple[int, ...]
    utterances: tuple[int, ...]  # their numbers in the dataset


@dataclass(frozen=True)
class BatchPlan:
    """The cutting of an epoch into steps.

    Args:
        lengths: frames of each utterance as the model will read it, that is, after cropping.
        utterances_per_batch: size of a micro-batch, unless `max_frames` is given.
        accumulate: micro-batches of a step on each process.
        processes: number of processes that train together.
        seed: the seed of the order.
        max_frames: frames of a micro-batch, padding included, instead of a number of utterances.

    Raises:
        MelHuBERTError: there are no utterances, or one is longer than `max_frames`.
    """

    lengths: Sequence[int]
    _: KW_ONLY
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
        if step_size > MOST_UTTERANCES:
            raise MelHuBERTError(
                f"train_batch_size or max_frames: {step_size} utterances in a step ({self.accumulate} x "
                f"{self.processes} micro-batches), expected at most {MOST_UTTERANCES}"
            )
        count = int(np.clip(len(order) // (STEPS_PER_BUCKET * step_size), 1, MAX_BUCKETS))
        buckets = []
        for members in np.array_split(order, count):  # from short to long
            buckets.append((members, self._micro_batch_size(lengths[members].max())))
        object.__setattr__(self, "_buckets", buckets)

    def _micro_batch_size(self, longest: int) -> int:
        return self.utterances_per_batch if self.max_frames is None else self.max_frames // int(longest)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, which is the same in every epoch."""
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

        Every utterance comes at least once. Utterances that do not fill a step of their length join the next
        longer ones, and the last step is filled up with utterances of this epoch.
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
        plan: the plan of each epoch.
        process: number of this process among `plan.processes`.
        first_step: step to begin with, counted over all epochs.
        last_step: step to end before.
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
    """Each utterance once, from short to long, in micro-batches of the plan's size, for a validation."""
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
