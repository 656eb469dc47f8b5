"""What s3prl's speech enhancement and source separation lack to run on another device than the first GPU.

    restore(module)   acts on an expert of `s3prl.downstream` when it has been loaded

The expert and its loss move tensors to a device that their modules choose when they are imported: the first
GPU where there is one. So training ends in an error there with `--device cpu`, and on any GPU but the first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def restore(module: ModuleType) -> bool:
    """Let the modules' device be that of the features in `forward`; true if it was not before."""
    forward = module.DownstreamExpert.forward
    if hasattr(forward, "__wrapped__"):
        return False
    loss = sys.modules[f"{module.__package__}.loss"]

    @wraps(forward)
    def on_device(expert: Any, mode: str, features: Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        module.device = loss.device = features[0].device  # type: ignore[attr-defined]
        return forward(expert, mode, features, *args, **kwargs)

    module.DownstreamExpert.forward = on_device
    return True
