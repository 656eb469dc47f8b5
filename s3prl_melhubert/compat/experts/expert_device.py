"""What some experts of s3prl's lack to run on another device than the first GPU.

    restore(module)   acts on the module `expert` of a task that calls `.cuda()`, when it has been loaded

Speaker verification, ATIS and others move a mask with `.cuda()` in `forward`, and query-by-example its
embeddings in `log_records`, so that they end in an error on a CPU (`--device cpu`), and on any GPU but the
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

METHODS = ("forward", "log_records")  # of an expert, which s3prl's runner calls


def restore(module: ModuleType) -> bool:
    """Let `.cuda()` in the expert's methods mean the device of its parameters; true if it did not before."""
    expert = module.DownstreamExpert
    if hasattr(expert.forward, "__wrapped__"):
        return False
    for name in METHODS:
        setattr(expert, name, _on_its_device(getattr(expert, name)))
    return True


def _on_its_device(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_device(expert: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _cuda_means(next(expert.parameters()).device):
            return method(expert, *args, **kwargs)

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
