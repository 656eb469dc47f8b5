"""The encoder's inner operations: torch's own, and on a CPU faster forms of the same.

Each function gives what plain torch gives (within rounding; dropout drops other elements) and says what it
gains. The gains are those of one AMD EPYC core with AVX-512, of `python -m benchmarks`; other devices, and
`torch.compile`, take torch's own operations. Everything here is repeatable bit for bit on a CPU, and all
randomness follows `torch.manual_seed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Elements that are worked on at a time, so that what an operation leaves is still in the cache for the next.
CHUNK = 1 << 17
# Scores of an attention block: one head of 750 frames is 2.25 MB in float32.
BLOCK = 750 * 750
# Rows from which a product through oneDNN is worth the reordering of its weight.
ONEDNN_ROWS = 64

# MKL leaves AVX-512 unused on processors that are not Intel's, oneDNN does not: float32 products of the base
# model run at 160 to 210 GFLOP/s a core through the one, at 82 to 94 through the other. Where there is no
# AVX-512 both do the same.
onednn_products = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)


def _is_plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T (+ bias) on a CPU, without a gradient: (M, K), (N, K), (N,) -> (M, N); any strides."""
    if onednn_products and a.dtype == torch.float32 and len(a) >= ONEDNN_ROWS:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return a @ b.t() if bias is None else torch.addmm(bias, a, b.t())


class Linear(nn.Linear):
    """`nn.Linear` with `product` for its three matrix products: twice as fast in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        plain = not onednn_products or torch.is_autocast_enabled("cpu")
        if plain or not _is_plain_cpu(x) or x.dtype != torch.float32 or self.weight.dtype != x.dtype:
            return super().forward(x)
        y = _Linear.apply(x.reshape(-1, self.in_features), self.weight, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = product(g, weight.t())
        if ctx.needs_input_grad[1]:
            dweight = transposed_product(g, x)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            dbias = g.sum(0)
        return dx, dweight, dbias


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b on a CPU, without a gradient: (K, M), (K, N) -> (M, N)."""
    # oneDNN is a quarter faster where the result is wider than high.
    return product(a.t(), b.t()) if a.shape[1] <= b.shape[1] else product(b.t(), a.t()).t()


class KeepMasks:
    """Dropout's decisions, made again from a seed: nobody has to keep them for the backward pass.

    numpy's SFC64 takes 0.4 ns for 16 bits, where torch's Bernoulli takes 4.7 ns for an element: on a CPU,
    that was 15 % of a training step.

    Args:
        p: probability of dropping an element, in [0, 1); kept to 1.5e-5.
        seed: of the decisions.
    """

    def __init__(self, p: float, seed: int):
        dropped = min(round(p * 65536), 65535)  # of 65536 values of 16 bits
        self.threshold = dropped - 32768
        self.scale = 65536 / (65536 - dropped)
        self.bits = np.random.SFC64(seed)

    @staticmethod
    def draw_seed() -> int:
        """A seed from torch's generator."""
        return int(torch.randint(2**62, ()))

    def next(self, like: Tensor) -> Tensor:
        """1 where an element of `like` is kept, 0 where not: integers, of the size of its elements."""
        count = like.numel()
        bits = torch.from_numpy(self.bits.random_raw(-(-count // 4)).view(np.int16)[:count])
        # Integers, not booleans: torch has vector instructions for these.
        keep = torch.empty_like(like, dtype=INTEGERS[like.element_size()])
        return torch.ge(bits.view(like.shape), self.threshold, out=keep)


INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _masked(x: Tensor, keep: Tensor) -> Tensor:
    """x where `keep` is 1, and +0 where it is 0; in place of `keep`."""
    return keep.mul_(x.view(keep.dtype)).view(x.dtype)  # the bits of x, times 1 or 0


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout`: 2 ns an element instead of 8, and nothing kept for the backward pass."""
    if not training or p == 0:
        return x
    if not _is_plain_cpu(x) or not x.is_contiguous():
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed = p, KeepMasks.draw_seed()
        return _drop(x, KeepMasks(p, ctx.seed))

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        return _drop(g.contiguous(), KeepMasks(ctx.p, ctx.seed)), None


def _drop(x: Tensor, masks: KeepMasks) -> Tensor:
    y = torch.empty_like(x)
    for some, result in zip(x.view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
        torch.mul(_masked(some, masks.next(some)), masks.scale, out=result)
    return y


def gelu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout(F.gelu(x), p)` in one pass over the memory."""
    if not training or p == 0 or not _is_plain_cpu(x) or not x.is_contiguous():
        return F.dropout(F.gelu(x), p, training)
    return _GeluDropout.apply(x, p)


class _GeluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.p, ctx.seed = p, KeepMasks.draw_seed()
        masks = KeepMasks(p, ctx.seed)
        y = torch.empty_like(x)
        for some, result in zip(x.view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
            torch.mul(_masked(F.gelu(some), masks.next(some)), masks.scale, out=result)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        (x,) = ctx.saved_tensors
        masks = KeepMasks(ctx.p, ctx.seed)
        dx = torch.empty_like(x)
        chunks = (tensor.view(-1).split(CHUNK) for tensor in (x, g.contiguous(), dx))
        for some, gradient, result in zip(*chunks, strict=True):
            kept = _masked(gradient, masks.next(some)).mul_(masks.scale)
            torch.ops.aten.gelu_backward.grad_input(kept, some, grad_input=result)
        return dx, None


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: int, dropout_p: float
) -> Tensor:
    """Attention on a CPU of each utterance to itself, the utterances one after the other without padding.

    Works on blocks of scores that fit the cache, and makes them again for the backward pass: the scores,
    their softmax and what dropout leaves of it never are in memory as a whole (3 x 110 MB a layer, for 4 x
    750 frames). Faster than `scaled_dot_product_attention` by 1.6 in float32 and 2.5 in bfloat16 without
    dropout; with it, by more, because torch then goes through memory.

    Args:
        q, k, v: (N, C), the frames of all utterances.
        lengths: frames of each utterance; their sum is N.
        heads: of which each has C / heads columns.
        dropout_p: probability of dropping an attention weight.

    Returns:
        (N, C).
    """
    with torch.autocast("cpu", enabled=False):  # which would have the softmax in float32
        return _PackedAttention.apply(q, k, v, tuple(lengths), heads, dropout_p)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lengths, heads, p):
        ctx.save_for_backward(q, k, v)
        ctx.lengths, ctx.heads, ctx.p = lengths, heads, p
        ctx.seed = KeepMasks.draw_seed() if p else 0
        masks = KeepMasks(p, ctx.seed)
        out = torch.empty_like(q)
        parts = [_by_head(tensor, lengths, heads) for tensor in (q, k, v, out)]
        for q_i, k_i, v_i, out_i in zip(*parts, strict=True):  # (H, T, D) of an utterance
            q_i = q_i * (1 / math.sqrt(q_i.shape[2]))
            k_i, v_i = k_i.contiguous(), v_i.contiguous()
            for h, rows in _blocks(*q_i.shape[:2]):
                weights = torch.softmax(_products(q_i[h, rows], k_i[h]), -1)  # (h, rows, T)
                if p:
                    weights = _masked(weights, masks.next(weights))
                y = _products(weights, v_i[h].transpose(1, 2))
                out_i[h, rows] = y.mul_(masks.scale) if p else y
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        p, masks = ctx.p, KeepMasks(ctx.p, ctx.seed)
        q, k, v = ctx.saved_tensors
        results = [torch.empty_like(q) for _ in range(3)]
        parts = [_by_head(tensor, ctx.lengths, ctx.heads) for tensor in (q, k, v, g, *results)]
        for q_i, k_i, v_i, g_i, dq_i, dk_i, dv_i in zip(*parts, strict=True):
            scale = 1 / math.sqrt(q_i.shape[2])
            q_i = q_i * scale
            k_i, v_i = k_i.contiguous(), v_i.contiguous()
            g_i = g_i * masks.scale if p else g_i.contiguous()
            for h, rows in _blocks(*q_i.shape[:2]):
                q_b, g_b = q_i[h, rows], g_i[h, rows]  # (h, rows, D)
                weights = torch.softmax(_products(q_b, k_i[h]), -1)  # (h, rows, T)
                dweights = _products(g_b, v_i[h])
                if p:
                    keep = masks.next(weights)
                    dweights.view(keep.dtype).mul_(keep)
                dv = _transposed_products(_masked(weights, keep) if p else weights, g_b)
                dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
                dq_i[h, rows] = _products(dscores, k_i[h].transpose(1, 2)).mul_(scale)
                dk = _transposed_products(dscores, q_b)
                if rows.start == 0:
                    dk_i[h], dv_i[h] = dk, dv
                else:
                    dk_i[h] += dk
                    dv_i[h] += dv
        return (*results, None, None, None)


def _by_head(x: Tensor, lengths: Sequence[int], heads: int) -> list[Tensor]:
    """(N, C) -> a view (H, T, D) of each utterance."""
    return [part.view(len(part), heads, -1).transpose(0, 1) for part in x.split(list(lengths))]


def _blocks(heads: int, time: int) -> Iterator[tuple[slice, slice]]:
    """Heads and rows of the blocks: all heads of a short utterance, some rows of one of a long one."""
    if heads * time * time <= BLOCK // 2:
        yield slice(0, heads), slice(0, time)
        return
    rows = max(1, BLOCK // time)
    for head in range(heads):
        for start in range(0, time, rows):
            yield slice(head, head + 1), slice(start, min(start + rows, time))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for each head: (h, M, K), (h, N, K) -> (h, M, N)."""
    return product(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a, b.transpose(1, 2))


def _transposed_products(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for each head: (h, K, M), (h, K, N) -> (h, M, N)."""
    return transposed_product(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a.transpose(1, 2), b)
