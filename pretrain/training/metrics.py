"""What a run tells of itself: log.csv, TensorBoard, lines on the terminal, curves.png, and its speed."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.config import MelHuBERTConfig, layer_sizes
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.kernels import linear
from s3prl_melhubert.loss import PredictionLoss
from s3prl_melhubert.pretrain.training.checkpointing import way_out
from s3prl_melhubert.support.devices import precision_dtype
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.progress import progress, say

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
    "mfu",  # model FLOPs utilization: the share of what the devices do in a large matrix product
)

PEAK_SECONDS = 0.3

OLD_COLUMNS = {"share_of_peak": "mfu"}  # names that columns had, in the logs of runs that go on


def log_columns(loss: PredictionLoss, prefix: str = "") -> dict[str, float]:
    """A loss as columns of the log; a kind of frames that it has none of leaves its columns out."""
    means = loss.means()
    if "masked_loss" in means:
        means["loss"] = means.pop("masked_loss")
    return {f"{prefix}{name}": value for name, value in means.items() if f"{prefix}{name}" in COLUMNS}


class Log:
    """Writes log.csv, TensorBoard's files and the terminal's lines, in one process of several.

    Args:
        folder: the experiment's folder.
        total_steps: the steps of the whole run.
        step: where the run starts; lines of later steps, from before an interruption, are dropped.
        enabled: whether this is the process that writes.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, enabled: bool):
        self.path = folder / LOG
        self.enabled = enabled
        self.bar = progress(total_steps, "pretrain", "steps", initial=step, enabled=enabled)
        if not enabled:
            return
        from tensorboardX import SummaryWriter

        from s3prl_melhubert.support.tensorboard.event_files import faults_told

        rows, damaged = read_log(self.path)
        if damaged:
            say(f"{self.path}: {damaged} damaged or unfinished lines are left out")
        kept = [row for row in rows if int(row["step"]) <= step]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        # From step 1, too: a run that was killed before its first checkpoint has written steps that are lost.
        with faults_told():
            self.tensorboard = SummaryWriter(str(folder), purge_step=step + 1)
        self.total_steps = total_steps

    def write(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Add a line to the log; columns of which `figures` has no value stay empty."""
        if not self.enabled:
            return
        row = {"step": step, "epoch": epoch, **{name: f"{value:.8g}" for name, value in figures.items()}}
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            for name, value in figures.items():
                group = "valid" if name.startswith("valid_") else "train"
                self.tensorboard.add_scalar(f"{group}/{name.removeprefix('valid_')}", value, global_step=step)
            self.tensorboard.flush()
        except OSError as error:
            raise MelHuBERTError(
                f"{self.path}: the line of step {step} cannot be written ({error.strerror or error}); "
                f"{way_out(self.path.parent, 'the checkpoints')}"
            ) from None
        self.say(f"step {step}/{self.total_steps}, epoch {epoch}: {_in_words(figures)}")

    def advance(self, figures: Mapping[str, Any]) -> None:
        """Count a step, and show figures beside the progress."""
        self.bar.update()
        self.bar.set_postfix(figures, refresh=False)

    def say(self, line: str) -> None:
        """Print a line on the terminal."""
        if self.enabled:
            say(line)

    def close(self) -> None:
        self.bar.close()
        if self.enabled:
            # What was written is flushed. Where the disk is full, `write` has said so, in better words.
            with suppress(OSError):
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
        "mfu": "MFU {:.0%}",
    }
    words = [form.format(figures[name]) for name, form in forms.items() if name in figures]
    if figures.get("skipped_steps"):
        words.append(f"{figures['skipped_steps']:.0f} steps skipped")
    return ", ".join(words)


def read_log(path: Path) -> tuple[list[dict[str, str]], int]:
    """The whole lines of a log.csv, by today's names of the columns, and the number of all others.

    A process that was killed may have left half a line, and a loss of power anything.
    """
    if not path.is_file():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [OLD_COLUMNS.get(name, name) for name in lines[0].split(",")] if lines else []
    split = (line.split(",") for line in lines[1:])
    rows = [dict(zip(names, values, strict=True)) for values in split if len(values) == len(names)]
    rows = [row for row in rows if row.get("step", "").isdecimal() and all(map(_is_figure, row.values()))]
    return rows, max(0, len(lines) - 1 - len(rows))


def _is_figure(text: str) -> bool:
    """Whether a cell of the log is a number, or empty as where a column has no value."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def draw_curves(folder: Path) -> None:
    """Draw loss, accuracy, learning rate and gradient norm over the steps, from log.csv into curves.png.

    A training that has come to its end does not fail by its picture, whatever hinders that.
    """
    try:
        _draw_curves(folder)
    except Exception as error:
        say(f"{folder / CURVES}: not drawn ({' '.join(str(error).split())})")


def _draw_curves(folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, _ = read_log(folder / LOG)
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
    """Frames per second, and the model FLOPs utilization (MFU).

    Args:
        config: the model's settings.
        peak: multiplications and additions per second of all devices together, by `measure_peak`.
    """

    def __init__(self, config: MelHuBERTConfig, peak: float):
        self.config = config
        self.peak = peak
        self.reset()

    def reset(self) -> None:
        """Forget the steps before: a new line of the log begins."""
        self.seconds, self.frames, self.flops = 0.0, 0, 0.0
        self.start()

    def start(self) -> None:
        """Leave out the time since the last step, which a validation or a checkpoint took."""
        self.begin = time.perf_counter()

    def add(self, frames: int, flops: float) -> None:
        """Count a step that has just ended."""
        self.frames += frames
        self.flops += flops
        now = time.perf_counter()
        self.seconds += now - self.begin
        self.begin = now

    def figures(self) -> dict[str, float]:
        """The columns of the log that tell the speed since the last `reset`."""
        seconds = max(1e-9, self.seconds)
        return {
            "frames_per_second": self.frames / seconds,
            "mfu": self.flops / seconds / self.peak,
        }


def training_flops(config: MelHuBERTConfig, lengths: tuple[int, ...], masked_frames: int) -> float:
    """Multiplications and additions that a training step needs for utterances of these lengths.

    They are those of the matrix products and of the convolution, three times for the forward and the
    backward pass. Padding does not count, and neither does what the log costs.
    """
    width, sizes = config.encoder_embed_dim, layer_sizes(config)
    inner = sum(heads * head_width for heads, head_width, _ in sizes)  # of all layers
    weights = 4 * width * inner + 2 * width * sum(layer.rows for layer in sizes)
    weights += width * (width // config.conv_pos_groups) * config.conv_pos
    weights += config.feat_emb_dim * width if config.has_projection else 0
    per_frame = 2 * weights  # a multiplication and an addition
    attention = sum(4 * length * length * inner for length in lengths)
    head = 2 * width * config.num_cluster * masked_frames
    return 3.0 * (sum(lengths) * per_frame + attention + head)


def measure_peak(device: torch.device, precision: str) -> float:
    """Measure the multiplications and additions per second of a large matrix product.

    This takes `PEAK_SECONDS`. Of ten products alone, which a CPU does in a hundredth of a second, all were
    once half as fast as they can be, as other programs ran, too.
    """
    size = 8192 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device).to(precision_dtype(precision))  # zeros would be faster
    multiply = linear if device.type == "cpu" else torch.matmul  # what the model's products go through
    multiply(a, a)  # the first one warms up
    synchronize(device)
    best, begin = math.inf, time.perf_counter()
    end = begin + PEAK_SECONDS
    while begin < end:
        multiply(a, a)
        synchronize(device)
        now = time.perf_counter()
        best, begin = min(best, now - begin), now
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def short_figures(loss: PredictionLoss) -> dict[str, str]:
    """What the progress bar shows of a loss."""
    means = loss.means()
    figures = {"loss": means.get("masked_loss"), "accuracy": means.get("masked_accuracy")}
    return {name: f"{value:.3f}" for name, value in figures.items() if value is not None}
