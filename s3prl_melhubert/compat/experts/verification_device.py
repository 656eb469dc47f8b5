"""What s3prl's speaker verification lacks to run on another device than the first GPU.

    restore(module)   acts on `s3prl.downstream.sv_voxceleb1.expert` when it has been loaded

Its `forward` moves a mask with `.cuda()`, so that it ends in an error on a CPU (`--device cpu`), and on any
GPU but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def restore(module: ModuleType) -> bool:
    """Let `.cuda()` in the expert's `forward` mean the device of the features; true if it did not before."""
    forward = module.DownstreamExpert.forward
    if hasattr(forward, "__wrapped__"):
        return False
    module.DownstreamExpert.forward = _on_device_of_features(forward)
    return True


def _on_device_of_features(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def on_device(expert: Any, mode: str, features: Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        with _cuda_means(features[0].device):
            return forward(expert, mode, features, *args, **kwargs)

    return on_device


@contextmanager
def _cuda_means(device: torch.device) -> Iterator[None]:
    import torch

    cuda = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor.to(device)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = cuda  # type: ignore[method-assign]
