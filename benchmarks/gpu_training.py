"""The training step on a GPU: rows, bfloat16, compiled. `python -m benchmarks.gpu_training`.

Each variant trains the base model at 20 ms on the same crops, whose lengths are LibriSpeech's: those that
fill 32 rows of 750 frames. Beside the package's own ways stand the eager step in float32 on padded batches,
and the model as one writes it down first (`common.naive`), which is how the published code computes. Who
runs out of memory gets the crops in smaller pieces. MFU is the arithmetic that the crops need, padding not
counted, over the time and the most that 8192 x 8192 products in bfloat16 reached in the same run.

    python -m benchmarks.gpu_training                       elsewhere the rows stay "not yet measured"
    python -m benchmarks.gpu_training --profile             and what the first variant loses its time to
    python -m benchmarks.gpu_training --small --device cpu  a tiny model, to see that it runs; saves nothing
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.figures import RESULTS, Figure, parser, save, table
from benchmarks.common.gpu_profile import losses
from benchmarks.common.librispeech_lengths import draw_frames
from benchmarks.common.naive import naive
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.frontend import padding_mask
from s3prl_melhubert.masking import draw_mask
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.dataset import Batch
from s3prl_melhubert.pretrain.training.metrics import measure_peak, synchronize, training_flops
from s3prl_melhubert.pretrain.training.optimization import (
    accumulate_gradients,
    build_optimizer,
    compile_encoder,
)
from s3prl_melhubert.pretrain.training.rows.attention import attention_in_words
from s3prl_melhubert.pretrain.training.rows.batch import RowBatch, RowForm
from s3prl_melhubert.pretrain.training.rows.plan import RowPlan
from s3prl_melhubert.pretrain.training.settings import OptimizerSettings, RunnerSettings

ROWS, FRAMES = 32, 750
BATCHES = 4  # different ones, in turn
GOAL, TIMES = 45, 8
STEPS = 10
MOST_PIECES = 16
SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 128,
    "encoder_attention_heads": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "num_cluster": 32,
}
SMALL_ROWS, SMALL_FRAMES = 4, 60

MFU = f"training step, H100, bfloat16, compiled, {ROWS} rows of {FRAMES}, MFU"
SPEED = "the same"
GRAPHS = "the same with CUDA graphs"
UNCOMPILED = "the same, not compiled"
PADDED = "the same, compiled, on padded batches"
EAGER = "the same, times as fast as an eager float32 step on padded batches"
PUBLISHED = "the same, times as fast as the published code's way in float32"
MEMORY = "the same, peak memory"


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name: str
    rows: bool = True
    bf16: bool = True
    compiled: bool = True
    graphs: bool = False
    plain: bool = False  # the naive encoder


BEST = Variant("rows, bfloat16, compiled")
VARIANTS = {
    MFU: BEST,
    GRAPHS: Variant("rows, bfloat16, compiled, CUDA graphs", graphs=True),
    UNCOMPILED: Variant("rows, bfloat16", compiled=False),
    PADDED: Variant("padded, bfloat16, compiled", rows=False),
    EAGER: Variant("padded, float32", rows=False, bf16=False, compiled=False),
    PUBLISHED: Variant("published way, float32", rows=False, bf16=False, compiled=False, plain=True),
}


@dataclass(frozen=True)
class Measured:
    """What a variant took."""

    seconds: float  # of a step
    frames: float  # of a step, padding not counted
    flops: float  # of a step
    memory: float | None  # GB at most; None on a CPU
    pieces: int  # that a step had to be cut into

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds


def pairs_of_batches(config: MelHuBERTConfig, rows: int, time_: int) -> list[tuple[Batch, RowBatch]]:
    """The same crops of noise, padded and in rows, with LibriSpeech's lengths."""
    lengths = np.minimum((draw_frames(rows * BATCHES * 4) + 1) // 2, time_)
    plan = RowPlan(lengths, time=time_, rows=rows, rows_per_batch=rows, processes=1, seed=0)
    form = RowForm(config, time_, plan.most)
    random = torch.Generator().manual_seed(0)
    pairs = []
    for step in range(BATCHES):
        laid = [[piece.length for piece in row] for row in plan.epoch(0)[step][0].rows]
        whole = (
            torch.zeros(rows, time_, config.feat_emb_dim),
            torch.zeros(rows, time_, dtype=torch.long),
            torch.zeros(rows, time_, dtype=torch.bool),
        )
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, stretches in enumerate(laid):
            at = 0
            for length in stretches:
                part = (
                    torch.randn(length, config.feat_emb_dim, generator=random),
                    torch.randint(config.num_cluster, (length,), generator=random),
                    draw_mask(config, [length], length, random)[0],
                )
                for tensor, some in zip(whole, part, strict=True):
                    tensor[number, at : at + length] = some
                parts.append(part)
                at += length
        parts.sort(key=lambda part: len(part[0]))  # similar lengths into a piece, as the trainer has it
        padded = [
            torch.nn.utils.rnn.pad_sequence(kind, batch_first=True) for kind in zip(*parts, strict=True)
        ]
        sizes = tuple(len(part[0]) for part in parts)
        mask = padded[2]
        pairs.append(
            (
                Batch(*padded, padding_mask(sizes), sizes, int(mask.sum())),
                RowBatch.of(form, *whole, laid),
            )
        )
    return pairs


class Step:
    """A model with its optimizer and batches; calling it trains one step."""

    def __init__(
        self,
        variant: Variant,
        config: MelHuBERTConfig,
        pairs: list[tuple[Batch, RowBatch]],
        device: torch.device,
        pieces: int,
    ):
        torch.manual_seed(0)
        model = MelHuBERT(config).train()
        self.model = (naive(model) if variant.plain else model).to(device)
        self.bf16 = variant.bf16
        self.device = device
        self.batches = [
            [piece.to(device) for piece in (in_rows if variant.rows else padded).split(pieces)]
            for padded, in_rows in pairs
        ]
        settings = {"lr": 1e-4} if not variant.plain else {"lr": 1e-4, "fused": False}
        self.optimizer = build_optimizer(self.model.parameters(), OptimizerSettings("Adam", settings))
        if variant.compiled:
            if device.type == "cuda":
                compile_encoder(self.model, RunnerSettings(compile=True, cuda_graphs=variant.graphs))
            else:
                self.model.encoder.compile(backend="aot_eager")  # a trial; a compiler would take minutes
        self.keep_gradients = variant.graphs
        self.number = 0

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def __call__(self) -> None:
        batches = self.batches[self.number % len(self.batches)]
        self.number += 1
        masked = sum(batch.masked_frames for batch in batches)
        unmasked = sum(batch.unmasked_frames for batch in batches)
        accumulate_gradients(self.model, batches, masked, unmasked, self.autocast)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.keep_gradients)


def measure(
    make: Callable[[int], Step], pairs: list[tuple[Batch, RowBatch]], rounds: int, steps: int
) -> Measured:
    """Measure a variant, in as many pieces as it needs to fit the memory."""
    pieces = 1
    while True:
        try:
            return _measure(make(pieces), pairs, rounds, steps, pieces)
        except torch.cuda.OutOfMemoryError:
            if pieces >= MOST_PIECES:
                raise
        pieces *= 2  # outside of the handler, so that the tensors of the failure are gone
        torch.cuda.empty_cache()


def _measure(
    step: Step, pairs: list[tuple[Batch, RowBatch]], rounds: int, steps: int, pieces: int
) -> Measured:
    device, config = step.device, step.model.config
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2 * len(pairs)):  # compiles, and records graphs
        step()
    times = []
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(device)
        times.append((time.perf_counter() - begin) / steps)
    return Measured(
        statistics.median(times),
        statistics.mean(padded.frames for padded, _ in pairs),
        statistics.mean(training_flops(config, padded.lengths, padded.masked_frames) for padded, _ in pairs),
        torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
        pieces,
    )


def figures_of(found: dict[str, Measured], peak: float) -> list[Figure]:
    """The rows of the table."""

    def note(one: Measured) -> str:
        cut = f", in {one.pieces} pieces for its memory" if one.pieces > 1 else ""
        memory = "" if one.memory is None else f", {one.memory:.1f} GB"
        return f"{1000 * one.seconds:.1f} ms, {one.frames_per_second:,.0f} frames/s{memory}{cut}"

    def mfu(one: Measured) -> float:
        return 100 * one.flops_per_second / peak

    best = found[MFU]
    figures = [
        Figure(MFU, mfu(best), "%", GOAL, note=f"{note(best)}; peak {peak / 1e12:.3g} TFLOP/s"),
        Figure(SPEED, best.frames_per_second, "frames/s"),
    ]
    for name in (GRAPHS, UNCOMPILED, PADDED):
        if name in found:
            figures.append(Figure(name, mfu(found[name]), "%", note=note(found[name])))
    for name, limit in ((EAGER, TIMES), (PUBLISHED, None)):
        one = found[name]
        times = best.frames_per_second / one.frames_per_second
        figures.append(Figure(name, times, "x", limit, note=f"{note(one)}, MFU {mfu(one):.1f} %"))
    return [*figures, Figure(MEMORY, best.memory, "GB")]


def not_measured() -> list[Figure]:
    """The rows of a machine without a GPU."""
    units = {GRAPHS: "%", UNCOMPILED: "%", PADDED: "%"}
    return [
        Figure(MFU, None, "%", GOAL),
        Figure(SPEED, None, "frames/s"),
        *[Figure(name, None, unit) for name, unit in units.items()],
        Figure(EAGER, None, "x", TIMES),
        Figure(PUBLISHED, None, "x"),
        Figure(MEMORY, None, "GB"),
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --small (cuda)")
    arguments.add_argument("--small", action="store_true", help="a tiny model; the results are not saved")
    arguments.add_argument(
        "--profile", action="store_true", help="tell what the fastest variant loses time to"
    )
    args = arguments.parse_args()
    device = torch.device(args.device)
    if device.type != "cuda" and not args.small:
        arguments.error(f"--device {args.device}: the figures are those of a GPU; add --small for a trial")
    if device.type == "cuda" and not torch.cuda.is_available():
        if (RESULTS / "gpu_training.json").is_file() and not args.small:
            print("  no GPU here; the results stay as they are")
        else:
            save("gpu_training", not_measured())
        return

    config = MelHuBERTConfig(**SMALL) if args.small else MelHuBERTConfig()
    rows, frames = (SMALL_ROWS, SMALL_FRAMES) if args.small else (ROWS, FRAMES)
    rounds, steps = (1, 2) if args.small else (args.rounds, STEPS)
    print(f"  attention in rows by {attention_in_words(device)}", flush=True)
    peak = measure_peak(device, "bf16")
    pairs = pairs_of_batches(config, rows, frames)
    found: dict[str, Measured] = {}
    for name, variant in VARIANTS.items():
        if variant.graphs and device.type != "cuda":
            continue  # there are none
        torch._dynamo.reset()
        found[name] = measure(
            lambda pieces, v=variant: Step(v, config, pairs, device, pieces), pairs, rounds, steps
        )
        one = found[name]
        print(
            f"  {variant.name}: {1000 * one.seconds:.1f} ms a step, {one.frames_per_second:,.0f} frames/s",
            flush=True,
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
    figures = figures_of(found, peak)
    if args.small:
        figures = [replace(figure, limit=None) for figure in figures]
        print(f"a trial on {device}, which says nothing of a GPU's speed:\n{table(figures)}")
    else:
        save("gpu_training", figures)
    if args.profile:
        torch._dynamo.reset()
        print(losses(Step(BEST, config, pairs, device, 1), config, [p for p, _ in pairs], peak, device))


if __name__ == "__main__":
    main()
