"""Data parallel training in two processes on the CPU: `python -m benchmarks.two_processes`.

Each process has a core, talks through gloo, and computes the gradient of a micro-batch of 2 x 750 frames, as
`melhubert pretrain` does: in bfloat16, or in float32 on a processor without AVX-512, where bfloat16 is many
times slower. `GradientSums` adds them up while the last backward pass of a step still computes. Compared with
one process on one core: perfect scaling is 1.

One process and two are measured in turn, and a figure is the median of the turns: what else runs on the
machine takes from both, and more in one minute than in the next.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from benchmarks.common.figures import Figure, parser, save
from benchmarks.common.steps import batch_loss
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.masking import draw_mask
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.gradients import BF16, FP32, GradientSums

BATCH, FRAMES = 2, 750
# Micro-batches of a step, and the goal: as many as in the published setting, and one.
GOALS = {8: 0.95, 1: 0.88}


def has_fast_bf16() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def work(rounds: int, layers: int) -> dict[str, float]:
    """Seconds of a micro-batch, and of the last one of a step: the best of the rounds, of this process."""
    torch.set_num_threads(1)
    bf16 = has_fast_bf16()
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    features, labels = torch.randn(BATCH, FRAMES, 80), torch.randint(512, (BATCH, FRAMES))
    config = MelHuBERTConfig(encoder_layers=layers)
    mask = draw_mask(config, [FRAMES] * BATCH, FRAMES)
    best = {"compute": float("inf"), FP32: float("inf"), BF16: float("inf")}
    for precision in (FP32, BF16):
        model = MelHuBERT(config).train()
        sums = GradientSums(model.parameters(), precision)
        for number in range(rounds + 1):
            model.zero_grad()
            sums.begin()
            begin = time.perf_counter()
            batch_loss(model, features, labels, mask, bf16).backward()
            computed = time.perf_counter()
            sums.send_with_next_backward()
            batch_loss(model, features, labels, mask, bf16).backward()
            sums.finish()
            finished = time.perf_counter()
            if number:
                best["compute"] = min(best["compute"], computed - begin)
                best[precision] = min(best[precision], finished - computed)
    if dist.is_initialized():
        dist.destroy_process_group()
    return best


def processes(count: int, rounds: int, layers: int) -> dict[str, float]:
    """The same of the slowest of so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = ["-m", "benchmarks.two_processes", "--rounds", str(rounds), "--layers", str(layers), "--worker"]
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
    arguments.add_argument("--layers", type=int, default=12, help="of the model; the base model has 12")
    arguments.add_argument("--turns", type=int, default=5, help="of one process and two (default: 5)")
    arguments.add_argument("--worker", action="store_true", help="one of the processes")
    args = arguments.parse_args()
    if args.worker:
        sys.stdout.write(json.dumps(work(args.rounds, args.layers)) + "\n")
        return
    turns = []
    for turn in range(args.turns):
        turns.append([processes(count, args.rounds, args.layers) for count in (1, 2)])
        times = (" ".join(f"{name} {value:.2f}" for name, value in each.items()) for each in turns[-1])
        print("  turn {} of {}, seconds: one {}; two {}".format(turn + 1, args.turns, *times), flush=True)

    computed = "bfloat16" if has_fast_bf16() else "float32"

    def scaling(accumulate: int, precision: str) -> list[float]:
        """Of each turn, the least first."""
        return sorted(
            one["compute"] * accumulate / (two["compute"] * (accumulate - 1) + two[precision])
            for one, two in turns
        )

    def middle(count: int, name: str) -> str:
        return f"{statistics.median(turn[count - 1][name] for turn in turns):.2f} s"

    save(
        "two_processes",
        [
            Figure(
                "two processes, frames per second over those of two single ones, "
                f"{count} micro-batch{'es' * (count > 1)} a step, gradients added in {precision}",
                statistics.median(ratios := scaling(count, precision)),
                "",
                goal,
                note=f"a micro-batch of {BATCH} x {FRAMES} in {computed}: {middle(1, 'compute')} alone, "
                f"{middle(2, 'compute')} beside the other; the last of a step, with the sum, "
                f"{middle(2, precision)}; medians of {args.turns} turns, in which the figure was "
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
            )
            for precision in (FP32, BF16)
            for count, goal in GOALS.items()
        ],
    )


if __name__ == "__main__":
    main()
