"""The positional convolution: right in half precision, and faster on a CPU by Fourier transforms.

With a kernel of 128 frames, a product of spectra needs a quarter of the arithmetic of the convolution. The
transforms are matrix products, because their results then lie in memory as the product of spectra wants
them; torch's FFT has fewer operations, but to reorder what it gives takes longer than all of this.

On one core, 750 frames of the base model with their gradients take less than half of the time of torch's own
convolution, and those of a frozen model a third of it (`python -m benchmarks.kernels`): 5 % of a training
step, and as much of a forward pass.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_melhubert.kernels import conditions
from s3prl_melhubert.kernels.conditions import is_plain_cpu
from s3prl_melhubert.kernels.derivatives import backward_pass, forward_pass
from s3prl_melhubert.kernels.precision import HALF, cpu_dtype, wide
from s3prl_melhubert.kernels.products import linear

# Below so many frames of the kernel, or so many blocks of as many frames, torch's convolution is as fast.
# Of a weight that stays as it is, the spectrum is there already, so that fewer blocks are enough. A kernel
# below LONG_KERNEL gains less by each block, and needs TIMES_FOR_SHORT times as many.
LEAST_KERNEL, LONG_KERNEL = 32, 64
LEAST_BLOCKS, LEAST_BLOCKS_AGAIN = 4, 2
TIMES_FOR_SHORT = 4
KEPT = 2  # spectra of weights


def grouped_conv1d(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """`F.conv1d` with groups, by the form that is faster on the tensors' device.

    Args:
        x: (B, C, T).
        weight: (C, C / groups, kernel).
        bias: (C,).
        padding: frames of zeros before and after.
        groups: number of groups.

    Returns:
        (B, C, T + 2 padding - kernel + 1).
    """
    dtype = cpu_dtype(x)
    transforms = is_plain_cpu(x) and _is_worth_transforms(x, weight, padding)
    in_float32 = is_plain_cpu(x) and dtype in HALF and not conditions.HAS_AVX512
    if not transforms and not in_float32:
        return direct_conv1d(x, weight, bias, padding, groups)
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = wide(x), wide(weight), wide(bias)
        if not transforms:
            return direct_conv1d(x, weight, bias, padding, groups).to(dtype)
        x = x.transpose(1, 2)
        if _has_gradient(x, weight):
            y = _FourierConv.apply(x, weight, bias, padding, groups)
        else:
            y = _convolve(x, _kept_spectrum(weight), bias, padding, weight.shape[2])[0]
    return y.transpose(1, 2).to(dtype)


def _is_worth_transforms(x: Tensor, weight: Tensor, padding: int) -> bool:
    """Whether products of spectra are faster than the convolution.

    The transform of the weight takes as long as the convolution of 300 frames. A transform would spread what
    is not finite over its block, and so to other utterances of the row.
    """
    kernel = weight.shape[2]
    blocks = x.shape[0] * -(-(x.shape[2] + 2 * padding - kernel + 1) // kernel)
    least = LEAST_BLOCKS if _has_gradient(x, weight) else LEAST_BLOCKS_AGAIN
    least *= 1 if kernel >= LONG_KERNEL else TIMES_FOR_SHORT
    faster = kernel >= LEAST_KERNEL and blocks >= least
    return faster and bool(x.detach().sum(dtype=torch.float32).isfinite())


def _has_gradient(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def direct_conv1d(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """`F.conv1d` with groups, which is also right in half precision on a CPU with AMX.

    There oneDNN (of torch 2.11) gives sums in bfloat16 that are 64 to 87 % away from the right ones, if a
    group has certain numbers of channels: 4 and 12 are wrong, but 3, 16, 32 and 48 are right. Groups whose
    number of channels is not a multiple of 16 are computed in float32. The base model has 48 in a group.

    Args:
        x: (B, C, T).
        weight: (C, C / groups, kernel).
        bias: (C,).
        padding: frames of zeros before and after.
        groups: number of groups.

    Returns:
        (B, C, T + 2 padding - kernel + 1).
    """
    dtype = cpu_dtype(x)
    if x.device.type != "cpu" or dtype not in HALF or weight.shape[1] % 16 == 0:
        return F.conv1d(x, weight, bias, padding=padding, groups=groups)
    with torch.autocast("cpu", enabled=False):
        y = F.conv1d(x.float(), weight.float(), bias.float(), padding=padding, groups=groups)
    return y.to(dtype)


class _FourierConv(torch.autograd.Function):
    """The convolution by transforms, with its gradients."""

    @staticmethod
    @forward_pass
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
        of_weight = _spectrum(weight)
        y, of_x = _convolve(x, of_weight, bias, padding, weight.shape[2])
        ctx.save_for_backward(of_x, of_weight)
        ctx.shape, ctx.padding, ctx.weight_shape = x.shape, padding, weight.shape
        return y

    @staticmethod
    @backward_pass
    def backward(ctx, g: Tensor):  # type: ignore[override]
        of_x, of_weight = ctx.saved_tensors
        (batch, time, width), kernel = ctx.shape, ctx.weight_shape[2]
        blocks = len(of_x) // batch
        transform, inverse = _transforms(2 * kernel, g.dtype)
        g_blocks = F.pad(g, (0, 0, 0, blocks * kernel - g.shape[1])).view(-1, kernel, width)
        of_g = _product(transform[:, :kernel], g_blocks)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            of_dx = _spectra_product(of_g, of_weight, conjugate=False)
            windows = _product(inverse, of_dx).view(batch, blocks, 2, kernel, width)
            padded = g.new_zeros(batch, blocks + 1, kernel, width)
            padded[:, :-1] += windows[:, :, 0]
            padded[:, 1:] += windows[:, :, 1]
            dx = padded.flatten(1, 2)[:, ctx.padding : ctx.padding + time]
        if ctx.needs_input_grad[1]:
            real, imaginary = of_g.unflatten(1, (2, -1)).unbind(1)
            turned = torch.stack([-imaginary, real], 1).view_as(of_g)  # i g
            x_rows = _rows(of_x, of_weight.shape[-1])
            of_dweight = torch.empty_like(of_weight)
            for part, factor in zip(of_dweight, (of_g, turned), strict=True):
                torch.bmm(_rows(factor, of_weight.shape[-1]).transpose(1, 2), x_rows, out=part)
            dweight = linear(of_dweight.view(2 * kernel + 2, -1).t(), inverse[:kernel])
            dweight = dweight.view(ctx.weight_shape)
        return dx, dweight, g.sum((0, 1)), None, None


def _convolve(x: Tensor, of_weight: Tensor, bias: Tensor, padding: int, kernel: int) -> tuple[Tensor, Tensor]:
    """Convolve in blocks of K output frames, for a kernel of K frames; C = G groups of D channels.

    A block sees 2K input frames, whose circular correlation with the kernel is right in the first K. A
    spectrum has 2 x (K + 1) real numbers: the real parts, then the imaginary ones.

    Args:
        x: (B, T, C).
        of_weight: the weight's spectrum, (2, (K + 1) x G, D out, D in).
        bias: (C,).
        padding: frames of zeros before and after.
        kernel: K.

    Returns:
        The result, (B, T + 2 padding - K + 1, C), and the spectra of all blocks, (M, 2K + 2, C).
    """
    batch, time, width = x.shape
    frames = time + 2 * padding - kernel + 1  # of the output
    blocks = -(-frames // kernel)
    transform, inverse = _transforms(2 * kernel, x.dtype)
    padded = x.new_zeros(batch, blocks + 1, kernel, width)
    padded.flatten(1, 2)[:, padding : padding + time] = x
    windows = torch.cat([padded[:, :-1], padded[:, 1:]], 2).flatten(0, 1)  # (M, 2K, C)
    of_x = _product(transform, windows)
    of_y = _spectra_product(of_x, of_weight.transpose(2, 3), conjugate=True)
    y = _product(inverse[:kernel], of_y).view(batch, -1, width)[:, :frames]
    return y.add_(bias), of_x


def _spectrum(weight: Tensor) -> Tensor:
    """The spectrum of a weight (C, D, K): (2, (K + 1) x G, D out, D in)."""
    transform, _ = _transforms(2 * weight.shape[2], weight.dtype)
    of_weight = linear(transform[:, : weight.shape[2]], weight.flatten(0, 1))  # (2K + 2, G x D x D)
    return of_weight.view(2, -1, weight.shape[1], weight.shape[1])


_kept: list[tuple[Tensor, Tensor]] = []  # weights and their spectra, the last used first


def _kept_spectrum(weight: Tensor) -> Tensor:
    """The spectrum of a weight (C, D, K), which is kept for the next time.

    A frozen model has the same weight every time. It is compared as a whole, a tenth of the time of the
    transform, because nothing tells for certain when a tensor was changed.
    """
    kept = tuple(_kept)  # as it is now: another thread may be here, too
    for found in kept:
        if found[0].dtype == weight.dtype and torch.equal(found[0], weight):
            break
    else:
        with torch.inference_mode(False), torch.no_grad():
            copy = weight.clone()
            found = copy, _spectrum(copy)
    _kept[:] = [found, *(other for other in kept if other is not found)][:KEPT]
    return found[1]


@lru_cache(maxsize=4)
def _transforms(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The discrete Fourier transform of real numbers and its inverse, (size + 2, size) and its transpose."""
    frequency = torch.arange(size // 2 + 1)[:, None]
    angle = 2 * math.pi / size * (frequency * torch.arange(size) % size).double()
    transform = torch.cat([angle.cos(), -angle.sin()])
    # A real signal's spectrum has each frequency twice, but the first and the last.
    times = torch.where(frequency % (size // 2) == 0, 1, 2).repeat(2, 1)
    return transform.to(dtype), (transform * times / size).t().to(dtype).contiguous()


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix times each of x: (N, K), (M, K, C) -> (M, N, C)."""
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


def _rows(spectra: Tensor, channels: int) -> Tensor:
    """(M, 2K + 2, C) -> a view ((K + 1) x G, 2M, D): a matrix of each frequency and group."""
    return spectra.view(2 * len(spectra), -1, channels).transpose(0, 1)


def _spectra_product(spectra: Tensor, weight: Tensor, conjugate: bool) -> Tensor:
    """Spectra (M, 2K + 2, C) times the weight's (2, (K + 1) x G, D, D) or its conjugate: (M, 2K + 2, C)."""
    rows = _rows(spectra, weight.shape[-1])
    by_real, by_imaginary = (torch.bmm(rows, part) for part in weight)  # rows are real and imaginary in turn
    sign = 1 if conjugate else -1
    by_real[:, 0::2].add_(by_imaginary[:, 1::2], alpha=sign)
    by_real[:, 1::2].sub_(by_imaginary[:, 0::2], alpha=sign)
    return by_real.transpose(0, 1).reshape(spectra.shape)
