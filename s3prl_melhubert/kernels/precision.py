"""The types in which a CPU computes."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def cpu_dtype(x: Tensor) -> torch.dtype:
    """The type in which a CPU computes with x: that of autocast, inside one, else that of x."""
    casts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # which autocast leaves as it is
    return torch.get_autocast_dtype("cpu") if casts else x.dtype


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
