"""The two layouts of a batch's frames give the same results."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert.packing import Frames, PackedFrames


@pytest.mark.parametrize("norm_first", [True, False])
def test_packed_and_padded_frames_give_the_same(tiny_model, norm_first):
    """A CPU packs, a GPU pads."""
    encoder = tiny_model(layer_norm_first=norm_first).encoder
    lengths = (30, 5, 18)
    padding_mask = torch.arange(30) >= torch.tensor(lengths)[:, None]
    x = torch.randn(3, 30, 48).masked_fill(padding_mask[..., None], 0)

    def through(frames):
        y = frames.pack(x)
        y = y + frames.convolve(encoder.pos_conv, y)
        for layer in encoder.layers:
            y = layer(y, frames)
        return frames.unpack(y)[~padding_mask]

    with torch.no_grad():
        padded, packed = through(Frames(padding_mask)), through(PackedFrames(padding_mask, (3, 30), 8))
    torch.testing.assert_close(padded, packed, atol=1e-5, rtol=0)


def test_padding_before_an_utterance_stays_there(tiny_model):
    """Nothing of this package pads there, but a mask may say so."""
    model = tiny_model()
    features = torch.randn(1, 20, 80)
    padded = F.pad(features, (0, 0, 10, 0))
    padding_mask = (torch.arange(30) < 10)[None]
    with torch.no_grad():
        alone, inside = model(features), model(padded, padding_mask)
    torch.testing.assert_close(inside.last_hidden_state[:, 10:], alone.last_hidden_state, atol=1e-5, rtol=0)
