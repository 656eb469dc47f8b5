"""A GPU in name only, for tests of what runs on one: tensors that say they are there, computed on the CPU.

An operation on tensors of two devices raises, as it does on a GPU, and so may one that makes the host wait
for the device. The kernels that a CPU lacks are computed by plain formulas. What this cannot show is what a
real one alone has: speed and rounding, autocast (which asks the device itself), streams, `torch.compile`.

To torch's C++ such a tensor is one of the `meta` device, which no operation waits for or initializes; to
Python, and by the dispatch keys that autograd goes by, it is one of `cuda:0`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # before anything is changed: it lists torch's functions when it is imported first
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from s3prl_melhubert.pretrain.training import metrics

GPU = torch.device("cuda", 0)
META = torch.device("meta")
MEMORY = 140 << 30  # bytes, of an H200
# A GPU reads the host's memory in these; the loss takes its lengths from there.
PACKED = {"_pack_padded_sequence", "_pack_padded_sequence_backward", "_pad_packed_sequence"}
TAKE_BOTH = {"copy_", "_to_copy", "_ctc_loss", "_ctc_loss_backward", *PACKED}
WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}

waits_raise = False  # whether an operation that makes the host wait is an error


class OnGpu(Tensor):
    """A tensor of the pretended GPU, whose figures are in `content`, on the CPU."""

    content: Tensor
    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, content: Tensor) -> OnGpu:
        shape = torch.empty_strided(content.shape, content.stride(), dtype=content.dtype, device=META)
        made = Tensor._make_subclass(cls, shape, False, dispatch_device=False, device_for_backend_keys=GPU)
        made.content = content
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.content.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.content})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _is_gpu(device: Any) -> bool:
    """Whether a device is the pretended one, under its own name or that which C++ knows."""
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _run(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Compute an operation of the dispatcher on the CPU, and say that its results are where they would be."""
    name = operation._schema.name.removeprefix("aten::")
    if name == "_pin_memory":
        return args[0].clone()
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    _refuse_two_devices(name, args, tensors, there)
    device = kwargs.get("device")
    if there:
        _wait(name, args, device)
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    if name == "empty" and args and _is_gpu(device) and torch.Size(args[0]).numel() > MEMORY:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    compute = KERNELS.get(name, operation)
    results = compute(*tree_map(_content, tuple(args)), **tree_map(_content, kwargs))
    if "out" in kwargs:
        return kwargs["out"]
    if name == "_pack_padded_sequence" and there:
        return OnGpu(results[0]), results[1]
    if name.endswith("_"):  # in place; those of several tensors return nothing
        return args[0] if isinstance(args[0], Tensor) else None
    on_gpu = _is_gpu(device) if device is not None else bool(there)
    return (
        tree_map(lambda each: OnGpu(each) if isinstance(each, Tensor) else each, results)
        if on_gpu
        else results
    )


def _content(value: Any) -> Any:
    return value.content if isinstance(value, OnGpu) else value


def _refuse_two_devices(
    name: str, args: Sequence[Any], tensors: Sequence[Tensor], there: Sequence[Tensor]
) -> None:
    """Raise torch's error where an operation takes tensors of two devices that must be on one."""
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim() > 0]
    if there and here and name not in TAKE_BOTH and not (name in INDEXING and isinstance(args[0], OnGpu)):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in here)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got {shapes} on the CPU")


def _wait(name: str, args: Sequence[Any], device: Any) -> None:
    """Raise where an operation would make the host wait for the device, and that is an error."""
    by_mask = name in INDEXING and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )
    leaves = name == "_to_copy" and device is not None and not _is_gpu(device)
    if waits_raise and (name in WAIT or by_mask or leaves):
        raise RuntimeError(f"called a synchronizing CUDA operation: {name}")


# What torch calls only on a GPU ---------------------------------------------------------------------


def _stretches(bounds: Tensor) -> Iterator[slice]:
    edges = bounds.tolist()
    return (slice(start, end) for start, end in pairwise(edges) if end > start)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Attention weights of a stretch: two of (T, H, D) -> (H, T, T)."""
    q, k = (x.transpose(0, 1).float() for x in (q, k))
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)


def _drawn(weights: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """What dropout multiplies attention weights with."""
    return (torch.rand(weights.shape, generator=generator) >= p) / (1 - p)


def _attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Attention of each stretch to itself, and the seed of its dropout; q, k, v: (N, H, D) -> (N, H, D)."""
    y, seed = torch.zeros_like(v), torch.randint(1 << 62, ()) if p else torch.tensor(0)
    generator = torch.Generator().manual_seed(int(seed))
    for at in _stretches(bounds):
        weights = _weights(q[at], k[at])
        weights = weights * _drawn(weights, p, generator)
        y[at] = (weights @ v[at].transpose(0, 1).float()).transpose(0, 1).to(y.dtype)
    return y, seed


def _attend_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, p: float, seed: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of q, k and v."""
    results = tuple(torch.zeros_like(x) for x in (q, k, v))
    generator = torch.Generator().manual_seed(int(seed))
    for at in _stretches(bounds):
        weights = _weights(q[at], k[at])
        drawn = _drawn(weights, p, generator)
        gh, qh, kh, vh = (x[at].transpose(0, 1).float() for x in (g, q, k, v))
        d_weights = drawn * (gh @ vh.transpose(1, 2))
        scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) / qh.shape[-1] ** 0.5
        found = scores @ kh, scores.transpose(1, 2) @ qh, (drawn * weights).transpose(1, 2) @ gh
        for result, part in zip(results, found, strict=True):
            result[at] = part.transpose(0, 1).to(result.dtype)
    return results


# These take and give what the operations of their names in torch do, as far as somebody looks at it.


def _flash(q, k, v, bounds, _, longest, __, p, *rest):
    y, seed = _attend(q, k, v, bounds, p)
    return y, q.new_zeros(q.shape[1], len(q)), seed, seed, seed


def _flash_backward(g, q, k, v, y, sums, bounds, _, __, ___, p, causal, seed, *rest):
    return _attend_backward(g, q, k, v, bounds, p, seed)


def _efficient(q, k, v, _, bounds, __, longest, other, p, *rest):
    y, seed = _attend(q[0], k[0], v[0], bounds, p)
    return y[None], q.new_zeros(1, *q.shape[2:0:-1]), seed, seed, longest, other


def _efficient_backward(g, q, k, v, _, y, bounds, __, ___, ____, sums, p, seed, *rest):
    results = _attend_backward(g[0], q[0], k[0], v[0], bounds, p, seed)
    return *(x[None] for x in results), g.new_zeros(0)


KERNELS: dict[str, Callable[..., Any]] = {
    "_flash_attention_forward": _flash,
    "_flash_attention_backward": _flash_backward,
    "_efficient_attention_forward": _efficient,
    "_efficient_attention_backward": _efficient_backward,
}


# What Python calls ----------------------------------------------------------------------------------


class _Operations(TorchDispatchMode):
    """Takes the operations that have no tensor of the pretended GPU yet, but make one."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Calls the device by the name that C++ can take, and does what never comes to the dispatcher."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cuda:
            function, args, kwargs = torch.Tensor.to, (args[0], META), {}
        if function is torch.Tensor.cpu:
            function, args, kwargs = torch.Tensor.to, (args[0], "cpu"), {}
        if function is torch.Tensor.tolist and isinstance(args[0], OnGpu):
            _wait("_local_scalar_dense", args, None)
            return args[0].content.tolist()
        if function is torch.Tensor.numpy and isinstance(args[0], OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function is torch.nn.functional.ctc_loss and isinstance(args[0], OnGpu):
            # Of lengths on the CPU, C++ would make tensors of its own.
            args = tuple(OnGpu(x) if type(x) is Tensor else x for x in args)
        if function is torch.Tensor.to:
            args = (
                args[0],
                *(META if isinstance(x, str | torch.device) and _is_gpu(x) else x for x in args[1:]),
            )
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = META
            if function in (torch.tensor, torch.as_tensor):
                del kwargs["device"]
                return function(*args, **kwargs).to(META)
        return function(*args, **kwargs)


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to`, which replaces the parameters that come to another device, and leaves the others.

    torch keeps a parameter and changes its memory, which a tensor of the pretended GPU cannot do.
    """
    device, *others = args or (None,)
    if not isinstance(device, str | int | torch.device) or not _is_gpu(device):
        return _to(module, *args, **kwargs)
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or isinstance(tensor, OnGpu):
                    continue
                there = OnGpu(tensor.detach())
                needs = tensor.requires_grad
                tensors[name] = nn.Parameter(there, needs) if tensors is part._parameters else there
    return _to(module, *others, **kwargs) if others or kwargs else module


_to = nn.Module.to


def _set_sync_debug_mode(mode: str) -> None:
    global waits_raise
    waits_raise = mode == "error"


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing: what is told to the pretended GPU is done already."""


EVENT = SimpleNamespace(synchronize=_nothing, record=_nothing, wait=_nothing)
STREAM = SimpleNamespace(record_event=lambda: EVENT, wait_event=_nothing, wait_stream=_nothing)
PROPERTIES = SimpleNamespace(
    name="a GPU in name", total_memory=MEMORY, major=9, minor=0, multi_processor_count=1
)
CUDA: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(["_lazy_init", "synchronize", "empty_cache", "set_device", "manual_seed"], _nothing),
    **dict.fromkeys(["manual_seed_all", "reset_peak_memory_stats"], _nothing),
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "is_bf16_supported": lambda **options: True,
    "is_current_stream_capturing": lambda: False,
    "get_device_capability": lambda *device: (9, 0),
    "get_device_name": lambda *device: PROPERTIES.name,
    "get_device_properties": lambda *device: PROPERTIES,
    "mem_get_info": lambda *device: (MEMORY, MEMORY),
    "max_memory_allocated": lambda *device: 0,
    "current_stream": lambda *device: STREAM,
    "device": lambda *device: nullcontext(),
    "get_rng_state": lambda *device: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": _nothing,
    "set_sync_debug_mode": _set_sync_debug_mode,
}


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within the block, torch sees a GPU."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for name, function in CUDA.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, function))
            stack.enter_context(mock.patch.object(nn.Module, "to", _moved))
            stack.enter_context(mock.patch.object(nn.Module, "cuda", lambda module: _moved(module, GPU)))
            # A product that is large enough for a GPU would take a CPU half a minute.
            stack.enter_context(mock.patch.object(metrics, "measure_peak", return_value=1e12))
            stack.enter_context(_Functions())
            stack.enter_context(_Operations())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        _set_sync_debug_mode("default")
