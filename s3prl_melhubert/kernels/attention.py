"""Attention of utterances that follow each other without padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_melhubert.kernels import conditions
from s3prl_melhubert.kernels.derivatives import backward_pass, forward_pass
from s3prl_melhubert.kernels.dropping import DropoutMasks, masked
from s3prl_melhubert.kernels.precision import wide
from s3prl_melhubert.kernels.products import linear, transposed_linear

# An attention block has about so many scores. One head of 750 frames takes 2.25 MB in float32.
BLOCK = 750 * 750


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: int, dropout_p: float
) -> Tensor:
    """Attention of each utterance to itself, on a CPU, for utterances that follow each other without padding.

    It works on blocks of scores that fit the cache, and computes them again for the backward pass. The
    scores, their softmax and what dropout leaves of it are therefore never in memory as a whole, where they
    would take 3 x 110 MB a layer for 4 x 750 frames. Without dropout it is faster than torch's
    `scaled_dot_product_attention` by 1.6 in float32 and by 2.5 in bfloat16, but without AVX-512 it is slower,
    and torch's is taken. With dropout it gains more, because torch then goes through memory.

    Args:
        q, k, v: (N, C), the frames of all utterances, as is the result.
        lengths: frames of each utterance; their sum is N.
        heads: number of heads; each has C / heads columns.
        dropout_p: probability of dropping an attention weight.
    """
    with torch.autocast("cpu", enabled=False):  # autocast would run the softmax in float32
        if dropout_p or conditions.HAS_AVX512:
            return _PackedAttention.apply(q, k, v, tuple(lengths), heads, dropout_p)
        parts = (_by_head(wide(x)[None], lengths, heads) for x in (q, k, v))  # (1, H, T, D) of an utterance
        outputs = [F.scaled_dot_product_attention(*qkv) for qkv in zip(*parts, strict=True)]
        return torch.cat([y[0].transpose(0, 1).flatten(1) for y in outputs]).to(q.dtype)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    @forward_pass
    def forward(ctx, q, k, v, lengths, heads, p):
        ctx.save_for_backward(q, k, v)
        ctx.lengths, ctx.heads, ctx.p = lengths, heads, p
        ctx.seed = DropoutMasks.draw_seed() if p else 0
        masks, dtype = DropoutMasks(p, ctx.seed), _product_dtype(q)
        out = torch.empty_like(q)
        parts = [_by_head(tensor, lengths, heads) for tensor in (q, k, v, out)]
        for q_i, k_i, v_i, out_i in zip(*parts, strict=True):  # (H, T, D) of an utterance
            q_scores = wide(q_i) * (1 / math.sqrt(q_i.shape[2]))
            k_scores, v_i = wide(k_i.contiguous()), v_i.to(dtype).contiguous()
            for h, rows in _blocks(*q_i.shape[:2]):
                weights = _weights(q_scores[h, rows], k_scores[h]).to(dtype)  # (h, rows, T)
                if p:
                    weights = masked(weights, masks.next(weights))
                y = _linear_by_head(weights, v_i[h].transpose(1, 2))
                out_i[h, rows] = y.mul_(masks.scale) if p else y
        return out

    @staticmethod
    @backward_pass
    def backward(ctx, g):
        p, masks = ctx.p, DropoutMasks(ctx.p, ctx.seed)
        q, k, v = ctx.saved_tensors
        dtype = _product_dtype(q)
        results = [torch.empty_like(q) for _ in range(3)]
        parts = [_by_head(tensor, ctx.lengths, ctx.heads) for tensor in (q, k, v, g, *results)]
        for q_i, k_i, v_i, g_i, dq_i, dk_i, dv_i in zip(*parts, strict=True):
            scale = 1 / math.sqrt(q_i.shape[2])
            k_i, v_i = k_i.contiguous(), v_i.to(dtype).contiguous()
            q_scores, k_scores = wide(q_i) * scale, wide(k_i)
            q_i, k_i = q_scores.to(dtype), k_i.to(dtype)
            g_i = (g_i * masks.scale if p else g_i.contiguous()).to(dtype)
            for h, rows in _blocks(*q_i.shape[:2]):
                q_b, g_b = q_i[h, rows], g_i[h, rows]  # (h, rows, D)
                weights = _weights(q_scores[h, rows], k_scores[h]).to(dtype)  # (h, rows, T)
                dweights = _linear_by_head(g_b, v_i[h])
                if p:
                    mask = masks.next(weights)
                    dweights.view(mask.dtype).mul_(mask)
                dv = _transposed_linear_by_head(masked(weights, mask) if p else weights, g_b)
                dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
                dq_i[h, rows] = _linear_by_head(dscores, k_i[h].transpose(1, 2)).mul_(scale)
                dk = _transposed_linear_by_head(dscores, q_b)
                if rows.start == 0:
                    dk_i[h], dv_i[h] = dk, dv
                else:
                    dk_i[h] += dk
                    dv_i[h] += dv
        return (*results, None, None, None)


def _product_dtype(x: Tensor) -> torch.dtype:
    """In which precision attention weights are multiplied with values, and gradients with all of them.

    Scores are computed in float32 or better everywhere. A score of 50 has an error of 0.1 in bfloat16, and so
    the attention weight one of 10 %. The products are a tenth of the encoder's, so that their precision costs
    little.
    """
    return x.dtype if conditions.HAS_AVX512 else wide(x).dtype


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Attention weights of some rows: (h, rows, D), (h, T, D) -> (h, rows, T)."""
    return torch.softmax(_linear_by_head(q, k), -1)


def _by_head(x: Tensor, lengths: Sequence[int], heads: int) -> list[Tensor]:
    """(..., N, C) -> a view (..., H, T, D) of each utterance."""
    return [part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in x.split(list(lengths), -2)]


def _blocks(heads: int, time: int) -> Iterator[tuple[slice, slice]]:
    """The heads and rows of each block: all heads of a short utterance, or some rows of one head."""
    if heads * time * time <= BLOCK // 2:
        yield slice(0, heads), slice(0, time)
        return
    rows = max(1, BLOCK // time)
    for head in range(heads):
        for start in range(0, time, rows):
            yield slice(head, head + 1), slice(start, min(start + rows, time))


def _linear_by_head(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for each head: (h, M, K), (h, N, K) -> (h, M, N)."""
    return linear(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a, b.transpose(1, 2))


def _transposed_linear_by_head(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for each head: (h, K, M), (h, K, N) -> (h, M, N)."""
    return transposed_linear(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a.transpose(1, 2), b)
