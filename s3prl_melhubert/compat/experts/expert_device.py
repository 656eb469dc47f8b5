"""What some experts of s3prl's lack to run on another device than the first GPU.

    restore(module)   acts on the module `expert` of such a task, when it has been loaded

Speaker verification, ATIS and others move a mask with `.cuda()` in `forward`, and query-by-example its
embeddings in `log_records`. The modules of speech enhancement and source separation choose a device when they
are imported, the first GPU where there is one. So they end in an error with `--device cpu`, if only beside a
GPU, and on any GPU but the first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

METHODS = ("forward", "log_records")  # of an expert, which s3prl's runner calls
CHOSEN = "device"  # in a module that chooses one when it is imported


def restore(module: ModuleType) -> bool:
    """Let the expert's methods move to the device of its parameters; true if they did not before."""
    expert = module.DownstreamExpert
    if hasattr(expert.forward, "__wrapped__"):
        return False
    choosing = [module, sys.modules.get(f"{module.__package__}.loss")]
    choosing = [each for each in choosing if hasattr(each, CHOSEN)]
    for name in METHODS:
        setattr(expert, name, _on_its_device(getattr(expert, name), choosing))
    return True


def _on_its_device(method: Callable[..., Any], choosing: Sequence[ModuleType | None]) -> Callable[..., Any]:
    @wraps(method)
    def on_device(expert: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        device = next(expert.parameters()).device
        for module in choosing:
            setattr(module, CHOSEN, device)
        with _cuda_means(device):
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
