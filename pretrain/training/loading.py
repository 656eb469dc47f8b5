"""The way from the settings to a stream of batches: the sets, their statistics, the processes that read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.loss import LossWeights
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.training.rows.batch import RowForm, RowReader
from s3prl_melhubert.pretrain.training.rows.plan import RowMicroBatch, RowPlan
from s3prl_melhubert.pretrain.training.rows.size import rows_of_batch, rows_of_step
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, MicroBatch, in_order
from s3prl_melhubert.pretrain.training.settings import DataSettings
from s3prl_melhubert.statistics import FeatureStats


def build_dataset(
    paths: Sequence[str],
    config: MelHuBERTConfig,
    settings: DataSettings,
    *,
    seed: int,
    where: str = "datarc",
    valid: bool = False,
) -> PretrainingDataset:
    """Open the sets that section `datarc` of a runner YAML asks for.

    A line warns of a mask that hides every frame.

    Args:
        paths: prepared folders or CSV files.
        config: the model's settings.
        settings: section `datarc`.
        seed: the seed of crops and masks.
        where: what an error calls the section.
        valid: whether this is a validation set, which keeps its short utterances.

    Raises:
        MelHuBERTError: a path cannot be used, the sets do not go together, or the model's settings mask
            nothing of what alone counts in the loss.
    """
    if not paths:
        raise MelHuBERTError("no training data: name prepared folders in datarc.sets, or give --data DIR")
    if config.mask_prob == 0 and LossWeights.of(config).unmasked == 0:
        raise MelHuBERTError(
            "the model's settings: mask_prob: 0 found, with which no frame is masked and nothing would be "
            "learned; expected above 0, or skip_nomask: False with pred_nomask_weight above 0"
        )
    dataset = PretrainingDataset(
        [read_prepared(path) for path in paths],
        config,
        sequence_length=settings.sequence_length if settings.sequence_length > 0 else None,
        max_timestep=0 if valid else settings.max_timestep,
        seed=seed,
        where=where,
    )
    longest = int(dataset.lengths.max())
    if not valid and longest <= config.mask_length and config.mask_prob > 0:
        warnings.warn(
            f"the model's settings: mask_length: {config.mask_length} masks every frame, because the longest "
            f"stretch that is trained on has {longest}; the model sees nothing but the mask",
            MelHuBERTWarning,
            stacklevel=2,
        )
    return dataset


def build_plan(
    dataset: PretrainingDataset, settings: DataSettings, accumulate: int, processes: int, seed: int
) -> BatchPlan | RowPlan:
    """Plan the batches that section `datarc` of a runner YAML asks for.

    Args:
        dataset: the utterances.
        settings: section `datarc`.
        accumulate: micro-batches of a step on each process, unless the section says how many frames it has.
        processes: number of processes that train together.
        seed: the seed of the order.

    Raises:
        MelHuBERTError: the utterances cannot be cut into such batches.
    """
    if settings.rows is True:
        return RowPlan(
            dataset.lengths,
            time=settings.sequence_length,
            rows=rows_of_step(settings, accumulate * processes),
            rows_per_batch=rows_of_batch(settings),
            processes=processes,
            seed=seed,
        )
    return BatchPlan(
        dataset.lengths,
        utterances_per_batch=settings.train_batch_size,
        accumulate=accumulate,
        processes=processes,
        seed=seed,
        max_frames=settings.max_frames if settings.max_frames > 0 else None,
        frames_per_batch=settings.frames_per_batch if settings.frames_per_batch > 0 else None,
    )


def batches_in_order(dataset: PretrainingDataset, settings: DataSettings) -> list[MicroBatch]:
    """Each utterance once, in padded batches as large as the micro-batches that section `datarc` asks for."""
    if settings.rows is True:
        most = rows_of_batch(settings) * settings.sequence_length
    else:
        most = settings.max_frames
    return in_order(dataset.lengths, settings.train_batch_size, most if most > 0 else None)


def reader_of(dataset: PretrainingDataset, plan: BatchPlan | RowPlan) -> PretrainingDataset | RowReader:
    """What reads the batches of a plan."""
    if isinstance(plan, BatchPlan):
        return dataset
    return RowReader(dataset, RowForm(dataset.config, plan.time, plan.most))


def feature_stats(dataset: PretrainingDataset, settings: DataSettings, where: str) -> FeatureStats | None:
    """The statistics that the features were normalized with, from the sets or from `feature_stats`.

    Args:
        dataset: the training set.
        settings: section `datarc`.
        where: what an error calls the section.

    Returns:
        None if neither says it.

    Raises:
        MelHuBERTError: the two contradict each other.
    """
    given = None if settings.feature_stats is None else FeatureStats.load(settings.feature_stats)
    if dataset.stats is not None:
        if given is not None and given != dataset.stats:
            raise MelHuBERTError(
                f"{where}: feature_stats: {settings.feature_stats} are other statistics than the data was "
                "normalized with; leave the key out, a prepared folder says it itself"
            )
        return dataset.stats
    return given


def settle_stats(
    datasets: Iterable[PretrainingDataset | None],
    data_stats: FeatureStats | None,
    model_stats: FeatureStats | None,
    whose: str,
) -> tuple[FeatureStats | None, list[str]]:
    """Decide with which statistics the model reads, and have the data read as if normalized with these.

    A model that was trained before goes on with its own: they are part of what its weights mean.

    Args:
        datasets: what to train and to validate on.
        data_stats: what the features to train on were normalized with; None if nobody knows.
        model_stats: what the model was trained with; None for a new model, or if nobody knows.
        whose: what to call the model.

    Returns:
        The statistics, which checkpoints are to hold (None, after a warning, if nobody knows any), and lines
        that say what is not as one would expect.
    """
    lines = []
    stats = model_stats or data_stats
    if stats is None:
        warnings.warn(
            "a published CSV does not say what its features were normalized with: the checkpoints will hold "
            "no statistics, and who uses them must give some; set datarc.feature_stats (librispeech-360h...)",
            MelHuBERTWarning,
            stacklevel=2,
        )
        return None, []
    if data_stats is None:
        lines.append(
            f"statistics: those of {whose}; a published CSV does not say what its features were normalized "
            "with, and these are taken to be it (datarc.feature_stats says otherwise)"
        )
    told = False
    used = [dataset for dataset in datasets if dataset is not None]
    if any(dataset.stats is not None and dataset.has_untold_stats for dataset in used):
        lines.append(
            "statistics: a published CSV does not say what its features were normalized with; those of the "
            "prepared folders beside it are taken to be it"
        )
    for dataset in used:
        own = dataset.stats or data_stats
        if own is None or own == stats:
            continue
        dataset.read_as(stats, own)
        if model_stats is None:
            lines.append(
                "statistics: those of the training data; the validation data was normalized with others, and "
                "is rescaled to these as it is read"
            )
        elif not told:
            lines.append(
                f"statistics: those of {whose}; the data was normalized with others, and is rescaled to "
                "these as it is read"
            )
            told = True
    return stats, lines


@contextmanager
def read_batches(
    dataset: PretrainingDataset | RowReader,
    sampler: Iterable[MicroBatch | RowMicroBatch],
    workers: int,
    device: torch.device,
) -> Iterator[Iterator[Batch]]:
    """The batches of a sampler, in its order, which other processes read ahead.

    The processes end with the block, however it ends. They ignore the signal by which Python would end them
    at its own exit, so that Python would wait for them for ever.

    Args:
        dataset: what reads a batch.
        sampler: the batches to read.
        workers: how many processes read at most; with 0 this process reads by itself.
        device: where the batches are wanted.

    Raises:
        MelHuBERTError: in the block, from the iterator: a file cannot be used.
    """
    workers = min(workers, os.cpu_count() or 1)  # the published 8 are too many for a small machine
    loader = DataLoader(
        OrError(dataset),
        sampler=sampler,
        batch_size=None,  # an item is a batch
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
        prefetch_factor=4 if workers else None,
    )
    others = set(multiprocessing.active_children())
    items = iter(loader)
    readers = set(multiprocessing.active_children()) - others
    try:
        yield _or_raise(items)
    finally:
        if readers:
            # The iterator does this when it is collected, which a traceback can put off.
            items._shutdown_workers()  # type: ignore[attr-defined]
        for reader in readers:
            if reader.is_alive():  # after some seconds it still runs, because it ignores signals
                reader.kill()
            reader.join()


def next_step(batches: Iterator[Batch]) -> list[Batch]:
    """Read the micro-batches of a process in the next optimizer step."""
    step = [next(batches)]
    while not step[-1].ends_step:
        step.append(next(batches))
    return step


def _or_raise(items: Iterator[Batch | MelHuBERTError]) -> Iterator[Batch]:
    """Raise the errors that `OrError` returned."""
    for item in items:
        if isinstance(item, MelHuBERTError):
            raise item
        yield item


class OrError(Dataset):
    """The items of a dataset, where a MelHuBERTError is returned instead of raised.

    A DataLoader's worker would wrap an exception in a traceback of its own, and its one line would be lost.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, item: MicroBatch | RowMicroBatch) -> Batch | MelHuBERTError:
        try:
            return shared(self.dataset[item])
        except MelHuBERTError as error:
            return error


def shared(batch: Batch) -> Batch:
    """A batch where the process that trains can map it, if this one only reads.

    A DataLoader would do it in a thread of the reader. Where that fails, as in a container of little shared
    memory, it would print a traceback, and the process that trains would wait for ever.

    Raises:
        MelHuBERTError: there is no room for the batch.
    """
    reader = get_worker_info()
    if reader is None:
        return batch
    try:
        return batch.share()
    except RuntimeError:
        raise MelHuBERTError(
            f"datarc.num_workers: {reader.num_workers} processes read ahead, and shared memory (/dev/shm) "
            "has no room for their batches; give a container more (`docker run --shm-size 1g`), or set "
            "num_workers to 0"
        ) from None


def ignore_signals(worker: int) -> None:
    """Ignore, in a reading process, the signals of a terminal or a scheduler, which its parent obeys."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
