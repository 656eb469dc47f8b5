"""Attention of stretches that follow each other, each to itself, by the kernels that a device has for it.

torch's `varlen_attn` has no dropout. The two operations below it have, and stand in every torch from 2.4 on:
they are what scaled dot-product attention calls for nested tensors. They take the bounds of the stretches
from the device's memory, so that nobody waits for it, and never see a mask.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

FLASH, EFFICIENT = "flash", "memory-efficient"
MOST_FLASH_COLUMNS = 256  # of a head
ALIGNMENT = 16  # bytes; a head's columns must fill so many, or a multiple
# A kernel is used where its outputs and gradients are no further from plain attention's, relative to their
# norm.
TOLERANCE = {FLASH: 0.02, EFFICIENT: 0.01}


def by_kernel(
    kernel: str, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, dropout_p: float
) -> Tensor:
    """Attention by `FLASH` or `EFFICIENT`.

    Args:
        kernel: which.
        q, k, v: (N, H, D), on a GPU.
        bounds: (S + 1,) int32, where the stretches begin, and N; a stretch may have no frames.
        longest: frames that no stretch exceeds.
        dropout_p: probability of dropping an attention weight.

    Returns:
        (N, H, D).
    """
    if kernel == FLASH:
        return torch.ops.aten._flash_attention_forward(
            q, k, v, bounds, bounds, longest, longest, dropout_p, False, False
        )[0]
    return torch.ops.aten._efficient_attention_forward(
        q[None], k[None], v[None], None, bounds, bounds, longest, longest, dropout_p, 0, True
    )[0][0]


def by_mask(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, row: int, dropout_p: float) -> Tensor:
    """The same by torch's own attention and a mask, for what no kernel takes.

    Args:
        q, k, v: (N, H, D).
        bounds: as in `by_kernel`.
        row: frames of a row; no stretch lies in two, and N is a multiple of it.
        dropout_p: as in `by_kernel`.
    """
    places = torch.arange(len(q), device=q.device, dtype=bounds.dtype)
    owners = torch.bucketize(places, bounds[1:], right=True).unflatten(0, (-1, row))  # (B, T)
    attend = (owners[:, :, None] == owners[:, None, :])[:, None]  # (B, 1, T, T)
    q, k, v = (x.unflatten(0, (-1, row)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout_p)
    return y.transpose(1, 2).flatten(0, 1)


def kernel_for(q: Tensor, usable: tuple[str, ...]) -> str | None:
    """The kernel for queries (N, H, D) of this kind, among those of the device; None if there is none."""
    columns = q.shape[-1]
    half = q.dtype in (torch.float16, torch.bfloat16)
    if columns * q.element_size() % ALIGNMENT or not (half or q.dtype == torch.float32):
        return None
    if FLASH in usable and half and columns <= MOST_FLASH_COLUMNS:
        return FLASH
    return EFFICIENT if EFFICIENT in usable else None


@cache
def usable_kernels(device: torch.device) -> tuple[str, ...]:
    """The kernels that a device has and that are right there, which a small example tells."""
    if device.type != "cuda":
        return ()
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    usable = []
    for kernel, dtype in ((FLASH, half), (EFFICIENT, torch.float32)):
        try:
            error = _error_of(kernel, device, dtype)
        except (RuntimeError, TypeError, AttributeError, NotImplementedError):
            continue  # an older GPU, or a torch that was built without it
        if error <= TOLERANCE[kernel]:  # and not where it is NaN
            usable.append(kernel)
    return tuple(usable)


def attention_in_words(device: torch.device) -> str:
    """How rows attend on a device, for the lines with which a run begins."""
    if device.type == "cpu":
        return "blocks that fit the cache"
    kernels = usable_kernels(device)
    return f"kernels ({', '.join(kernels)})" if kernels else "masks: this device has no kernel for rows"


def _error_of(kernel: str, device: torch.device, dtype: torch.dtype) -> float:
    """How far a kernel's outputs and gradients are from plain attention's in float32."""
    row, heads, columns = 96, 2, 64
    bounds = torch.tensor([0, 40, 96, 96, 101, 192, 192], dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2 * row, heads, columns, generator=generator).to(device, dtype) for _ in range(4)]
    results = []
    for exact in (True, False):
        q, k, v, g = (x.float() if exact else x for x in inputs)
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        y = by_mask(q, k, v, bounds, row, 0.0) if exact else by_kernel(kernel, q, k, v, bounds, row, 0.0)
        results.append([y.detach(), *torch.autograd.grad(y, (q, k, v), g)])
    return max(float((a - b.float()).norm() / a.norm()) for a, b in zip(*results, strict=True))
