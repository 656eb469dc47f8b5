"""Dropout, alone and after GELU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_melhubert.kernels.conditions import is_plain_cpu
from s3prl_melhubert.kernels.derivatives import backward_pass, forward_pass
from s3prl_melhubert.kernels.random_words import RandomWords

# Operations work on so many elements at a time that one finds in the cache what the one before it left.
CHUNK = 1 << 17

# torch has vector instructions for integers of an element's size, but not for booleans.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class DropoutMasks:
    """Dropout's decisions, drawn again from a seed, so that the backward pass need not find them in memory.

    A decision takes 16 bits. torch's Bernoulli takes 4.7 ns for one, and 16 bits of `RandomWords` take 0.05.
    The probability p in [0, 1) is met to within 1.5e-5.
    """

    def __init__(self, p: float, seed: int):
        dropped = min(round(p * 65536), 65535)  # how many of the 65536 values of 16 bits mean "drop"
        self.threshold = dropped - 32768
        self.scale = 65536 / (65536 - dropped)
        self.words = RandomWords(seed)

    @staticmethod
    def draw_seed() -> int:
        """Draw a seed from torch's generator."""
        return int(torch.randint(2**62, ()))

    def next(self, like: Tensor) -> Tensor:
        """The next mask, of the shape of `like`: integers of its elements' size, 0 where one is dropped."""
        count = like.numel()
        bits = torch.from_numpy(self.words.next(-(-count // 4)).view(np.int16)[:count])
        mask = torch.empty_like(like, dtype=INTEGERS[like.element_size()])
        return torch.ge(bits.view(like.shape), self.threshold, out=mask)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x where `mask` is 1, and +0 where it is 0. The result takes the place of `mask` in memory."""
    return mask.mul_(x.view(mask.dtype)).view(x.dtype)  # multiplies the bits of x by 1 or 0


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout` in 2 ns an element instead of 7, which leaves nothing in memory for the backward pass."""
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
        torch.mul(masked(some, masks.next(some)), masks.scale, out=result)
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
            torch.mul(masked(F.gelu(some), masks.next(some)), masks.scale, out=result)
        return y

    @staticmethod
    @backward_pass
    def backward(ctx, g: Tensor):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        masks = DropoutMasks(ctx.p, ctx.seed)
        dx = torch.empty_like(x)
        chunks = (tensor.view(-1).split(CHUNK) for tensor in (x, g.contiguous(), dx))
        for some, gradient, result in zip(*chunks, strict=True):
            kept = masked(gradient, masks.next(some)).mul_(masks.scale)
            torch.ops.aten.gelu_backward.grad_input(kept, some, grad_input=result)
        return dx, None
