"""What a run tells of itself: sums over frames, log.csv, TensorBoard, the terminal, and a picture."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.kernels import product
from s3prl_melhubert.model import PredictionLoss

LOG = "log.csv"
CURVES = "curves.png"
COLUMNS = (
    "step",
    "epoch",
    "loss",  # mean cross-entropy over masked frames, nats, over the steps since the last line
    "masked_accuracy",
    "unmasked_loss",
    "unmasked_accuracy",
    "valid_loss",
    "valid_masked_accuracy",
    "valid_unmasked_accuracy",
    "learning_rate",
    "gradient_norm",  # mean, before clipping
    "skipped_steps",  # so far
    "frames_per_second",  # without padding, over all processes
    "share_of_peak",  # of the arithmetic that the devices do in a large matrix product
)


Figure = Any  # a Tensor of one number on the device, or a float on the host


@dataclass
class Sums:
    """Sums over frames, which add up exactly over micro-batches, steps and processes."""

    masked_loss: Figure = 0.0  # of the cross-entropy, nats
    masked_correct: Figure = 0.0
    masked_frames: Figure = 0.0
    unmasked_loss: Figure = 0.0
    unmasked_correct: Figure = 0.0
    unmasked_frames: Figure = 0.0

    @classmethod
    def of(cls, prediction: PredictionLoss, detach: bool = True) -> Sums:
        """On the device, so that nobody waits for it; without its gradient, unless that is wanted."""
        values = (getattr(prediction, field.name).float() for field in fields(cls))
        return cls(*(value.detach() if detach else value for value in values))

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> list[Figure]:
        return [getattr(self, field.name) for field in fields(self)]

    def on_host(self) -> Sums:
        """As Python's numbers, in one transfer."""
        return Sums(*torch.stack([torch.as_tensor(value) for value in self.values()]).tolist())

    def means(self, prefix: str = "") -> dict[str, float]:
        """The columns of a line of the log; no frames of a kind, no figures of it."""
        v = [float(value) for value in self.values()]
        means = {}
        if v[2]:
            means[f"{prefix}loss"] = v[0] / v[2]
            means[f"{prefix}masked_accuracy"] = v[1] / v[2]
        if v[5]:
            means[f"{prefix}unmasked_loss"] = v[3] / v[5]
            means[f"{prefix}unmasked_accuracy"] = v[4] / v[5]
        return {name: value for name, value in means.items() if name in COLUMNS}


class Log:
    """log.csv, TensorBoard and the terminal, written by one process only.

    Args:
        folder: the experiment's.
        total_steps: of the run, for the progress bar.
        step: where the run starts; lines of later steps, from before an interruption, are dropped.
        enabled: whether this is the process that writes.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, enabled: bool):
        self.path = folder / LOG
        self.enabled = enabled
        self.bar = tqdm(
            total=total_steps,
            initial=step,
            desc="pretrain",
            unit="step",
            dynamic_ncols=True,
            disable=None if enabled else True,  # None: where nobody watches, lines are enough
        )
        if not enabled:
            return
        from tensorboardX import SummaryWriter

        kept = [row for row in read_log(self.path) if int(row["step"]) <= step]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self.tensorboard = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.total_steps = total_steps

    def write(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Add a line; columns that it does not have stay empty."""
        if not self.enabled:
            return
        row = {"step": step, "epoch": epoch, **{name: f"{value:.8g}" for name, value in figures.items()}}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        for name, value in figures.items():
            group = "valid" if name.startswith("valid_") else "train"
            self.tensorboard.add_scalar(f"{group}/{name.removeprefix('valid_')}", value, global_step=step)
        self.tensorboard.flush()
        self.say(f"step {step}/{self.total_steps}, epoch {epoch}: {_in_words(figures)}")

    def progress(self, figures: Mapping[str, Any]) -> None:
        self.bar.set_postfix(figures, refresh=False)

    def say(self, line: str) -> None:
        if self.enabled:
            tqdm.write(line)

    def close(self) -> None:
        self.bar.close()
        if self.enabled:
            self.tensorboard.close()


def _in_words(figures: Mapping[str, float]) -> str:
    forms = {
        "loss": "loss {:.3f}",
        "masked_accuracy": "accuracy {:.3f} masked",
        "unmasked_accuracy": "{:.3f} unmasked",
        "valid_loss": "validation loss {:.3f}",
        "valid_masked_accuracy": "accuracy {:.3f} masked",
        "valid_unmasked_accuracy": "{:.3f} unmasked",
        "learning_rate": "lr {:.2e}",
        "gradient_norm": "gradient norm {:.2f}",
        "frames_per_second": "{:,.0f} frames/s",
        "share_of_peak": "{:.0%} of peak",
    }
    words = [form.format(figures[name]) for name, form in forms.items() if name in figures]
    if figures.get("skipped_steps"):
        words.append(f"{figures['skipped_steps']:.0f} steps skipped")
    return ", ".join(words)


def read_log(path: Path) -> list[dict[str, str]]:
    """The complete lines of a log.csv; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # A process that was killed may have left half a line.
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]


def draw_curves(folder: Path) -> None:
    """Loss, accuracy, learning rate and gradient norm over the steps, from log.csv into curves.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_log(folder / LOG)
    if not rows:
        return
    panels = {
        "cross-entropy (nats)": ("loss", "unmasked_loss", "valid_loss"),
        "accuracy": (
            "masked_accuracy",
            "unmasked_accuracy",
            "valid_masked_accuracy",
            "valid_unmasked_accuracy",
        ),
        "learning rate": ("learning_rate",),
        "gradient norm": ("gradient_norm",),
    }
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), sharex=True, layout="constrained")
    for axis, (title, columns) in zip(axes.flat, panels.items(), strict=True):
        for column in columns:
            points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
            if points:
                label = "masked_loss" if column == "loss" else column
                axis.plot(
                    *zip(*points, strict=True), label=label.replace("_", " "), marker="." * (len(points) < 30)
                )
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if axis.lines and len(columns) > 1:
            axis.legend()
    for axis in axes[1]:
        axis.set_xlabel("step")
    with atomic_path(folder / CURVES) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


class Speed:
    """Frames per second, and how much of what the devices can do that is.

    Args:
        config: the model's settings.
        peak: multiplications and additions per second of all devices together, `measure_peak`'s.
    """

    def __init__(self, config: MelHuBERTConfig, peak: float):
        self.config = config
        self.peak = peak
        self.reset()

    def reset(self) -> None:
        self.seconds, self.frames, self.flops = 0.0, 0, 0.0
        self.start()

    def start(self) -> None:
        """What happened since the last step (a validation, a checkpoint) is not training."""
        self.begin = time.perf_counter()

    def add(self, frames: int, flops: float) -> None:
        """A step has ended."""
        self.frames += frames
        self.flops += flops
        now = time.perf_counter()
        self.seconds += now - self.begin
        self.begin = now

    def figures(self) -> dict[str, float]:
        seconds = max(1e-9, self.seconds)
        return {
            "frames_per_second": self.frames / seconds,
            "share_of_peak": self.flops / seconds / self.peak,
        }


def training_flops(config: MelHuBERTConfig, lengths: tuple[int, ...], masked_frames: int) -> float:
    """Multiplications and additions that a training step needs for utterances of these lengths.

    Matrix products and the convolution, three times the forward pass; padding, which needs nothing, does
    not count, and nor does what the log costs.
    """
    width, layers = config.encoder_embed_dim, config.encoder_layers
    weights = layers * (4 * width * width + 2 * width * config.encoder_ffn_embed_dim)
    weights += width * (width // config.conv_pos_groups) * config.conv_pos
    weights += config.feat_emb_dim * width if config.has_projection else 0
    per_frame = 2 * weights  # a multiplication and an addition
    attention = sum(4 * layers * length * length * width for length in lengths)
    head = 2 * width * config.num_cluster * masked_frames
    return 3.0 * (sum(lengths) * per_frame + attention + head)


def measure_peak(device: torch.device, precision: str) -> float:
    """Multiplications and additions per second of a large matrix product; takes a fraction of a second."""
    size = 8192 if device.type == "cuda" else 768
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a = torch.randn(size, size, device=device).to(dtype)  # zeros or ones would be faster than data is
    multiply = product if device.type == "cpu" else torch.matmul  # what the model's products go through
    best = math.inf
    for _ in range(10):  # the first warms up; on a CPU, other programs get in the way of some
        synchronize(device)
        begin = time.perf_counter()
        multiply(a, a)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
