"""How stretches of utterances lie end to end in rows of one length, and how the model keeps them apart.

Attention and the positional convolution stay within a stretch. All shapes are the same for every batch of a
run, whatever lies in it: what differs are numbers in tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from s3prl_melhubert.kernels import is_plain_cpu, packed_attention, wants_every_derivative
from s3prl_melhubert.packing import Frames
from s3prl_melhubert.pretrain.training.rows.attention import by_kernel, by_mask, kernel_for, usable_kernels


@dataclass
class RowLayout(Frames):
    """The layout of B rows of T frames, which the layers take as (B x T, C).

    The convolution would see the neighbours of a stretch. For it alone the rows are made longer, with zeros
    between two stretches: 64 frames for the base model, in a twentieth of the model's arithmetic.
    """

    shape: tuple[int, int]  # B and T
    # (S + 1,) int32, where stretches begin in the B x T frames, and their end. The padding that ends a row is
    # a stretch, too, and as many stretches of no frames follow as make S the same for every batch.
    bounds: Tensor
    places: Tensor  # (B x T,) int64, where a frame lies in the B longer rows of the convolution
    width: int  # frames of a longer row
    lengths: tuple[int, ...]  # frames of the stretches that have some
    kernels: tuple[str, ...] = ()  # what the device has for attention, of `attention.py`

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], time: int, gap: int, most: int) -> RowLayout:
        """Make the layout of some rows.

        Args:
            rows: frames of the stretches in each row.
            time: T, the frames of a row.
            gap: frames of zeros between two stretches: as many as the convolution looks back.
            most: stretches that a row has at most.
        """
        number = np.zeros((len(rows), time), dtype=np.int64)  # of each frame's stretch within its row
        lengths: list[int] = []
        for row, stretches in enumerate(rows):
            used = sum(stretches)
            number[row, :used] = np.repeat(np.arange(len(stretches)), stretches)
            # What pads the row is zero in the convolution, and needs no gap.
            number[row, used:] = max(0, len(stretches) - 1)
            lengths += [*stretches, time - used]
        lengths = [length for length in lengths if length]
        width = time + gap * (most - 1)
        places = np.arange(len(rows))[:, None] * width + np.arange(time) + gap * number
        bounds = np.full(len(rows) * (most + 1) + 1, len(rows) * time, dtype=np.int32)
        bounds[: len(lengths) + 1] = np.cumsum([0, *lengths])
        return cls(
            (len(rows), time),
            torch.from_numpy(bounds),
            torch.from_numpy(places.reshape(-1)),
            width,
            tuple(lengths),
        )

    def to(self, device: torch.device) -> RowLayout:
        """The same layout on a device, for the kernels that it has."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, kernels=usable_kernels(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> RowLayout:
        """The same layout of what a function makes of its tensors, which it puts into other memory."""
        return replace(self, bounds=function(self.bounds), places=function(self.places))

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def unpack(self, x: Tensor) -> Tensor:
        return x.unflatten(0, self.shape)

    def convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        rows = self.shape[0]
        spread = put(x, self.places, rows * self.width).unflatten(0, (rows, self.width))
        return take(super().convolve(conv, spread).flatten(0, 1), self.places)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, dropout_p: float) -> Tensor:
        if is_plain_cpu(q):
            return packed_attention(q, k, v, self.lengths, heads, dropout_p)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))  # (B x T, H, D)
        kernel, time = kernel_for(q, self.kernels), self.shape[1]
        if kernel is None:
            return by_mask(q, k, v, self.bounds, time, dropout_p).flatten(1)
        return by_kernel(kernel, q, k, v, self.bounds, time, dropout_p).flatten(1)


def take(x: Tensor, places: Tensor) -> Tensor:
    """x[places] of a matrix, where no place stands twice: (N, C), (M,) -> (M, C).

    The gradient is then a copy, where indexing would sort the places or add atomically.
    """
    return x.index_select(0, places) if wants_every_derivative() else _Take.apply(x, places)


def put(x: Tensor, places: Tensor, rows: int) -> Tensor:
    """A matrix of zeros (rows, C) with x (M, C) at these places (M,), of which none stands twice."""
    if wants_every_derivative():
        return x.new_zeros(rows, x.shape[1]).index_copy(0, places, x)
    return _Put.apply(x, places, rows)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = x.shape[0]
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, g: Tensor):  # type: ignore[override]
        (places,) = ctx.saved_tensors
        return put(g, places, ctx.rows), None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(rows, x.shape[1]).index_copy(0, places, x)

    @staticmethod
    def backward(ctx, g: Tensor):  # type: ignore[override]
        (places,) = ctx.saved_tensors
        return take(g, places), None, None
