"""The two layouts of a batch's frames give the same results."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert.packing import Frames, PackedFrames


@pytest.mark.parametrize("norm_first", [True, False])
def test_packed_and_padded_frames_give_the_same_and_zero_at_padding(tiny_model, norm_first):
    """A CPU packs, a GPU pads; s3prl hands out some frames of the padding, too."""
    model = tiny_model(layer_norm_first=norm_first)
    with torch.no_grad():
        for parameter in model.parameters():  # where biases are zero, so is what a layer makes of zeros
            parameter += 0.1 * torch.randn_like(parameter)
    # The batch is longer than each of its utterances.
    padding_mask = torch.arange(30) >= torch.tensor([28, 5, 18])[:, None]
    features = torch.randn(3, 30, 80)
    layouts = Frames(padding_mask), PackedFrames(padding_mask, (3, 30), 8)
    with torch.no_grad():
        padded, packed = (model(features, padding_mask, frames=frames) for frames in layouts)
    ours, theirs = ([*output.hidden_states, output.last_hidden_state] for output in (padded, packed))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        assert not a[padding_mask].any()


def test_padding_before_an_utterance_stays_there(tiny_model):
    """Nothing of this package pads there, but a mask may say so."""
    model = tiny_model()
    features = torch.randn(1, 20, 80)
    padded = F.pad(features, (0, 0, 10, 0))
    padding_mask = (torch.arange(30) < 10)[None]
    with torch.no_grad():
        alone, inside = model(features), model(padded, padding_mask)
    torch.testing.assert_close(inside.last_hidden_state[:, 10:], alone.last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padded", [range(10), range(10, 15), range(1, 30, 2)], ids=str)
def test_frames_stay_where_they_are_wherever_padding_lies(tiny_model, padded):
    model = tiny_model()
    features, padding_mask = torch.randn(1, 30, 80), torch.zeros(1, 30, dtype=torch.bool)
    padding_mask[:, list(padded)] = True
    with torch.no_grad():
        found = model(features, padding_mask).last_hidden_state
        expected = model(features, padding_mask, frames=Frames(padding_mask)).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
