"""Span masks: how much is masked, and that odd lengths are survived."""

import numpy as np
import pytest
import torch

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.masking import draw_mask, most_masked, span_mask


@pytest.mark.parametrize(
    ("frames", "mean", "tolerance", "deviation"), [(750, 0.530, 0.002, 0.016), (50, 0.538, 0.004, None)]
)
def test_masked_fraction_is_the_published_one(frames, mean, tolerance, deviation):
    generator = torch.Generator().manual_seed(0)
    fraction = span_mask([frames] * 5000, frames, 0.7, 5, generator).float().mean(1)
    assert fraction.mean().item() == pytest.approx(mean, abs=tolerance)
    if deviation is not None:
        assert fraction.std().item() == pytest.approx(deviation, abs=0.001)


def test_padding_is_never_masked():
    lengths = [1, 2, 7, 40, 100]
    for seed in range(50):
        mask = span_mask(lengths, 100, 1.0, 10, torch.Generator().manual_seed(seed))
        for row, length in zip(mask, lengths, strict=True):
            assert not row[length:].any()


@pytest.mark.parametrize("frames", range(1, 12))
def test_very_short_utterances_are_masked_somewhere(frames):
    for seed in range(20):
        mask = span_mask([frames, 30], 30, 0.7, 5, torch.Generator().manual_seed(seed))
        assert mask[0].any()


def test_spans_have_their_length():
    mask = span_mask([1000] * 20, 1000, 0.05, 7, torch.Generator().manual_seed(0))
    for row in mask:
        edges = torch.nn.functional.pad(row.long(), (1, 1)).diff()
        lengths = (edges == -1).nonzero() - (edges == 1).nonzero()
        assert (lengths >= 7).all()  # overlapping spans make longer runs, never shorter ones
        assert (lengths == 7).any()


def test_an_utterance_has_two_spans_at_least():
    assert (span_mask([10] * 20, 10, 0.01, 1).sum(1) == 2).all()


def test_the_last_frame_is_masked_only_where_a_span_takes_the_whole_utterance():
    assert span_mask([5], 5, 0.7, 5).tolist() == [[True] * 5]
    assert span_mask([6], 6, 0.7, 5).tolist() == [[True] * 5 + [False]]
    assert not span_mask([7] * 50, 7, 0.7, 5)[:, -1].any()


@pytest.mark.parametrize("mask_prob", [0.0, 0.01, 0.5, 1.0])
def test_no_utterances_have_more_masked_frames_than_the_most(mask_prob):
    """Memory for so many frames is set aside before the masks are drawn."""
    config = MelHuBERTConfig(mask_prob=mask_prob, mask_length=3)
    lengths = [300, 40, 4] * 20
    drawn = draw_mask(config, lengths, 300).sum(1).view(20, 3).sum(1)
    expected = 0 if mask_prob == 0 else mask_prob * 344 + 3 * 2 * 3
    assert most_masked(config, 344, 3) == pytest.approx(min(344, expected), abs=1)
    assert drawn.max() <= most_masked(config, 344, 3)


def test_the_same_seed_gives_the_same_mask_and_another_another():
    # The number of spans is drawn, too: 28.4 of them are 28 or 29.
    first, again, other = (
        span_mask([203] * 20, 203, 0.7, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_probability_zero_masks_nothing():
    assert not span_mask([50], 50, 0.0, 5).any()


@pytest.mark.parametrize(
    ("mask_prob", "mask_length", "words"),
    [
        (1.5, 5, "mask_prob: 1.5 found, expected between 0 and 1"),
        (-0.1, 5, "mask_prob: -0.1 found"),
        (float("nan"), 5, "mask_prob: nan found"),
        (0.7, 0, "mask_length: 0 found, expected a whole number of at least 1"),
        (0.7, -3, "mask_length: -3 found"),
        (0.7, 2.5, "mask_length: 2.5 found"),
        (0.7, True, "mask_length: True found"),
    ],
)
def test_spans_that_cannot_be_are_refused(mask_prob, mask_length, words):
    with pytest.raises(MelHuBERTError, match=words):
        span_mask([50], 50, mask_prob, mask_length)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([10], r"lengths: \[10\] found, expected whole numbers of frames from 0 to 7"),
        ([5, -1], r"lengths: \[5, -1\] found"),
        ([5.5], r"lengths: \[5.5\] found"),
        (torch.tensor([5.0]), r"lengths: \[5.0\] found"),
        ([True], r"lengths: \[True\] found"),
        ([None], r"lengths: \[None\] found"),
        (torch.tensor([[5]]), r"lengths: a tensor of shape \(1, 1\) found"),
    ],
    ids=str,
)
def test_lengths_that_cannot_be_are_refused(lengths, words):
    with pytest.raises(MelHuBERTError, match=words):
        span_mask(lengths, 7, 0.7, 5)


@pytest.mark.parametrize("lengths", [[], [7, 0], np.array([7, 3]), torch.tensor([7, 3], dtype=torch.int32)])
def test_lengths_may_be_of_any_type_of_whole_numbers(lengths):
    assert span_mask(lengths, 7, 0.7, np.int64(5)).shape == (len(lengths), 7)


def test_an_utterance_of_one_frame_is_masked():
    assert span_mask([1], 1, 0.7, 5).tolist() == [[True]]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_a_batch_of_no_frames_has_masks_of_none(lengths):
    mask = span_mask(lengths, 0, 0.7, 5)
    assert mask.shape == (len(lengths), 0)
    assert mask.dtype == torch.bool
