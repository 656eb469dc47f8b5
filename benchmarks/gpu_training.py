"""The training step on a GPU: bfloat16, compiled, 32 x 750 frames: `python -m benchmarks.gpu_training`.

Without a GPU the rows say that they are not yet measured.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.figures import RESULTS, Figure, parser, save
from benchmarks.steps import train_step
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.metrics import measure_peak, synchronize, training_flops

BATCH, FRAMES = 32, 750
GOAL, TIMES = 45, 8
MFU = f"training step, H100, bfloat16, compiled, {BATCH} x {FRAMES}, MFU"
EAGER = "the same, times as fast as an eager float32 step"
MEMORY = "the same, peak memory"
STEPS = 10


def step_seconds(device: torch.device, bf16: bool, compiled: bool, rounds: int) -> tuple[float, float, float]:
    """Seconds of a step, the arithmetic of one, and peak memory in GB."""
    torch.manual_seed(0)
    model = MelHuBERT().to(device).train()
    config = model.config
    if compiled:
        model.encoder.compile()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=compiled)
    features = torch.randn(BATCH, FRAMES, config.feat_emb_dim, device=device)
    labels = torch.randint(config.num_cluster, (BATCH, FRAMES), device=device)
    mask = model.draw_mask([FRAMES] * BATCH, FRAMES)
    flops = training_flops(config, (FRAMES,) * BATCH, int(mask.sum()))
    mask = mask.to(device)
    torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        train_step(model, optimizer, features, labels, mask, bf16)

    for _ in range(3):
        step()
    times = []
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        synchronize(device)
        times.append((time.perf_counter() - begin) / STEPS)
    return statistics.median(times), flops, torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    args = parser(__doc__, rounds=5).parse_args()
    if not torch.cuda.is_available():
        if (RESULTS / "gpu_training.json").is_file():
            print("  no GPU here; the results of one stay as they are")
            return
        missing = [Figure(MFU, None, "%", GOAL), Figure(EAGER, None, "x", TIMES), Figure(MEMORY, None, "GB")]
        save("gpu_training", missing)
        return
    device = torch.device("cuda")
    peak = measure_peak(device, "bf16")
    fast, flops, memory = step_seconds(device, bf16=True, compiled=True, rounds=args.rounds)
    torch.cuda.empty_cache()
    eager, _, eager_memory = step_seconds(device, bf16=False, compiled=False, rounds=args.rounds)
    save(
        "gpu_training",
        [
            Figure(
                MFU,
                100 * flops / fast / peak,
                "%",
                GOAL,
                note=f"{1000 * fast:.1f} ms, {BATCH * FRAMES / fast:,.0f} frames/s; "
                f"peak {peak / 1e12:.0f} TFLOP/s",
            ),
            Figure(EAGER, eager / fast, "x", TIMES, note=f"{1000 * eager:.1f} ms"),
            Figure(MEMORY, memory, "GB", note=f"eager float32: {eager_memory:.1f} GB"),
        ],
    )


if __name__ == "__main__":
    main()
