"""The model in half precision on a CPU."""

from contextlib import nullcontext

import pytest
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_inside_autocast_computes_in_the_types_of_the_forward_pass(dtype):
    torch.manual_seed(0)
    settings = {"encoder_layers": 1, "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 128}
    model = MelHuBERT(MelHuBERTConfig(**settings, encoder_attention_heads=2, conv_pos=8, conv_pos_groups=2))
    features, weight = torch.randn(2, 90, 80), torch.randn(2, 90, 64)
    gradients = []
    for autocast in (nullcontext(), torch.autocast("cpu", dtype=dtype)):
        model.zero_grad()
        torch.manual_seed(1)
        loss = (model(features).last_hidden_state * weight).sum()
        with autocast:
            loss.backward()
        gradients.append([p.grad for p in model.encoder.layers.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


@torch.no_grad()
def test_autocast_leaves_a_model_in_float64_as_it_is(avx512):
    """torch's own layers do not round what is in float64, and the convolution must not do so alone."""
    torch.manual_seed(0)
    settings = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "conv_pos": 8}
    config = MelHuBERTConfig(**settings, encoder_attention_heads=2, conv_pos_groups=4)
    model = MelHuBERT(config).double().eval()
    features = torch.randn(2, 90, 80, dtype=torch.float64)
    expected = model(features).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(features).last_hidden_state, expected)
