"""What a training step loses its time to, kind by kind: for `python -m benchmarks.gpu_training --profile`.

A kind's loss is the time that it takes beyond what its arithmetic would take at the peak. Kinds without
arithmetic that counts lose all of their time. What the device waits is a loss, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from s3prl_melhubert.config import MelHuBERTConfig, layer_sizes
from s3prl_melhubert.pretrain.training.dataset import Batch
from s3prl_melhubert.pretrain.training.metrics import synchronize, training_flops

STEPS = 5
WAITING = "waiting for the host"
# Parts of a kernel's name (of an operation's on a CPU) -> the kind of work; the first that is found counts.
KINDS = {
    "attention": ("flash", "fmha", "attention", "pytorch_flash"),
    "convolution": ("conv", "wgrad2d", "dgrad2d", "implicit_gemm", "cudnn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "::mm", "::addmm", "::bmm", "linear", "xmma", "_Linear"),
    "optimizer and clipping": ("adam", "multi_tensor", "foreach", "norm_kernel", "lpnorm"),
    "copies": ("memcpy", "memset", "copy", "_to_copy"),
}
OTHER = "elementwise, normalization, dropout, loss"
NAMED = 3  # how many of the largest losses are named
EXAMPLES = 3  # kernels of each


def arithmetic(config: MelHuBERTConfig, batches: Sequence[Batch]) -> dict[str, float]:
    """Multiplications and additions of a step that each kind needs, on average over the batches."""
    width = config.encoder_embed_dim
    inner = sum(heads * head_width for heads, head_width, _ in layer_sizes(config))
    per_frame = 2.0 * width * (width // config.conv_pos_groups) * config.conv_pos
    found: dict[str, float] = {}
    convolution = statistics.mean(3 * batch.frames * per_frame for batch in batches)
    attention = statistics.mean(
        3.0 * sum(4 * length * length * inner for length in batch.lengths) for batch in batches
    )
    total = statistics.mean(training_flops(config, batch.lengths, batch.masked_frames) for batch in batches)
    found["attention"], found["convolution"] = attention, convolution
    found["matrix products"] = total - attention - convolution
    return found


def kind_of(name: str) -> str:
    """The kind of work of a kernel, by its name."""
    lower = name.lower()
    for kind, parts in KINDS.items():
        if any(part.lower() in lower for part in parts):
            return kind
    return OTHER


def losses(
    step: Callable[[], None],
    config: MelHuBERTConfig,
    batches: Sequence[Batch],
    peak: float,
    device: torch.device,
) -> str:
    """Profile a step, and put into words what takes more time than it needs.

    Args:
        step: trains one step.
        config: of the model that it trains.
        batches: what it trains on, in turn.
        peak: multiplications and additions per second of the device.
        device: where it trains.
    """
    on_gpu = device.type == "cuda"
    for _ in range(2 * len(batches)):
        step()
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronize(device)
    whole = 1000 * (time.perf_counter() - begin) / STEPS  # ms, without the profiler
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        synchronize(device)

    spent: dict[str, float] = {}
    kernels: dict[str, list[tuple[float, str]]] = {}
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        milliseconds = microseconds / 1000 / STEPS
        kind = kind_of(event.key)
        spent[kind] = spent.get(kind, 0.0) + milliseconds
        kernels.setdefault(kind, []).append((milliseconds, event.key))
    if on_gpu:
        spent[WAITING] = max(0.0, whole - sum(spent.values()))
    needed = {kind: 1000 * flops / peak for kind, flops in arithmetic(config, batches).items()}
    order = sorted(spent, key=lambda kind: needed.get(kind, 0.0) - spent[kind])
    lines = [
        f"a step: {whole:.2f} ms; at the peak it would be {sum(needed.values()):.2f} ms",
        "",
        "| kind | ms | at the peak | lost | of the step | largest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in order:
        lost = spent[kind] - needed.get(kind, 0.0)
        largest = sorted(kernels.get(kind, []), reverse=True)[:EXAMPLES]
        names = "; ".join(f"{name[:40]} {milliseconds:.2f}" for milliseconds, name in largest)
        lines.append(
            f"| {kind} | {spent[kind]:.2f} | {needed.get(kind, 0.0):.2f} | {lost:.2f} | "
            f"{100 * lost / whole:.0f} % | {names.replace('|', '/')} |"
        )
    lines += ["", f"the largest losses: {'; '.join(order[:NAMED])}"]
    return "\n".join(lines)
