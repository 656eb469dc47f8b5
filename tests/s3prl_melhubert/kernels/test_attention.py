"""Attention of utterances that follow each other: as torch's own, with gradients, however peaked."""

import pytest
import torch
import torch.nn.functional as F

from s3prl_melhubert.kernels import attention, packed_attention

LENGTHS = (4, 1, 9)


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
def test_packed_attention_is_that_of_torch_however_it_is_cut(monkeypatch, avx512, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = packed()
    ours, theirs = packed_attention(q, k, v, LENGTHS, 2, 0.0), plain_attention(q, k, v, 2)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), g) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("block", [10, 10_000])
def test_gradients_of_attention_that_drops_are_those_of_what_was_dropped(monkeypatch, avx512, block):
    """The masks are made again in the backward pass: they must be the same."""
    monkeypatch.setattr(attention, "BLOCK", block)

    def dropping(*qkv):
        torch.manual_seed(3)
        return packed_attention(*qkv, LENGTHS, 2, 0.3)

    assert torch.autograd.gradcheck(dropping, packed())


def error_of(attention, scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """Relative errors of attention's output and of its gradients, whose scores are so many times larger."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(200, 192) for _ in range(3))
    q, k = q * scale**0.5, k * scale**0.5
    inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    g = torch.randn(200, 192).to(dtype)
    results = []
    for some, weight in ((inputs, g), (exact, g.double())):
        y = attention(*some)
        results.append([y, *torch.autograd.grad(y, some, weight)])
    norms = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    return norms[0], max(norms[1:])


@pytest.mark.parametrize("scale", [1.0, 5.0, 10.0, 30.0])
@pytest.mark.parametrize("block", [200 * 100, 200 * 200 * 8], ids=["rows", "all heads"])
def test_peaked_attention_in_bfloat16_is_as_exact_as_torchs(monkeypatch, avx512, scale, block):
    monkeypatch.setattr(attention, "BLOCK", block)

    def theirs(*qkv):
        heads = [x.unflatten(1, (3, -1)).transpose(0, 1)[None] for x in qkv]
        return F.scaled_dot_product_attention(*heads)[0].transpose(0, 1).flatten(1)

    ours = error_of(lambda q, k, v: packed_attention(q, k, v, [200], 3, 0.0), scale, torch.bfloat16)
    torchs = error_of(theirs, scale, torch.bfloat16)
    assert ours[0] < 1.5 * torchs[0]
    assert ours[1] < 1.5 * torchs[1]
