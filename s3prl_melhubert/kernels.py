"""The encoder's inner operations: linear layers, dropout and attention, in faster forms for a CPU.

Each function gives what plain torch gives, up to rounding (and up to which elements dropout drops), and its
docstring says what it gains. The gains were measured by `python -m benchmarks` on one AMD EPYC core with
AVX-512. Elsewhere, and where `is_plain_cpu` says no, the functions call torch's own operations. On a CPU
everything here repeats bit for bit, and all randomness follows `torch.manual_seed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from s3prl_melhubert.errors import MelHuBERTError

# Operations work on so many elements at a time that one finds in the cache what the one before it left.
CHUNK = 1 << 17
# An attention block has about so many scores. One head of 750 frames takes 2.25 MB in float32.
BLOCK = 750 * 750
# From so many rows on, a matrix product through oneDNN is worth the reordering of its weight.
ONEDNN_ROWS = 64

# MKL leaves AVX-512 unused on processors that are not Intel's, and oneDNN does not: the float32 products of
# the base model run at 160 to 210 GFLOP/s a core through oneDNN and at 82 to 94 through MKL. Where there is
# no AVX-512, both are equally fast.
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_use_onednn = (
    HAS_AVX512 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)

HALF = (torch.bfloat16, torch.float16)

# A subclass of Tensor may mean anything by an operation, and knows torch's own.
PLAIN_TYPES = (Tensor, nn.Parameter)
_own_forms = True

# torch has vector instructions for integers of an element's size, but not for booleans.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def torch_operations(products_only: bool = False) -> Iterator[None]:
    """Within the block a CPU computes with torch's own operations, in all threads, and has every derivative.

    Args:
        products_only: only matrix products in float32 are torch's own.
    """
    global _own_forms, _use_onednn
    before = _own_forms, _use_onednn
    _own_forms, _use_onednn = _own_forms and products_only, False
    try:
        yield
    finally:
        _own_forms, _use_onednn = before


def wants_every_derivative() -> bool:
    """Whether other derivatives than the first may be wanted: by `torch.func`, forward mode, or a caller."""
    if torch.compiler.is_compiling():  # The compiler cannot see the other questions.
        return False
    return not _own_forms or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def is_plain_cpu(x: Tensor) -> bool:
    """Whether the faster forms of this file apply to a tensor, because nobody traces what becomes of it."""
    return (
        x.is_cpu
        and not torch.compiler.is_compiling()
        and type(x) in PLAIN_TYPES
        and not wants_every_derivative()
        and not torch._C._len_torch_dispatch_stack()  # fake tensors, or a counter of operations
        and not torch.jit.is_tracing()
    )


def cpu_dtype(x: Tensor) -> torch.dtype:
    """The type in which a CPU computes with x: that of autocast, inside one, else that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


# A backward pass computes in its forward pass's types, also where somebody calls it inside autocast.
forward_pass = torch.amp.custom_fwd(device_type="cpu")


def backward_pass(backward: Callable[..., Any]) -> Any:
    """Mark a backward pass that has no derivative itself, and refuse one.

    torch's `once_differentiable` leaves it out of a sum, in silence, where not all tensors' are asked for.
    """
    backward = torch.amp.custom_bwd(backward, device_type="cpu")

    def checked(ctx, *g: Tensor) -> Any:
        several = torch._C._are_functorch_transforms_active() or is_legacy_batchedtensor(g[0])
        if several or torch.is_grad_enabled():
            raise MelHuBERTError(
                "derivatives of derivatives, or of several outputs at once, need torch's own operations: run "
                "the model, too, within `s3prl_melhubert.kernels.torch_operations()`"
            )
        return backward(ctx, *g)

    return checked


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on a CPU for matrices of any strides, without a gradient: (M, K), (N, K), (N,) -> (M, N)."""
    # Without AVX-512, oneDNN has no fast products in half precision: a linear layer's forward pass takes 9
    # times as long as in float32, and its gradients 40 times.
    if x.dtype in HALF and not HAS_AVX512:
        return linear(wide(x), wide(weight), None if bias is None else wide(bias)).to(x.dtype)
    if _use_onednn and x.dtype == torch.float32 and len(x) >= ONEDNN_ROWS:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def transposed_linear(a: Tensor, b: Tensor) -> Tensor:
    """a^T b on a CPU, without a gradient: (K, M), (K, N) -> (M, N)."""
    # oneDNN is a quarter faster where the result is wider than high; MKL does not mind.
    is_wide = a.shape[1] <= b.shape[1] or not _use_onednn
    return linear(a.t(), b.t()) if is_wide else linear(b.t(), a.t()).t()


class Linear(nn.Linear):
    """`nn.Linear` whose three matrix products go through `linear`.

    With AVX-512 that is twice as fast in float32, and without it 8 to 40 times as fast in half precision.
    """

    def reset_parameters(self) -> None:
        """Draw new parameters, if there are any: torch warns of a matrix without rows or columns."""
        if self.weight.numel():
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        dtype, autocast = cpu_dtype(x), torch.is_autocast_enabled("cpu")
        ours = dtype == torch.float32 or (dtype in HALF and not HAS_AVX512)
        ours = ours and type(self.weight) in PLAIN_TYPES
        # Rows of another width would be cut at other places; torch's own layer refuses them.
        fits = x.shape[-1] == self.in_features and (autocast or self.weight.dtype == dtype)
        if not ours or not fits or not is_plain_cpu(x):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            y = _Linear.apply(x.to(dtype).reshape(-1, self.in_features), self.weight, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    @staticmethod
    @forward_pass
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @backward_pass
    def backward(ctx, g: Tensor):  # type: ignore[override]
        x, weight, g = (wide(tensor) for tensor in (*ctx.saved_tensors, g))  # autograd casts the results
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dx = linear(g, weight.t()) if of_x else None
        return dx, transposed_linear(g, x) if of_weight else None, g.sum(0) if of_bias else None


def linears(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The outputs of several linear layers of one input, each (..., out); a GPU takes them as one product."""
    # On a CPU that gains less than it costs to join the weights.
    if not x.is_cuda or any(type(layer) is not Linear for layer in layers):  # an adapter may stand for one
        return tuple(layer(x) for layer in layers)
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).split([layer.out_features for layer in layers], -1)


class DropoutMasks:
    """Dropout's decisions, drawn again from a seed, so that the backward pass need not find them in memory.

    numpy's SFC64 takes 0.4 ns for 16 bits, and torch's Bernoulli takes 4.7 ns for an element. On a CPU the
    difference was 15 % of a training step. The probability p in [0, 1) is met to within 1.5e-5.
    """

    def __init__(self, p: float, seed: int):
        dropped = min(round(p * 65536), 65535)  # how many of the 65536 values of 16 bits mean "drop"
        self.threshold = dropped - 32768
        self.scale = 65536 / (65536 - dropped)
        self.bits = np.random.SFC64(seed)

    @staticmethod
    def draw_seed() -> int:
        """Draw a seed from torch's generator."""
        return int(torch.randint(2**62, ()))

    def next(self, like: Tensor) -> Tensor:
        """The next mask, of the shape of `like`: integers of its elements' size, 0 where one is dropped."""
        count = like.numel()
        bits = torch.from_numpy(self.bits.random_raw(-(-count // 4)).view(np.int16)[:count])
        mask = torch.empty_like(like, dtype=INTEGERS[like.element_size()])
        return torch.ge(bits.view(like.shape), self.threshold, out=mask)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    """x where `mask` is 1, and +0 where it is 0. The result takes the place of `mask` in memory."""
    return mask.mul_(x.view(mask.dtype)).view(x.dtype)  # multiplies the bits of x by 1 or 0


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout` in 2 ns an element instead of 8, which leaves nothing in memory for the backward pass."""
    if not training or p == 0:
        return x
    if not is_plain_cpu(x) or not x.is_contiguous():
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    @forward_pass
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed = p, DropoutMasks.draw_seed()
        return _drop(x, DropoutMasks(p, ctx.seed))

    @staticmethod
    @backward_pass
    def backward(ctx, g: Tensor):  # type: ignore[override]
        return _drop(g.contiguous(), DropoutMasks(ctx.p, ctx.seed)), None


def _drop(x: Tensor, masks: DropoutMasks) -> Tensor:
    """Drop elements of x and scale the others, chunk by chunk."""
    y = torch.empty_like(x)
    for some, result in zip(x.view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
        torch.mul(_masked(some, masks.next(some)), masks.scale, out=result)
    return y


def gelu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout(F.gelu(x), p)` in one pass over the memory."""
    if not training or p == 0 or not is_plain_cpu(x) or not x.is_contiguous():
        return F.dropout(F.gelu(x), p, training)
    return _GeluDropout.apply(x, p)


class _GeluDropout(torch.autograd.Function):
    @staticmethod
    @forward_pass
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.p, ctx.seed = p, DropoutMasks.draw_seed()
        masks = DropoutMasks(p, ctx.seed)
        y = torch.empty_like(x)
        for some, result in zip(x.view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
            torch.mul(_masked(F.gelu(some), masks.next(some)), masks.scale, out=result)
        return y

    @staticmethod
    @backward_pass
    def backward(ctx, g: Tensor):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        masks = DropoutMasks(ctx.p, ctx.seed)
        dx = torch.empty_like(x)
        chunks = (tensor.view(-1).split(CHUNK) for tensor in (x, g.contiguous(), dx))
        for some, gradient, result in zip(*chunks, strict=True):
            kept = _masked(gradient, masks.next(some)).mul_(masks.scale)
            torch.ops.aten.gelu_backward.grad_input(kept, some, grad_input=result)
        return dx, None


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
        if dropout_p or HAS_AVX512:
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
                    weights = _masked(weights, masks.next(weights))
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
                dv = _transposed_linear_by_head(_masked(weights, mask) if p else weights, g_b)
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
    return x.dtype if HAS_AVX512 else wide(x).dtype


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
