"""Batches of prepared sets: crops of utterances, their labels, and masks.

An item depends only on the seed and on its place in the plan of the epoch. It does not depend on how many
processes read, how many GPUs train, or where an interrupted run was taken up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.frontend import padding_mask, stack_frames
from s3prl_melhubert.loss import PredictionLoss
from s3prl_melhubert.masking import draw_mask
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.clusters import check_same_labels
from s3prl_melhubert.pretrain.data.description import PreparedSet
from s3prl_melhubert.pretrain.data.manifest import (
    LENGTH_TOLERANCE,
    Selection,
    label_count,
    label_counts,
    open_array,
    told_label_period,
    utterance_features,
    utterance_labels,
)
from s3prl_melhubert.pretrain.training.sampler import MicroBatch
from s3prl_melhubert.pretrain.training.seeds import CROP, MASK, numpy_generator, torch_generator
from s3prl_melhubert.statistics import FeatureStats


@dataclass
class Batch:
    """B utterances, or crops of them, padded to T frames."""

    features: Tensor  # (B, T, 40 or 80) float32 normalized log-Mel, zero at padding
    labels: Tensor  # (B, T) int64 cluster ids, zero at padding
    mask: Tensor  # (B, T) bool, true at frames to hide from the model; never at padding
    padding_mask: Tensor | None  # (B, T) bool, true at padding; None if nothing is padded
    lengths: tuple[int, ...]  # frames of each utterance
    masked_frames: int  # counted on the CPU, so that nobody has to wait for a GPU to know it
    ends_step: bool = False  # whether it is the last one of its process in an optimizer step

    @property
    def frames(self) -> int:
        """Number of frames, padding not included."""
        return sum(self.lengths)

    @property
    def unmasked_frames(self) -> int:
        """Number of frames that the model sees, padding not included."""
        return self.frames - self.masked_frames

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can copy from at once; a DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def share(self) -> Batch:
        """The same batch in memory that another process can map."""
        return self._map(Tensor.share_memory_)

    def _map(self, function) -> Batch:
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def split(self, parts: int) -> list[Batch]:
        """Cut the batch into up to `parts` smaller ones, each without the padding that it does not need."""
        batches = []
        for chosen in np.array_split(np.arange(len(self.lengths)), min(parts, len(self.lengths))):
            rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
            lengths = self.lengths[rows]
            time = max(lengths)
            mask_of_padding = self.padding_mask if min(lengths) < time else None
            mask = self.mask[rows, :time]
            batches.append(
                Batch(
                    features=self.features[rows, :time],
                    labels=self.labels[rows, :time],
                    mask=mask,
                    padding_mask=None if mask_of_padding is None else mask_of_padding[rows, :time],
                    lengths=lengths,
                    masked_frames=int(mask.sum()),
                )
            )
        return batches

    def loss(self, model: MelHuBERT) -> PredictionLoss:
        """The model's loss on the batch, which is on its device."""
        last = model(self.features, self.padding_mask, self.mask, every_layer=False).last_hidden_state
        return model.prediction_loss(last, self.labels, self.mask, self.padding_mask)


class PretrainingDataset(Dataset):
    """The utterances of prepared sets; an item is a batch of them.

    Args:
        sets: prepared folders or published CSVs, as `read_prepared` returns them.
        config: the model's settings: frame period, number of clusters, masking.
        sequence_length: frames (of the model's period) of a random crop; None takes whole utterances.
        max_timestep: 10 ms frames: N keeps utterances of at most N, -N those of more than N, 0 all.
        seed: the seed of crops and masks.
        where: what an error calls the section of settings that `max_timestep` is from.

    Raises:
        MelHuBERTError: the sets do not go together or with the model, or nothing is left of them.
    """

    def __init__(
        self,
        sets: Sequence[PreparedSet],
        config: MelHuBERTConfig,
        *,
        sequence_length: int | None = None,
        max_timestep: int = 0,
        seed: int = 0,
        where: str = "datarc",
    ):
        self.sets = tuple(sets)
        self.config = config
        self.sequence_length = sequence_length
        self.seed = seed
        self.stats = common_stats(sets)
        check_same_labels(sets)
        # Whether there is a published CSV, whose features are taken to be normalized as those of the others.
        self.has_untold_stats = any(prepared.info is None for prepared in sets)
        self._rescaling: tuple[np.ndarray, np.ndarray] | None = None  # of every frame, where it is not None
        self.period = config.frame_period
        for prepared in sets:
            self._check(prepared)
        # ms, of the labels of each set; None: to be told from its files
        self.label_periods = [prepared.label_period_ms for prepared in sets]
        parts = [prepared.utterances for prepared in sets]
        self.utterances = Selection.of(parts, lambda lengths: _are_kept(lengths, max_timestep))
        if not len(self.utterances):
            shortest = min(int(part.lengths.min()) for part in parts)
            longest = max(int(part.lengths.max()) for part in parts)
            raise MelHuBERTError(
                f"{where}: max_timestep: {max_timestep} leaves none of {sum(map(len, parts))} utterances, of "
                f"{shortest} to {longest} frames of 10 ms (N keeps those of at most N, -N those of more than "
                "N, 0 all)"
            )

    def _check(self, prepared: PreparedSet) -> None:
        """Raise a MelHuBERTError if the set's labels do not go with the model."""
        if prepared.info is None:
            return
        if prepared.info.clusters > self.config.num_cluster:
            raise MelHuBERTError(
                f"{prepared.folder}: labels of {prepared.info.clusters} clusters, but the model has "
                f"num_cluster {self.config.num_cluster}; make it {prepared.info.clusters} in the model's YAML"
            )
        if prepared.info.label_period_ms > self.period:
            raise MelHuBERTError(
                f"{prepared.folder}: a label every {prepared.info.label_period_ms} ms, but the model reads a "
                f"frame every {self.period} ms; use labels of {self.period} ms, or a 20 ms model (-f 20)"
            )

    def read_as(self, stats: FeatureStats, own: FeatureStats) -> None:
        """Give frames as if they were normalized with `stats`, and not with the set's own statistics."""
        self._rescaling = own.rescaling(stats)

    @property
    def lengths(self) -> np.ndarray:
        """(utterances,) number of frames that the model reads of each utterance, after cropping."""
        limit = self.sequence_length
        lengths = label_counts(self.utterances.lengths, self.period)
        return lengths if limit is None else np.minimum(lengths, limit)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, item: MicroBatch) -> Batch:
        """The batch of these utterances at these places of the plan.

        Raises:
            MelHuBERTError: a file cannot be read or does not fit; the message names it, with its figures.
        """
        crops = [
            self.crop(number, numpy_generator(CROP, self.seed, item.epoch, place))
            for number, place in zip(item.utterances, item.places, strict=True)
        ]
        masks = []
        for (frames, _), place in zip(crops, item.places, strict=True):
            # Each mask is drawn by itself, so that it does not depend on the utterances beside it.
            generator = torch_generator(MASK, self.seed, item.epoch, place)
            length = len(frames)
            masks.append(draw_mask(self.config, [length], length, generator)[0])

        lengths = tuple(len(frames) for frames, _ in crops)
        pad = torch.nn.utils.rnn.pad_sequence
        padded = min(lengths) < max(lengths)
        return Batch(
            features=pad([frames for frames, _ in crops], batch_first=True),
            labels=pad([labels for _, labels in crops], batch_first=True),
            mask=pad(masks, batch_first=True),
            padding_mask=padding_mask(lengths) if padded else None,
            lengths=lengths,
            masked_frames=sum(int(mask.sum()) for mask in masks),
            ends_step=item.ends_step,
        )

    def crop(self, number: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(T, 40 or 80) frames and (T,) labels of an utterance, or of a random stretch of it."""
        part, row = self.utterances.place(number)
        utterance = self.utterances.parts[part][row]
        features = utterance_features(utterance, self.stats)  # (F, 40) on the disk
        period = self.label_periods[part]
        if period is None:
            period = told_label_period(utterance, len(open_array(utterance.labels)))
            if period > self.period:
                raise MelHuBERTError(
                    f"{utterance.labels}: a label every {period} ms, but the model reads a frame every "
                    f"{self.period} ms"
                )
        labels = utterance_labels(utterance, period)
        if self.period == 20 and period == 10:
            labels = labels[::2]  # (T,): of frames 2t and 2t + 1, the label of the first

        total = label_count(len(features), self.period)
        if abs(total - len(labels)) > LENGTH_TOLERANCE or not min(total, len(labels)):
            raise MelHuBERTError(
                f"{utterance.labels}: {len(labels)} labels of {self.period} ms found for utterance "
                f"{utterance.id}, but {utterance.features} has {total} frames of {self.period} ms"
            )
        total = min(total, len(labels))
        length = total if self.sequence_length is None else min(total, self.sequence_length)
        start = int(random.integers(total - length + 1))

        each = self.period // 10  # 10 ms frames of a frame
        stretch = features[start * each : (start + length) * each]
        stretch = np.array(stretch, dtype=np.float32)
        if self._rescaling is not None:  # before an odd tail is padded
            scale, shift = self._rescaling
            stretch = stretch * scale + shift
        frames = torch.from_numpy(stretch)
        if not frames.isfinite().all():
            raise MelHuBERTError(
                f"{utterance.features}: NaN or infinite features found (utterance {utterance.id}); the "
                "file is damaged: prepare the set again"
            )
        chosen = torch.from_numpy(np.array(labels[start : start + length], dtype=np.int64))
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < self.config.num_cluster:
            bad = int(chosen.max() if chosen.min() >= 0 else chosen.min())
            raise MelHuBERTError(
                f"{utterance.labels}: cluster id {bad} found (utterance {utterance.id}), but the model has "
                f"num_cluster {self.config.num_cluster}: ids 0 to {self.config.num_cluster - 1}"
            )
        return stack_frames(frames) if self.period == 20 else frames, chosen


def common_stats(sets: Sequence[PreparedSet]) -> FeatureStats | None:
    """The statistics that all sets were normalized with; None if none of them says what they were.

    Raises:
        MelHuBERTError: two sets were normalized with different ones.
    """
    known = [(prepared, prepared.info.stats) for prepared in sets if prepared.info is not None]
    for prepared, stats in known[1:]:
        if stats != known[0][1]:
            raise MelHuBERTError(
                f"{prepared.folder}: normalized with other statistics than {known[0][0].folder}; prepare it "
                f"with --stats {known[0][0].folder / 'dataset.yaml'}"
            )
    return known[0][1] if known else None


def _are_kept(lengths: np.ndarray, max_timestep: int) -> np.ndarray:
    """Which utterances of so many 10 ms frames `max_timestep` keeps."""
    if max_timestep < 0:
        return lengths > -max_timestep
    return lengths <= max_timestep if max_timestep > 0 else np.ones(len(lengths), bool)
