"""The choice of frames to hide from the model in pre-training: HuBERT's span masking (paper, section III)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, shown

MIN_SPANS = 2  # an utterance has at least so many spans, however short it is


def check_masks(shape: Sequence[int], **masks: object) -> None:
    """That masks of a padded batch have a bool for each of its frames.

    A mask of another shape may fit by broadcasting, and would then hide the same frames of all utterances.

    Args:
        shape: (B, T).
        masks: the masks by their names; None where there is none.

    Raises:
        MelHuBERTError: one is no tensor of bools of this shape.
    """
    for name, mask in masks.items():
        if mask is None:
            continue
        if not isinstance(mask, Tensor):
            found = type(mask).__name__
        elif mask.dtype != torch.bool or mask.shape != tuple(shape):
            found = f"{mask.dtype} of shape {tuple(mask.shape)}"
        else:
            continue
        where = "padding" if name == "padding_mask" else "the frames that are hidden"
        raise MelHuBERTError(
            f"{name}: {found} found, expected a tensor of bools of shape {tuple(shape)}, true at {where}"
        )


def draw_mask(
    config: MelHuBERTConfig,
    lengths: Sequence[int] | Tensor,
    max_length: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a random (B, max_length) mask with the settings of a model, on the CPU.

    Whatever trains or measures draws its masks here. The arguments, the result and the errors are those of
    `span_mask`.
    """
    return span_mask(lengths, max_length, config.mask_prob, config.mask_length, generator)


def most_masked(config: MelHuBERTConfig, length: int, parts: int) -> int:
    """Frames that `draw_mask` masks at most in `parts` utterances of so many frames together."""
    mask_prob, mask_length = config.mask_prob, config.mask_length
    spans = mask_prob * length / mask_length + parts * (MIN_SPANS if mask_prob > 0 else 0)
    return min(length, math.ceil(spans * mask_length))


def span_mask(
    lengths: Sequence[int] | Tensor,
    max_length: int,
    mask_prob: float,
    mask_length: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw spans to mask for each utterance of a batch.

    An utterance of n frames gets max(2, int(mask_prob * n / mask_length + u)) spans, with u uniform in
    [0, 1): the number is rounded up or down at random, so that its mean is right. Starts are drawn
    without replacement from the first n - mask_length frames (HuBERT's convention: the last frame is
    never masked); spans may overlap. Where there are fewer such frames than spans, all are used; an
    utterance of no more frames than a span has is masked from its start.

    The spans are drawn on the CPU, whatever the model's device, so that a seed gives the same masks
    everywhere.

    Args:
        lengths: (batch) frames of each utterance without padding.
        max_length: frames of the padded batch.
        mask_prob: number of spans times their length over the frames of an utterance, in [0, 1].
        mask_length: frames of a span.
        generator: source of randomness; torch's global one if not given.

    Returns:
        (batch, max_length) bool, true where a frame is masked; never true at padding.

    Raises:
        MelHuBERTError: `mask_prob` is not in [0, 1], `mask_length` is no whole number of at least 1, or the
            lengths are no whole numbers from 0 to `max_length`, one for each utterance.
    """
    if not 0 <= mask_prob <= 1:
        raise MelHuBERTError(f"mask_prob: {shown(mask_prob)} found, expected between 0 and 1")
    is_whole = isinstance(mask_length, Integral) and not isinstance(mask_length, bool)
    if not is_whole or mask_length < 1:
        raise MelHuBERTError(
            f"mask_length: {shown(mask_length)} found, expected a whole number of at least 1"
        )
    sizes = _checked_lengths(lengths, max_length)[:, None]  # (B, 1)
    starts = (sizes - mask_length).clamp(min=1)  # possible starts
    rounding = torch.rand(sizes.shape, generator=generator, dtype=torch.float32)
    spans = (
        (mask_prob * sizes.float() / mask_length + rounding)
        .long()
        .clamp(min=MIN_SPANS if mask_prob > 0 else 0)
    )

    if not max_length:  # There is nothing to sort.
        return torch.zeros(len(sizes), 0, dtype=torch.bool)
    # The places of the k smallest among random keys are k places drawn without replacement, and one
    # sort draws them for the whole batch. numpy's sort is several times as fast as torch's argsort.
    position = torch.arange(max_length)
    keys = torch.rand(sizes.shape[0], max_length, generator=generator, dtype=torch.float64)
    keys.masked_fill_(position >= starts, 2.0)
    in_order = torch.from_numpy(np.sort(keys.numpy(), axis=1))
    largest = in_order.gather(1, (spans - 1).clamp(0, max_length - 1))  # (B, 1) of the keys that are drawn
    begins = ((keys <= largest) & (position < starts) & (spans > 0)).long()  # (B, T) 1 where a span starts

    # A frame is masked if a span has started at it or at most mask_length - 1 frames before.
    started = begins.cumsum(dim=1)  # (B, T)
    started_earlier = torch.nn.functional.pad(started, (mask_length, 0))[:, :max_length]
    return (started > started_earlier) & (position < sizes)


def _checked_lengths(lengths: Sequence[int] | Tensor, max_length: int) -> Tensor:
    """(B,) int64 lengths on the CPU, after a look at them."""
    try:
        sizes = torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise MelHuBERTError(f"lengths: {shown(lengths)} found, expected a list of whole numbers") from None
    # An empty list makes a tensor of floats.
    is_whole = not sizes.numel() or not (
        sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool
    )
    if sizes.dim() != 1 or not is_whole or ((sizes < 0) | (sizes > max_length)).any():
        found = shown(sizes.tolist()) if sizes.dim() == 1 else f"a tensor of shape {tuple(sizes.shape)}"
        raise MelHuBERTError(
            f"lengths: {found} found, expected whole numbers of frames from 0 to {max_length}, one for each "
            "utterance"
        )
    return sizes.long()
