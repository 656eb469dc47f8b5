"""What a checkpoint costs a training: `python -m benchmarks.checkpoints`.

The base model with Adam is saved as `melhubert pretrain` does: its state is copied, and written while the
training goes on. Beside it, in turns, the same file written while the training waits. `lost in all` is how
much longer some steps take with a save at their beginning than without one: the copying, and what the writing
takes of the processors and of the memory's bandwidth.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common.figures import THREADS, Figure, parser, save, seconds
from benchmarks.common.steps import adam, train_step
from s3prl_melhubert.checkpoint import save_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.checkpointing import LAST, Checkpoints, Progress
from s3prl_melhubert.pretrain.training.metrics import synchronize

BATCH, FRAMES = 2, 300


class Training:
    """A training whose state can be saved both ways."""

    def __init__(self, device: torch.device, layers: int, folder: Path):
        torch.manual_seed(0)
        self.device, self.folder = device, folder
        self.model = MelHuBERT(MelHuBERTConfig(encoder_layers=layers)).to(device).train()
        self.optimizer = adam(self.model, 1e-4)
        config = self.model.config
        self.features = torch.randn(BATCH, FRAMES, config.feat_emb_dim, device=device)
        self.labels = torch.randint(config.num_cluster, (BATCH, FRAMES), device=device)
        self.mask = self.model.draw_mask([FRAMES] * BATCH, FRAMES).to(device)
        self.checkpoints = Checkpoints(
            folder, stats=None, max_keep=1, steps_per_epoch=1, rest={}, identity={}
        )

    def steps(self, count: int) -> None:
        for _ in range(count):
            train_step(self.model, self.optimizer, self.features, self.labels, self.mask, bf16=False)
        synchronize(self.device)

    def copy(self) -> None:
        """Begin a save; on a GPU, wait as long as the steps after it would."""
        self.checkpoints.save([], self.model, self.optimizer, Progress(step=1))
        synchronize(self.device)

    def write(self) -> None:
        """Save while nothing else goes on, without a copy."""
        rest = {"Optimizer": self.optimizer.state_dict()}
        save_checkpoint(
            self.folder / "waited.ckpt", self.model.config, self.model.state_dict(), None, 1, rest
        )


def measure(device: torch.device, rounds: int, layers: int, folder: Path) -> list[Figure]:
    training = Training(device, layers, folder)
    training.steps(1)
    first = seconds(training.copy)
    training.checkpoints.wait()
    size = (folder / LAST).stat().st_size

    step = seconds(lambda: training.steps(1))
    write = seconds(training.write)
    count = max(1, math.ceil(2 * write / step))
    times: dict[str, list[float]] = {"copy": [], "write": [], "lost": []}
    for number in range(rounds):
        times["write"].append(seconds(training.write))
        alone = seconds(lambda: training.steps(count))
        begin = time.perf_counter()
        training.copy()
        times["copy"].append(time.perf_counter() - begin)
        training.steps(count)
        training.checkpoints.wait()
        times["lost"].append(time.perf_counter() - begin - alone)
        shown = ", ".join(f"{name} {values[-1]:.3g} s" for name, values in times.items())
        print(f"  round {number + 1} of {rounds}: {shown}", flush=True)
    median = {name: statistics.median(values) for name, values in times.items()}
    what = f"a checkpoint of the base model with Adam on the {device.type}"
    return [
        Figure(
            f"{what}: the training stands still",
            median["copy"],
            "s",
            note=f"the first time, when it takes the memory, {first:.2f} s; {size / 1e9:.2f} GB",
        ),
        Figure("the same, if it waited for the disk", median["write"], "s"),
        Figure(
            "the same, lost in all",
            median["lost"],
            "s",
            note=f"{count} steps of {step:.2g} s with a save less as many without",
        ),
    ]


def main() -> None:
    arguments = parser(__doc__, rounds=7)
    arguments.add_argument("--layers", type=int, default=12, help="of the model; the base model has 12")
    arguments.add_argument("--folder", type=Path, help="on whose disk to write; else one for temporary files")
    args = arguments.parse_args()
    torch.set_num_threads(THREADS)
    figures = []
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            figures += measure(torch.device(device), args.rounds, args.layers, Path(temporary))
    if not torch.cuda.is_available():
        figures.append(
            Figure("a checkpoint of the base model on a GPU: the training stands still", None, "s")
        )
    save("checkpoints", figures)


if __name__ == "__main__":
    main()
