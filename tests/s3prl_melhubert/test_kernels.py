"""The encoder's inner operations: as torch's own, with gradients, and repeatable."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, kernels
from s3prl_melhubert.encoder import Frames, PackedFrames

LENGTHS = (4, 1, 9)


def seeded(function, *arguments):
    torch.manual_seed(3)
    return function(*arguments)


def packed(width: int = 8, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(sum(LENGTHS), width, dtype=dtype, requires_grad=True) for _ in range(3)]


def plain_attention(q, k, v, heads):
    outputs = []
    for parts in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True):
        q_i, k_i, v_i = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in parts)
        outputs.append(F.scaled_dot_product_attention(q_i, k_i, v_i).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


@pytest.mark.parametrize("block", [10, 40, 10_000], ids=["rows", "heads", "all heads"])
def test_packed_attention_is_that_of_torch_however_it_is_cut(monkeypatch, block):
    monkeypatch.setattr(kernels, "BLOCK", block)
    q, k, v = packed()
    ours, theirs = kernels.packed_attention(q, k, v, LENGTHS, 2, 0.0), plain_attention(q, k, v, 2)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), g) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("block", [10, 10_000])
def test_gradients_of_what_drops_are_those_of_what_was_dropped(monkeypatch, block):
    """The masks are made again in the backward pass: they must be the same."""
    monkeypatch.setattr(kernels, "BLOCK", block)
    monkeypatch.setattr(kernels, "CHUNK", 7)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    for function in (kernels.dropout, kernels.gelu_dropout):
        assert torch.autograd.gradcheck(lambda x, f=function: seeded(f, x, 0.3, True), (x,))
    assert torch.autograd.gradcheck(
        lambda q, k, v: seeded(kernels.packed_attention, q, k, v, LENGTHS, 2, 0.3), packed()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_that_it_is_told_and_scales_the_rest(dtype):
    x = torch.ones(1_000_000, dtype=dtype)
    y = seeded(kernels.dropout, x, 0.1, True)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert y[y != 0].unique().float().tolist() == pytest.approx([1 / 0.9], rel=5e-3)
    assert kernels.dropout(x, 0.1, False) is x


def test_a_dropped_infinity_is_gone():
    """Zero times infinity would not be a number."""
    y = seeded(kernels.dropout, torch.full((1000,), float("inf")), 0.5, True)
    assert set(y.tolist()) == {0.0, float("inf")}


def test_torch_seed_decides_what_is_dropped():
    x = torch.randn(300)
    first, again = (seeded(kernels.dropout, x, 0.5, True) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kernels.dropout(x, 0.5, True))


@pytest.mark.parametrize("onednn", [True, False])
def test_linear_is_that_of_torch(monkeypatch, onednn):
    monkeypatch.setattr(kernels, "onednn_products", onednn and kernels.onednn_products)
    torch.manual_seed(0)
    ours = kernels.Linear(24, 40)
    theirs = torch.nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 50, 24)
    for y in (x, x.requires_grad_()):
        torch.testing.assert_close(ours(y), theirs(y))
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("norm_first", [True, False])
def test_packed_and_padded_frames_give_the_same(norm_first):
    """A CPU packs, a GPU pads."""
    torch.manual_seed(0)
    config = MelHuBERTConfig(
        encoder_layers=2, encoder_embed_dim=48, conv_pos=16, conv_pos_groups=4, layer_norm_first=norm_first
    )
    encoder = MelHuBERT(config).eval().encoder
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


def test_padding_before_an_utterance_stays_there():
    """Nothing of ours pads there, but a mask may say so."""
    torch.manual_seed(0)
    config = MelHuBERTConfig(encoder_layers=2, encoder_embed_dim=48, conv_pos=16, conv_pos_groups=4)
    model = MelHuBERT(config).eval()
    features = torch.randn(1, 20, 80)
    padded = F.pad(features, (0, 0, 10, 0))
    padding_mask = (torch.arange(30) < 10)[None]
    with torch.no_grad():
        alone, inside = model(features), model(padded, padding_mask)
    torch.testing.assert_close(inside.last_hidden_state[:, 10:], alone.last_hidden_state, atol=1e-5, rtol=0)


def test_bfloat16_hidden_states_are_within_two_percent():
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(encoder_layers=3)).eval()
    features = torch.randn(2, 100, 80)
    padding_mask = torch.arange(100) >= torch.tensor([[100], [60]])
    with torch.no_grad():
        exact = model(features, padding_mask).hidden_states
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(features, padding_mask).hidden_states
    for a, b in zip(exact, rough, strict=True):
        assert (b - a).norm() < 0.02 * a.norm()
