"""From the settings to a stream of batches: which sets, which statistics, and the processes that read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.layout import read_prepared
from s3prl_melhubert.pretrain.sampler import MicroBatch
from s3prl_melhubert.pretrain.settings import DataSettings
from s3prl_melhubert.statistics import FeatureStats


def build_dataset(
    paths: Sequence[str], config: MelHuBERTConfig, settings: DataSettings, seed: int, valid: bool = False
) -> PretrainingDataset:
    """The dataset that section `datarc` of a runner YAML asks for.

    Args:
        paths: prepared folders or CSV files.
        config: the model's settings.
        settings: section `datarc`.
        seed: of crops and masks.
        valid: a validation set keeps its short utterances.

    Raises:
        MelHuBERTError: a path that cannot be used, or sets that do not go together.
    """
    if not paths:
        raise MelHuBERTError("no training data: name prepared folders in datarc.sets, or give --data DIR")
    return PretrainingDataset(
        [read_prepared(path) for path in paths],
        config,
        sequence_length=settings.sequence_length if settings.sequence_length > 0 else None,
        max_timestep=0 if valid else settings.max_timestep,
        seed=seed,
    )


def feature_stats(dataset: PretrainingDataset, settings: DataSettings) -> FeatureStats | None:
    """What the features were normalized with: the sets say it, or `datarc.feature_stats` does.

    Returns:
        None, after a warning, if neither does.

    Raises:
        MelHuBERTError: the two contradict each other.
    """
    given = None if settings.feature_stats is None else FeatureStats.load(settings.feature_stats)
    if dataset.stats is not None:
        if given is not None and given != dataset.stats:
            raise MelHuBERTError(
                f"datarc.feature_stats: {settings.feature_stats} are other statistics than the data was "
                "normalized with; leave the key out, a prepared folder says it itself"
            )
        return dataset.stats
    if given is None:
        warnings.warn(
            "a published CSV does not say what its features were normalized with: the checkpoints will hold "
            "no statistics, and who uses them must give some; set datarc.feature_stats (librispeech-360h...)",
            stacklevel=2,
        )
    return given


@contextmanager
def read_batches(
    dataset: PretrainingDataset, sampler: Iterable[MicroBatch], workers: int, device: torch.device
) -> Iterator[Iterator[Batch]]:
    """The batches of a sampler, in its order, read ahead by up to so many processes (0: by this one).

    The processes end with the block, however it ends: they ignore the signal by which Python would end
    them at its own exit, and it would wait for them for ever.

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
            # What the iterator does when it is collected, which a traceback can put off.
            items._shutdown_workers()  # type: ignore[attr-defined]
        for reader in readers:
            if reader.is_alive():  # and deaf, after seconds: see below
                reader.kill()
            reader.join()


def _or_raise(items: Iterator[Batch | MelHuBERTError]) -> Iterator[Batch]:
    for item in items:
        if isinstance(item, MelHuBERTError):
            raise item
        yield item


class OrError(Dataset):
    """The items of a dataset; instead of raising a MelHuBERTError, it returns it.

    A DataLoader's worker would wrap it in a traceback of its own, and the one clear line would be lost.
    """

    def __init__(self, dataset: PretrainingDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: MicroBatch) -> Batch | MelHuBERTError:
        try:
            return self.dataset[item]
        except MelHuBERTError as error:
            return error


def ignore_signals(worker: int) -> None:
    """In a reader: the signals of a terminal or a scheduler reach it too, and are its parent's business."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
