"""Where the faster forms apply, and how a caller turns them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# MKL leaves AVX-512 unused on processors that are not Intel's, and oneDNN does not: the float32 products of
# the base model run at 160 to 210 GFLOP/s a core through oneDNN and at 82 to 94 through MKL. Where there is
# no AVX-512, both are equally fast.
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_use_onednn = (
    HAS_AVX512 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)

# A subclass of Tensor may mean anything by an operation, and knows torch's own.
PLAIN_TYPES = (Tensor, nn.Parameter)
_own_forms = True


@contextmanager
def torch_operations(products_only: bool = False) -> Iterator[None]:
    """Within the block a CPU computes with torch's own operations, in all threads, and has every derivative.

    Args:
        products_only: only matrix products in float32 are torch's own.
    """
    global _own_forms, _use_onednn
    before = _own_forms, _use_onednn
    _own_forms, _use_onednn = _own_forms and products_only, False
    try:
        yield
    finally:
        _own_forms, _use_onednn = before


def uses_onednn() -> bool:
    """Whether matrix products in float32 go through oneDNN."""
    return _use_onednn


def wants_every_derivative() -> bool:
    """Whether other derivatives than the first may be wanted: by `torch.func`, forward mode, or a caller."""
    if torch.compiler.is_compiling():  # The compiler cannot see the other questions.
        return False
    return not _own_forms or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def is_plain_cpu(x: Tensor) -> bool:
    """Whether the faster forms apply to a tensor, because nobody traces what becomes of it."""
    return (
        x.is_cpu
        and not torch.compiler.is_compiling()
        and type(x) in PLAIN_TYPES
        and not wants_every_derivative()
        and not torch._C._len_torch_dispatch_stack()  # fake tensors, or a counter of operations
        and not torch.jit.is_tracing()
    )
