"""The encoder's operations beside torch's own, on one thread: `python -m benchmarks.kernels`.

Each operation of `s3prl_melhubert/kernels` and its namesake of `hub/plain_kernels.py`, which is
torch's own, work on the same 750 frames of the base model in turn. Times are the processor's (user and
system), so that other programs count little. On a processor with AVX-512 all of it is measured a second time
as if it had AVX2 only (`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`, and MKL's own variable). Without
AVX-512, torch's products in bfloat16 take minutes in all.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.common.figures import Figure, parser, save
from s3prl_melhubert import kernels
from s3prl_melhubert.hub import plain_kernels

BATCH, FRAMES, WIDTH, INNER, HEADS, KERNEL, GROUPS = 1, 750, 768, 3072, 12, 128, 16
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# Two times of the same work differ by so much: what is as fast as torch's own is not seen to be slower.
NOISE = 0.95

Operation = Callable[[Tensor], Tensor]


def operations(of: ModuleType, dtype: torch.dtype) -> Iterator[tuple[str, Operation, int]]:
    """The operations of a module: what they are called, a function of (N, columns), and the columns."""
    torch.manual_seed(0)
    lengths = [FRAMES] * BATCH
    layer = of.Linear(WIDTH, INNER).to(dtype)
    weight, bias = torch.randn(WIDTH, WIDTH // GROUPS, KERNEL) * 0.02, torch.zeros(WIDTH)
    weight, bias = weight.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()

    def attention(p: float) -> Operation:
        return lambda x: of.packed_attention(*x.split(WIDTH, 1), lengths, HEADS, p)

    def convolve(x: Tensor) -> Tensor:
        return of.grouped_conv1d(
            x.unflatten(0, (BATCH, FRAMES)).transpose(1, 2), weight, bias, KERNEL // 2, GROUPS
        )

    yield f"linear layer {WIDTH} to {INNER}", layer, WIDTH
    yield "attention with dropout", attention(0.1), 3 * WIDTH
    yield "attention without dropout", attention(0.0), 3 * WIDTH
    yield "GELU and dropout", lambda x: of.gelu_dropout(x, 0.1, True), INNER
    yield "dropout", lambda x: of.dropout(x, 0.1, True), WIDTH
    yield "positional convolution", convolve, WIDTH


def cpu_seconds(operation: Operation, x: Tensor, g: Tensor | None) -> float:
    """Of a forward pass, and of the backward pass if there is a gradient to begin with."""
    begin = time.process_time()
    with torch.set_grad_enabled(g is not None):
        y = operation(x)
    if g is not None:
        y.backward(g)
    return time.process_time() - begin


def measure(dtype: torch.dtype, rounds: int, where: str) -> list[Figure]:
    """How many times as fast as torch's own each operation is, in training and forward alone."""
    figures = []
    pairs = zip(operations(kernels, dtype), operations(plain_kernels, dtype), strict=True)
    for (name, ours, columns), (_, theirs, _) in pairs:
        x = torch.randn(BATCH * FRAMES, columns).to(dtype).requires_grad_()
        with torch.no_grad():
            g = torch.randn_like(ours(x))
        for kind, gradient in (("forward and backward", g), ("forward", None)):
            if gradient is None and "dropout" in name and "without" not in name:
                continue  # nothing is dropped where nothing is trained
            times: dict[Operation, list[float]] = {ours: [], theirs: []}
            for number in range(rounds + 1):
                turn = [ours, theirs] if number % 2 else [theirs, ours]
                for operation in turn:
                    times[operation].append(cpu_seconds(operation, x, gradient))
            a, b = times[ours][1:], times[theirs][1:]  # the first ones warm up
            figures.append(
                Figure(
                    f"{name}, {str(dtype).removeprefix('torch.')}, {kind}, {where}: speed to torch's own",
                    statistics.median(y / x for x, y in zip(a, b, strict=True)),
                    "x",
                    NOISE,
                    note=f"{1e3 * min(a):.4g} ms and {1e3 * min(b):.4g} ms",
                )
            )
            print(f"  {figures[-1].what} {figures[-1].measured:.3g} ({figures[-1].note})", flush=True)
    return figures


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--only", action="store_true", help="as the environment says; figures as JSON")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    figures = measure(torch.float32, args.rounds, capability)
    figures += measure(torch.bfloat16, args.rounds, capability)
    if args.only:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    if capability == "AVX512":
        command = [sys.executable, "-m", "benchmarks.kernels", "--only", "--rounds", str(args.rounds)]
        result = subprocess.run(command, env=os.environ | AVX2, check=True, stdout=subprocess.PIPE, text=True)
        figures += [Figure(**figure) for figure in json.loads(result.stdout.splitlines()[-1])]
    save("kernels", figures, threads=1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
