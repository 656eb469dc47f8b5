"""How the frames of a batch lie in memory between the encoder's layers.

A GPU works on a padded batch, (B, T, C), because it runs equal rows fastest. A CPU works on the frames of
all utterances one after the other, (N, C), because it then spends nothing on padding. Both layouts offer the
same few operations to the encoder, which therefore does not know which of them it has.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from s3prl_melhubert.kernels import is_plain_cpu, packed_attention, wants_every_derivative


class Frames:
    """The layout of a padded batch (B, T, C), in which padding is worked on as if it were speech.

    Args:
        padding_mask: (B, T) bool, true at padding; None if nothing is padded.
    """

    def __init__(self, padding_mask: Tensor | None):
        self.padding = padding_mask
        self.attend = None if padding_mask is None else ~padding_mask[:, None, None, :]  # (B, 1, 1, T)

    def pack(self, x: Tensor) -> Tensor:
        """Turn (B, T, C) into the frames as the layers take them."""
        return x

    def unpack(self, x: Tensor) -> Tensor:
        """Turn a layer's output back into (B, T, C), zero at padding."""
        return x if self.padding is None else x.masked_fill(self.padding[..., None], 0)

    def convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Convolve each utterance over time; the convolution sees zeros before and after it."""
        return conv(x.transpose(1, 2)).transpose(1, 2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, dropout_p: float) -> Tensor:
        """Softmax attention of each utterance to itself: q, k and v of shape (..., C) -> (..., C)."""
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        # torch's fused forms of attention have a first derivative, too, and no other.
        with sdpa_kernel(SDPBackend.MATH) if wants_every_derivative() else nullcontext():
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attend, dropout_p=dropout_p)
        return y.transpose(1, 2).flatten(2)


class PackedFrames(Frames):
    """The layout of the frames of all utterances one after the other, (N, C), without padding.

    Padding then costs nothing in the layers, which are nearly all of the work.

    Args:
        padding_mask: (B, T) bool, true at the padding that follows each utterance; None if nothing is padded.
        shape: B and T of the padded batch.
        gap: frames of zeros between two utterances, which are as many as the convolution looks back.
    """

    def __init__(self, padding_mask: Tensor | None, shape: tuple[int, int], gap: int):
        self.shape, self.gap = shape, gap
        self.valid = None if padding_mask is None else ~padding_mask  # (B, T)
        self.lengths = [shape[1]] * shape[0] if self.valid is None else self.valid.sum(1).tolist()

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1) if self.valid is None else x[self.valid]

    def unpack(self, x: Tensor) -> Tensor:
        if self.valid is None:
            return x.unflatten(0, self.shape)
        padded = nn.utils.rnn.pad_sequence(x.split(self.lengths), batch_first=True)
        missing = self.shape[1] - padded.shape[1]  # frames by which the batch exceeds its longest utterance
        return F.pad(padded, (0, 0, 0, missing)) if missing else padded

    def convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        if self.valid is None:
            return super().convolve(conv, x.unflatten(0, self.shape)).flatten(0, 1)
        # The utterances are laid into one long row, with `gap` zeros after each of them.
        utterance = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))  # (N,)
        place = torch.arange(len(x)) + self.gap * utterance
        row = x.new_zeros(len(x) + self.gap * len(self.lengths), x.shape[1]).index_copy(0, place, x)
        return super().convolve(conv, row[None])[0, place]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, dropout_p: float) -> Tensor:
        return packed_attention(q, k, v, self.lengths, heads, dropout_p)


def frames_of(x: Tensor, padding_mask: Tensor | None, gap: int) -> Frames:
    """Choose the layout for a padded batch.

    Args:
        x: (B, T, C), the batch; B may be 0.
        padding_mask: (B, T) bool, true at padding; None if nothing is padded.
        gap: as in `PackedFrames`.
    """
    # The operations of PackedFrames on a list of utterances want at least one.
    if is_plain_cpu(x) and len(x) and _is_at_the_end(padding_mask):
        return PackedFrames(padding_mask, (x.shape[0], x.shape[1]), gap)
    return Frames(padding_mask)


def _is_at_the_end(padding_mask: Tensor | None) -> bool:
    """Whether padding only follows utterances; `Frames` also takes padding before them."""
    return padding_mask is None or not (padding_mask[:, :-1] & ~padding_mask[:, 1:]).any()
