"""Which derivatives the faster forms have: the first, by a backward pass that is written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from s3prl_melhubert.errors import MelHuBERTError

# A backward pass computes in its forward pass's types, also where somebody calls it inside autocast.
forward_pass = torch.amp.custom_fwd(device_type="cpu")


def backward_pass(backward: Callable[..., Any]) -> Any:
    """Mark a backward pass that has no derivative itself, and refuse one.

    torch's `once_differentiable` leaves it out of a sum, in silence, where not all tensors' are asked for.
    """
    backward = torch.amp.custom_bwd(backward, device_type="cpu")

    def checked(ctx, *g: Tensor) -> Any:
        several = torch._C._are_functorch_transforms_active() or is_legacy_batchedtensor(g[0])
        if several or torch.is_grad_enabled():
            raise MelHuBERTError(
                "derivatives of derivatives, or of several outputs at once, need torch's own operations: run "
                "the model, too, within `s3prl_melhubert.kernels.torch_operations()`"
            )
        return backward(ctx, *g)

    return checked
