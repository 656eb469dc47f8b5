"""The encoder's inner operations in plain torch: what `kernels/` computes.

Files for the Hub travel alone, are read by people and run on any machine; they have no use for the forms
that are faster on a CPU. Each function takes the arguments of its namesake there and gives the same up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# These say which types, tensors and derivatives are meant, and stand in the files as they are.
from s3prl_melhubert.kernels.conditions import is_plain_cpu, wants_every_derivative  # noqa: F401
from s3prl_melhubert.kernels.convolution import direct_conv1d
from s3prl_melhubert.kernels.precision import HALF, cpu_dtype, wide  # noqa: F401


class Linear(nn.Linear):
    """`nn.Linear`, which may also have no rows or no columns, in a pruned model."""

    def reset_parameters(self) -> None:
        """Draw new parameters, if there are any: torch warns of a matrix without rows or columns."""
        if self.weight.numel():
            super().reset_parameters()


def grouped_conv1d(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """`F.conv1d` with groups, which is also right in half precision on a CPU with AMX."""
    return direct_conv1d(x, weight, bias, padding, groups)


def linears(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The outputs of several linear layers of one input."""
    return tuple(layer(x) for layer in layers)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements with the probability p in training, and scale the others up."""
    return F.dropout(x, p, training)


def gelu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """GELU, then dropout."""
    return F.dropout(F.gelu(x), p, training)


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: int, dropout_p: float
) -> Tensor:
    """Attention of each utterance to itself: (N, C) frames of all utterances one after the other -> (N, C).

    Args:
        q: queries; `k` and `v` are keys and values, all (N, C).
        k: as `q`.
        v: as `q`.
        lengths: frames of each utterance, N in all.
        heads: number of heads.
        dropout_p: probability of dropping an attention weight.
    """
    outputs = []
    for utterance in zip(*(x.split(list(lengths)) for x in (q, k, v)), strict=True):
        # An utterance is a batch of one, (1, H, T, D).
        q_i, k_i, v_i = (x.unflatten(-1, (heads, -1)).transpose(0, 1)[None] for x in utterance)
        y = F.scaled_dot_product_attention(q_i, k_i, v_i, dropout_p=dropout_p)
        outputs.append(y[0].transpose(0, 1).flatten(1))
    return torch.cat(outputs)
