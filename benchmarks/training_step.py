"""The training step on the CPU: float32, bfloat16, peak memory. `python -m benchmarks.training_step`.

The base model at 20 ms is trained on 4 crops of 750 frames: forward, backward, clipping, Adam. The arithmetic
that a step needs is that of `training_flops` (1867 GFLOP; PyTorch's counter says 2292, because it counts the
gradient of a grouped convolution's weight once for each group). The model FLOPs utilization (MFU) is that
arithmetic over the time and the peak. The peak is the most that 2048 x 2048 matrix products reached in the
same run, by MKL (`a @ a`) or by oneDNN (`kernels.linear`). MKL leaves AVX-512 unused on some processors, so
the step is also measured with torch's own products.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.common.figures import (
    PEAK_FLOPS,
    THREADS,
    Figure,
    MatrixProduct,
    in_turn,
    parser,
    ratio,
    save,
    seconds,
)
from benchmarks.common.naive import check, naive
from benchmarks.common.steps import adam, train_step
from s3prl_melhubert import kernels
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.metrics import training_flops

BATCH, FRAMES = 4, 750


class Step:
    """A model with its optimizer and a batch; calling it trains one step."""

    def __init__(self, bf16: bool = False, plain: bool = False, onednn: bool = True):
        torch.manual_seed(0)
        model = MelHuBERT().train()
        self.config = model.config
        self.model = naive(model) if plain else model
        self.optimizer = (
            torch.optim.Adam(self.model.parameters(), lr=1e-4) if plain else adam(self.model, 1e-4)
        )
        self.features = torch.randn(BATCH, FRAMES, self.config.feat_emb_dim)
        self.labels = torch.randint(self.config.num_cluster, (BATCH, FRAMES))
        self.mask = self.model.draw_mask([FRAMES] * BATCH, FRAMES)
        self.bf16, self.onednn = bf16, onednn

    @property
    def flops(self) -> float:
        return training_flops(self.config, (FRAMES,) * BATCH, int(self.mask.sum()))

    def __call__(self) -> None:
        with nullcontext() if self.onednn else kernels.torch_operations(products_only=True):
            train_step(self.model, self.optimizer, self.features, self.labels, self.mask, self.bf16)


def alone(kind: str) -> tuple[float, float]:
    """In a process of its own: peak resident memory of two steps in GB, and seconds of the second."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--alone", kind]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    memory, time = json.loads(result.stdout.splitlines()[-1])
    return memory, time


def run_alone(kind: str) -> None:
    step = Step(bf16=kind == "bf16", plain=kind == "naive")
    step()
    time = seconds(step)
    # Not getrusage's figure, which a process inherits from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([int(peak[1]) / 1024**2 if peak else float("nan"), time]))


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--alone", choices=("fp32", "bf16", "naive"), help="only that, for its memory")
    args = arguments.parse_args()
    torch.set_num_threads(THREADS)
    if args.alone:
        run_alone(args.alone)
        return

    print(f"difference from the naive version: {check():.1e}")
    step, bf16 = Step(), Step(bf16=True)
    mkl_step = Step(onednn=False)
    mkl, half = MatrixProduct(torch.float32), MatrixProduct(torch.bfloat16)
    works = {"peak": mkl, "float32": step, "peak bf16": half, "bfloat16": bf16, "torch products": mkl_step}
    times = in_turn(works, args.rounds)
    a = torch.randn(2048, 2048)
    onednn = PEAK_FLOPS / min(seconds(lambda: kernels.linear(a, a)) for _ in range(8))
    best = {name: min(values) for name, values in times.items()}
    peak = max(mkl.peak, onednn)
    mfu = {name: step.flops / best[name] / peak for name in ("float32", "torch products")}
    mfu["bfloat16"] = step.flops / best["bfloat16"] / half.peak

    print("  each alone, for its memory", flush=True)
    memory = {kind: alone(kind) for kind in ("fp32", "bf16", "naive")}
    save(
        "training_step",
        [
            Figure(
                "training step, float32, MFU",
                100 * mfu["float32"],
                "%",
                60,
                note=f"{best['float32']:.2f} s; peak {mkl.peak / 1e9:.0f} GFLOP/s by `a @ a`, "
                f"{onednn / 1e9:.0f} by oneDNN",
            ),
            Figure(
                "the same with torch's own products",
                100 * mfu["torch products"],
                "%",
                note=f"{best['torch products']:.2f} s",
            ),
            Figure(
                "training step, bfloat16, times as fast as our float32 step",
                ratio(times, "float32", "bfloat16"),
                "x",
                3,
                note=f"{best['bfloat16']:.2f} s, MFU {100 * mfu['bfloat16']:.0f} % "
                f"(peak {half.peak / 1e9:.0f} GFLOP/s)",
            ),
            Figure(
                "the same, times as fast as the float32 step with torch's own products",
                ratio(times, "torch products", "bfloat16"),
                "x",
            ),
            Figure(
                "peak memory of a training step, float32, of the naive version's",
                memory["fp32"][0] / memory["naive"][0],
                "",
                1,
                at_least=False,
                note=", ".join(f"{kind} {gigabytes:.2f} GB" for kind, (gigabytes, _) in memory.items()),
            ),
            Figure(
                "training step, float32, times as fast as the naive version",
                memory["naive"][1] / memory["fp32"][1],
                "x",
                note=f"{memory['naive'][1]:.1f} s and {memory['fp32'][1]:.1f} s, one after the other",
            ),
        ],
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    main()
