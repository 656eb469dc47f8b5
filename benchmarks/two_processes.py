"""Data parallel training in two processes on the CPU: `python -m benchmarks.two_processes`.

Each process has a core, talks through gloo, and computes the gradient of a micro-batch of 2 x 750 frames in
bfloat16, as `melhubert pretrain` does; `sum_gradients` adds them up. Compared with one process on one core:
perfect scaling is 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from benchmarks.figures import Figure, parser, save
from benchmarks.steps import batch_loss
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.optimization import sum_gradients

BATCH, FRAMES = 2, 750
ACCUMULATE = 8  # micro-batches of a step, in the published setting


def work(rounds: int) -> dict[str, float]:
    """Seconds of a micro-batch and of the sum of the gradients: the best of the rounds, of this process."""
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = MelHuBERT().train()
    features, labels = torch.randn(BATCH, FRAMES, 80), torch.randint(512, (BATCH, FRAMES))
    mask = model.draw_mask([FRAMES] * BATCH, FRAMES)
    best = {"compute": float("inf"), "sum": float("inf")}
    for number in range(rounds + 1):
        begin = time.perf_counter()
        batch_loss(model, features, labels, mask, bf16=True).backward()
        computed = time.perf_counter()
        sum_gradients(model.parameters())
        summed = time.perf_counter()
        model.zero_grad()
        if number:
            best["compute"] = min(best["compute"], computed - begin)
            best["sum"] = min(best["sum"], summed - computed)
    if dist.is_initialized():
        dist.destroy_process_group()
    return best


def processes(count: int, rounds: int) -> dict[str, float]:
    """The same of the slowest of so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = ["-m", "benchmarks.two_processes", "--rounds", str(rounds), "--worker"]
    result = subprocess.run(
        [sys.executable, *(launcher if count > 1 else []), *command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {name: max(times[name] for times in found) for name in found[0]}


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--worker", action="store_true", help="one of the processes")
    args = arguments.parse_args()
    if args.worker:
        sys.stdout.write(json.dumps(work(args.rounds)) + "\n")
        return
    one, two = processes(1, args.rounds), processes(2, args.rounds)
    print(f"  one: {one}\n  two: {two}", flush=True)

    def scaling(accumulate: int) -> float:
        return one["compute"] * accumulate / (two["compute"] * accumulate + two["sum"])

    save(
        "two_processes",
        [
            Figure(
                "two processes, frames per second over those of two single ones, "
                f"{ACCUMULATE} micro-batches a step",
                scaling(ACCUMULATE),
                "",
                note=f"a micro-batch of {BATCH} x {FRAMES}: {one['compute']:.2f} s alone, "
                f"{two['compute']:.2f} s beside the other; gradients added in {two['sum']:.2f} s",
            ),
            Figure("the same, a single micro-batch a step", scaling(1), ""),
        ],
    )


if __name__ == "__main__":
    main()
