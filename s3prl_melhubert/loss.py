"""The loss of masked prediction: the cross-entropy of cluster labels over masked and unmasked frames.

A batch's loss is kept as six sums over frames, because sums add up exactly over micro-batches, steps and
processes, and means do not. The weights of the two kinds of frames are applied here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.kernels import is_plain_cpu, wide
from s3prl_melhubert.masking import check_masks

NO_LABEL = -100  # of a frame that does not count; cross-entropy ignores it, too
Scalar = Any  # a Tensor of one number on the device, or a float on the host


class LossWeights(NamedTuple):
    """How much the mean over the masked frames and the mean over the unmasked ones count in the loss."""

    masked: float
    unmasked: float

    @classmethod
    def of(cls, config: MelHuBERTConfig) -> LossWeights:
        """The weights of a model's settings, where a part that is skipped has the weight 0."""
        return cls(
            masked=0.0 if config.skip_masked else config.pred_masked_weight,
            unmasked=0.0 if config.skip_nomask else config.pred_nomask_weight,
        )


@dataclass(frozen=True)
class PredictionLoss:
    """The loss over some frames, as six sums that can be added up with those of other frames.

    The sums are tensors () on the model's device, or floats after `on_host`. Those of the cross-entropy are
    float32, or float64 of logits in float64.
    """

    masked_loss: Scalar  # sum of the cross-entropy over masked frames, in nats
    masked_correct: Scalar  # number of masked frames whose cluster was predicted
    masked_frames: Scalar  # number of masked frames
    unmasked_loss: Scalar
    unmasked_correct: Scalar
    unmasked_frames: Scalar
    weights: LossWeights = field(kw_only=True)

    @classmethod
    def zero(cls, weights: LossWeights) -> PredictionLoss:
        """The loss over no frames, to which others are added."""
        return cls(*[0.0] * 6, weights=weights)

    @property
    def loss(self) -> Tensor:
        """() what is minimized: the weighted sum of the two means over these frames."""
        loss = self.masked_loss.new_zeros(())
        if self.weights.masked > 0:
            loss = loss + self.weights.masked * self.masked_loss / self.masked_frames.clamp(min=1)
        if self.weights.unmasked > 0:
            loss = loss + self.weights.unmasked * self.unmasked_loss / self.unmasked_frames.clamp(min=1)
        return loss

    def share_of(self, masked_frames: int, unmasked_frames: int) -> Tensor:
        """() what these frames bring to the `loss` of a larger batch that they are a part of.

        Args:
            masked_frames: number of masked frames of the larger batch.
            unmasked_frames: number of its unmasked frames.
        """
        loss = self.masked_loss.new_zeros(())
        if self.weights.masked > 0:
            loss = loss + self.weights.masked / max(1, masked_frames) * self.masked_loss
        if self.weights.unmasked > 0:
            loss = loss + self.weights.unmasked / max(1, unmasked_frames) * self.unmasked_loss
        return loss

    @property
    def masked_accuracy(self) -> Tensor:
        """() the fraction of masked frames whose cluster was predicted."""
        return self.masked_correct / self.masked_frames.clamp(min=1)

    @property
    def unmasked_accuracy(self) -> Tensor:
        """() the fraction of unmasked frames whose cluster was predicted."""
        return self.unmasked_correct / self.unmasked_frames.clamp(min=1)

    def sums(self) -> list[Scalar]:
        """The six sums, in the order of the fields."""
        return [getattr(self, each.name) for each in fields(self) if each.name != "weights"]

    def __add__(self, other: PredictionLoss) -> PredictionLoss:
        """The loss over the frames of both."""
        pairs = zip(self.sums(), other.sums(), strict=True)
        return PredictionLoss(*(a + b for a, b in pairs), weights=self.weights)

    def detach(self) -> PredictionLoss:
        """The same in float32 and without a gradient; it stays on the device, so that nobody waits for it."""
        return PredictionLoss(*(value.detach().float() for value in self.sums()), weights=self.weights)

    def on_host(self) -> PredictionLoss:
        """The same as Python's floats, which takes one transfer."""
        values = torch.stack([torch.as_tensor(value) for value in self.sums()]).tolist()
        return PredictionLoss(*values, weights=self.weights)

    def means(self) -> dict[str, float]:
        """Cross-entropy (in nats) and accuracy a frame; a kind of which there are no frames has neither."""
        means = {}
        for kind in ("masked", "unmasked"):
            frames = float(getattr(self, f"{kind}_frames"))
            if frames:
                means[f"{kind}_loss"] = float(getattr(self, f"{kind}_loss")) / frames
                means[f"{kind}_accuracy"] = float(getattr(self, f"{kind}_correct")) / frames
        return means


def prediction_loss(
    predict: Callable[[Tensor], Tensor],
    last_hidden_state: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    padding_mask: Tensor | None,
    weights: LossWeights,
) -> PredictionLoss:
    """Cross-entropy of the cluster labels, over the masked and over the unmasked frames of a batch.

    Args:
        predict: the prediction head, (frames, C) -> (frames, clusters) logits.
        last_hidden_state: (B, T, C) the model's final output.
        labels: (B, T) cluster ids of any integer type; anything at padding, and `NO_LABEL` at frames that
            are to be left out.
        mask: (B, T) bool, true where the input was masked.
        padding_mask: (B, T) bool, true at padding; None if nothing is padded.
        weights: a kind of frames whose weight is 0 has no gradient.

    Raises:
        MelHuBERTError: a mask is not a bool for each frame, or the labels are no integers, one for each
            frame; or a label is no cluster, which is only looked for on a CPU.
    """
    shape = last_hidden_state.shape[:-1]
    if mask is None:
        raise MelHuBERTError(
            "mask: None found, expected that with which the frames were hidden, or all false"
        )
    check_masks(shape, mask=mask, padding_mask=padding_mask)
    if not isinstance(labels, Tensor):
        raise MelHuBERTError(f"labels: {type(labels).__name__} found, expected a tensor of integers")
    is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not is_whole or labels.shape != shape:
        raise MelHuBERTError(
            f"labels: {labels.dtype} of shape {tuple(labels.shape)} found, expected integers, one for each "
            f"frame: {tuple(shape)}"
        )
    labels = labels.long()  # Files of labels are of the smallest type that holds them.
    valid = labels != NO_LABEL
    if padding_mask is not None:
        valid &= ~padding_mask
    sums = []
    for hidden, weight in ((mask, weights.masked), (~mask, weights.unmasked)):
        chosen = valid & hidden  # (B, T)
        # Nothing is learned from frames of no weight, so that to watch them costs a pass of the head alone.
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            sums += label_sums(predict(last_hidden_state[chosen]), labels[chosen])
            sums.append(chosen.sum())
    return PredictionLoss(*sums, weights=weights)


def label_sums(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """The sum of the cross-entropy over frames, in nats, and the number of those whose cluster is predicted.

    Args:
        logits: (frames, clusters).
        labels: (frames,) int64 cluster ids; a frame of `NO_LABEL` does not count.

    Raises:
        MelHuBERTError: a label is no cluster. This is only looked for on a CPU, because a GPU would have to
            be waited for; there, torch ends the program.
    """
    if is_plain_cpu(labels):
        clusters = logits.shape[-1]
        wrong = labels[((labels < 0) & (labels != NO_LABEL)) | (labels >= clusters)]
        if len(wrong):
            raise MelHuBERTError(
                f"labels: {int(wrong[0])} found, expected 0 to {clusters - 1}, a cluster of the model, or "
                f"{NO_LABEL} at frames that are to be left out"
            )
    logits = wide(logits)
    return [F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum()]
