"""One of two processes that add up gradients. test_gradients.py starts them; each asserts what it gets."""

from __future__ import annotations

import torch
import torch.distributed as dist

from s3prl_melhubert.pretrain.training import gradients

gradients.BUCKET_BYTES = 2000  # several buckets, of a layer or two


def layers() -> torch.nn.ModuleList:
    torch.manual_seed(0)
    return torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(6))


def backward(model: torch.nn.ModuleList, process: int, seed: int, leave_out: int | None = None) -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(10 * seed + process))
    for number, layer in enumerate(model):
        if number != leave_out:
            x = layer(x).tanh()
    x.square().sum().backward()


def expected(leave_out: dict[int, int | None], seeds: tuple[int, ...]) -> list[torch.Tensor | None]:
    """The gradients of both processes, computed by one."""
    model = layers()
    for process in (0, 1):
        for seed in seeds:
            backward(model, process, seed, leave_out.get(process))
    return [parameter.grad for parameter in model.parameters()]


def check(model: torch.nn.ModuleList, wanted: list[torch.Tensor | None], tolerance: float) -> None:
    for parameter, other in zip(model.parameters(), wanted, strict=True):
        assert (parameter.grad is None) == (other is None)
        if other is not None:
            assert (parameter.grad - other).abs().max() <= tolerance * other.abs().max()


def main() -> None:
    dist.init_process_group("gloo")
    me = dist.get_rank()
    for precision, tolerance in (("fp32", 1e-6), ("bf16", 2**-6)):
        model = layers()
        sums = gradients.GradientSums(model.parameters(), precision)
        # Which layer each process leaves out: none; one alone; both the same one.
        for leave_out in ({}, {0: 2}, {0: 3, 1: 3}):
            sums.begin()
            backward(model, me, 1, leave_out.get(me))
            sums.send_with_next_backward()
            backward(model, me, 2, leave_out.get(me))
            sums.finish()
            check(model, expected(leave_out, (1, 2)), tolerance)
        # One fails in the middle of its last backward pass. Both finish, and do the step again.
        for fails in (True, False):
            sums.begin()
            sums.send_with_next_backward()
            stop = model[3].weight.register_hook(fail) if fails and me == 0 else None
            try:
                backward(model, me, 1)
            except MemoryError:
                assert stop is not None
                stop.remove()
            sums.finish()
        check(model, expected({}, (1,)), tolerance)
    dist.destroy_process_group()
    print("right", flush=True)


def fail(gradient: torch.Tensor) -> None:
    raise MemoryError


if __name__ == "__main__":
    main()
