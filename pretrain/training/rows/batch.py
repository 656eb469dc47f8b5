"""A micro-batch of rows: how it is read, and the model's loss on it without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.loss import NO_LABEL, LossWeights, PredictionLoss, label_sums
from s3prl_melhubert.masking import draw_mask, most_masked
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.training.rows.layout import RowLayout, take
from s3prl_melhubert.pretrain.training.rows.plan import RowMicroBatch
from s3prl_melhubert.pretrain.training.seeds import CROP, MASK, numpy_generator, torch_generator


@dataclass(frozen=True)
class RowForm:
    """What the rows of a run have in common, from which all shapes follow."""

    config: MelHuBERTConfig
    time: int  # T, the frames of a row
    most: int  # stretches that a row has at most

    @property
    def gap(self) -> int:
        """Frames that the positional convolution looks back."""
        return self.config.conv_pos // 2

    @property
    def masked(self) -> int:
        """Masked frames that a row has at most."""
        return most_masked(self.config, self.time, self.most)


class Chosen(NamedTuple):
    """The frames of one kind, masked or not, among the B x T of a batch.

    There are always as many places, so that the loss has the same shape for every batch. Other frames, which
    have no label, fill up the places that are left.
    """

    places: Tensor  # (K,) int64, none twice
    labels: Tensor  # (K,) int64 cluster ids, `NO_LABEL` at the others

    @classmethod
    def of(cls, wanted: Tensor, labels: Tensor, size: int) -> Chosen:
        """Choose the frames where `wanted` (B, T) is true, which are at most `size`."""
        flat = wanted.flatten().numpy()
        meant = np.flatnonzero(flat)
        places = np.concatenate([meant, np.flatnonzero(~flat)[: size - len(meant)]])
        chosen = labels.flatten().numpy()[places]
        chosen[len(meant) :] = NO_LABEL
        return cls(torch.from_numpy(places), torch.from_numpy(chosen))


@dataclass
class RowBatch(Batch):
    """B rows of T frames, in which stretches of utterances lie end to end.

    `lengths` are those of the stretches, as a padded batch has those of its utterances.
    """

    form: RowForm = field(kw_only=True)
    rows: tuple[tuple[int, ...], ...] = field(kw_only=True)  # frames of the stretches in each row
    layout: RowLayout = field(kw_only=True)
    masked: Chosen | None = field(kw_only=True)  # None where nothing is learned from masked frames
    unmasked: Chosen | None = field(kw_only=True)

    @classmethod
    def of(
        cls,
        form: RowForm,
        features: Tensor,
        labels: Tensor,
        mask: Tensor,
        rows: Sequence[Sequence[int]],
        ends_step: bool = False,
    ) -> RowBatch:
        """Make the batch of some rows.

        Args:
            form: what the rows of the run have in common.
            features: (B, T, F), zero at padding.
            labels: (B, T) int64 cluster ids.
            mask: (B, T) bool, never true at padding.
            rows: frames of the stretches in each row.
            ends_step: whether it is the last one of its process in an optimizer step.
        """
        weights = LossWeights.of(form.config)
        used = torch.tensor([sum(stretches) for stretches in rows])
        valid = torch.arange(form.time) < used[:, None]  # (B, T)
        count = len(rows)
        unmasked = valid & ~mask
        return cls(
            features=features,
            labels=labels,
            mask=mask,
            padding_mask=~valid,
            lengths=tuple(length for stretches in rows for length in stretches),
            masked_frames=int(mask.sum()),
            ends_step=ends_step,
            form=form,
            rows=tuple(tuple(stretches) for stretches in rows),
            layout=RowLayout.of(rows, form.time, form.gap, form.most),
            masked=Chosen.of(mask, labels, count * form.masked) if weights.masked > 0 else None,
            unmasked=Chosen.of(unmasked, labels, count * form.time) if weights.unmasked > 0 else None,
        )

    def to(self, device: torch.device) -> RowBatch:
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, layout=moved.layout.to(device))  # where it is by now; with the kernels there

    def _map(self, function) -> RowBatch:
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                values[name] = function(value)
            elif isinstance(value, Chosen):
                values[name] = Chosen(*map(function, value))
            elif isinstance(value, RowLayout):
                values[name] = value.map(function)
        return replace(self, **values)

    def split(self, parts: int) -> list[Batch]:
        """Cut the batch into up to `parts` smaller ones, of whole rows."""
        if parts == 1:
            return [self]
        batches: list[Batch] = []
        for chosen in np.array_split(np.arange(len(self.rows)), min(parts, len(self.rows))):
            some = slice(int(chosen[0]), int(chosen[-1]) + 1)
            tensors = (self.features[some], self.labels[some], self.mask[some])
            batches.append(RowBatch.of(self.form, *tensors, self.rows[some], self.ends_step))
        return batches

    def loss(self, model: MelHuBERT) -> PredictionLoss:
        """The loss over the frames from which something is learned; the others are not looked at."""
        last = model(
            self.features, self.padding_mask, self.mask, frames=self.layout, every_layer=False
        ).last_hidden_state.flatten(0, 1)  # (B x T, C)
        sums = []
        for kind, count in ((self.masked, self.masked_frames), (self.unmasked, self.unmasked_frames)):
            if kind is None:
                sums += [last.new_zeros((), dtype=torch.float32) for _ in range(3)]
                continue
            sums += label_sums(model.predict(take(last, kind.places)), kind.labels)
            sums.append(last.new_full((), count, dtype=torch.float32))
        return PredictionLoss(*sums, weights=LossWeights.of(model.config))


class RowReader(Dataset):
    """The micro-batches of rows of a dataset.

    Args:
        dataset: the utterances, in crops of at most `form.time` frames.
        form: what the rows of the run have in common.
    """

    def __init__(self, dataset: PretrainingDataset, form: RowForm):
        self.dataset = dataset
        self.form = form

    def __getitem__(self, item: RowMicroBatch) -> RowBatch:
        """The rows of a micro-batch.

        Raises:
            MelHuBERTError: a file cannot be read or does not fit; the message names it, with its figures.
        """
        dataset, form = self.dataset, self.form
        config = form.config
        shape = len(item.rows), form.time
        features = torch.zeros(*shape, config.feat_emb_dim)
        labels = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.bool)
        rows = []
        for number, pieces in enumerate(item.rows):
            at, stretches = 0, []
            for piece in pieces:
                random = numpy_generator(CROP, dataset.seed, item.epoch, piece.place)
                cut = slice(piece.start, piece.start + piece.length)
                # Two pieces of a crop may lie in different rows; a file may be a frame shorter than planned.
                frames, ids = (part[cut] for part in dataset.crop(piece.utterance, random))
                length = len(frames)
                if not length:
                    continue
                generator = torch_generator(MASK, dataset.seed, item.epoch, piece.place, piece.start)
                hidden = draw_mask(config, [length], length, generator)[0]
                for whole, part in ((features, frames), (labels, ids), (mask, hidden)):
                    whole[number, at : at + length] = part
                stretches.append(length)
                at += length
            rows.append(stretches)
        return RowBatch.of(form, features, labels, mask, rows, item.ends_step)
