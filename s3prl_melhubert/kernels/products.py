"""Matrix products and linear layers, through oneDNN where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.kernels import conditions
from s3prl_melhubert.kernels.conditions import PLAIN_TYPES, is_plain_cpu, uses_onednn
from s3prl_melhubert.kernels.derivatives import backward_pass, forward_pass
from s3prl_melhubert.kernels.precision import HALF, cpu_dtype, wide

# From so many rows on, a matrix product through oneDNN is worth the reordering of its weight.
ONEDNN_ROWS = 64


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on a CPU for matrices of any strides, without a gradient: (M, K), (N, K), (N,) -> (M, N)."""
    # Without AVX-512, oneDNN has no fast products in half precision: a linear layer's forward pass takes 9
    # times as long as in float32, and its gradients 40 times.
    if x.dtype in HALF and not conditions.HAS_AVX512:
        return linear(wide(x), wide(weight), None if bias is None else wide(bias)).to(x.dtype)
    if uses_onednn() and x.dtype == torch.float32 and len(x) >= ONEDNN_ROWS:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def transposed_linear(a: Tensor, b: Tensor) -> Tensor:
    """a^T b on a CPU, without a gradient: (K, M), (K, N) -> (M, N)."""
    # oneDNN is a quarter faster where the result is wider than high; MKL does not mind.
    is_wide = a.shape[1] <= b.shape[1] or not uses_onednn()
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
        ours = dtype == torch.float32 or (dtype in HALF and not conditions.HAS_AVX512)
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
