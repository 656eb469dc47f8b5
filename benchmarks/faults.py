"""Kills and full disks, and whether the same bytes come of it: `python -m benchmarks.faults`.

Each command is killed by SIGKILL at random moments of its work (`--kills` of them), pretrain every second
time in the middle of writing a checkpoint. It goes on after each kill, and at its end its output is compared
byte for byte with that of a run that was never killed; of checkpoints, the parameters, the optimizer and the
progress are compared as tensors, and of the log everything but times. Then each command gets a disk that is
too small (`--sizes` of them), must say so in one line, and goes on with more room.

"Lost" is what a fault costs: the processor time of all runs until the output was there, those that failed and
workers that outlived them included, less that of a run without a fault, divided by the number of the faults.
It is work that was done again, and the start of a command in a process that has imported everything (a new
one takes seconds for that). A clock on the wall would tell more of what else the machine does.

The speech is that of $MELHUBERT_SPEECH, or synthesized. The table goes to results/faults.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common.audio import write_noise
from benchmarks.common.figures import RESULTS, environment
from benchmarks.common.injection import Content, Job, Row, adopt_orphans, full_disks, kills, run, small_disk
from s3prl_melhubert.audio import find_audio
from s3prl_melhubert.support.files import atomic_path, sha256_of

# What the commands import while they work; the forks should find it imported.
IMPORTED = (
    "matplotlib.pyplot",
    "scipy.fft",
    "sklearn.cluster",
    "tensorboardX",
    "threadpoolctl",
    "torch._dynamo",
    "s3prl_melhubert.conversion",
    "s3prl_melhubert.extraction.files",
    "s3prl_melhubert.pretrain.data.prepare",
    "s3prl_melhubert.pretrain.training.runner",
    "s3prl_melhubert.summary",
)
MODEL = {
    "feat_emb_dim": 80,
    "encoder_layers": 2,
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 128,
    "encoder_attention_heads": 4,
    "num_cluster": 32,
}
SAME = ("step", "epoch", "loss", "masked_accuracy", "unmasked_loss", "learning_rate")  # columns of the log
HEADER = [
    "command",
    "fault",
    "faults",
    "told in one line",
    "continued to the end",
    "same bytes",
    "lost a fault, CPU s (median; most)",
    "a run without faults, CPU s",
]


def files_of(folder: Path) -> Content:
    """A digest of every file, hidden ones too: what a killed process left behind counts as a difference."""
    if folder.is_file():
        return {folder.name: sha256_of(folder)}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def training_of(folder: Path) -> Content:
    """What a run of pretrain left: names, the content of checkpoints, the log without its times."""
    found: Content = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("events."):  # TensorBoard's, one for each start
            continue
        found[path.name] = ""
        if path.suffix == ".ckpt":
            content = torch.load(path, weights_only=False)
            for key in ("model", "Optimizer", "Progress", "Step"):
                found[f"{path.name} {key}"] = digest(content[key])
    with (folder / "log.csv").open() as file:
        found["log.csv"] = str([[row[name] for name in SAME] for row in csv.DictReader(file)])
    return found


def digest(value: Any) -> str:
    """A digest of tensors inside nested mappings and lists."""
    total = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        total.update(f"{value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    elif isinstance(value, Mapping):
        total.update("".join(f"{key}: {digest(item)} " for key, item in value.items()).encode())
    elif isinstance(value, list | tuple):
        total.update(" ".join(map(digest, value)).encode())
    else:
        total.update(repr(value).encode())
    return total.hexdigest()


def speech(folder: Path, files: int) -> Path:
    """A folder of links to so many files of speech."""
    audio = folder / "audio"
    audio.mkdir()
    given = os.environ.get("MELHUBERT_SPEECH")
    if given:
        found = find_audio([given])
        for number, path in enumerate(found[:: max(1, len(found) // files)][:files]):
            (audio / f"{number:04d}{path.suffix}").symlink_to(path.resolve())
    else:
        write_noise(audio, files, length=1.5)
    return audio


def write_settings(folder: Path, steps: int) -> list[str]:
    """The settings of a small model and of a run that saves often, as arguments of pretrain."""
    sections = {
        "runner": {
            "total_steps": steps,
            "gradient_accumulate_steps": 1,
            "log_step": 10,
            "save_step": 5,
            "max_keep": 2,
            "save_minutes": 0,
        },
        "optimizer": {"name": "AdamW", "lr": 1e-3},
        "scheduler": {"name": "cosine", "warmup_steps": 20},
        "datarc": {"train_batch_size": 4, "sequence_length": 60, "max_timestep": 0, "num_workers": 0},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump({"melhubert": MODEL}))
    (folder / "runner.yaml").write_text(yaml.safe_dump(sections))
    return ["-g", str(folder / "model.yaml"), "-c", str(folder / "runner.yaml")]


def make_jobs(folder: Path, files: int, steps: int) -> list[Job]:
    """The commands; those that need a prepared set or a model get one that was made without faults."""
    audio, data, exp = speech(folder, files), folder / "set", folder / "exp"
    settings = write_settings(folder, steps)

    def prepare(jobs: int):
        options = ["--clusters", "32", "--shard-files", "12", "--jobs", str(jobs)]
        return lambda out: ["prepare", "--audio", str(audio), "--out", str(out), *options]

    def pretrain(out: Path) -> list[str]:
        fixed = ["--data", str(data), "--device", "cpu", "--resume"]
        return ["pretrain", *settings, "-n", str(out), *fixed]

    def relabel(out: Path) -> list[str]:
        return [
            *("relabel", "--data", str(data), "--checkpoint", str(exp / "last.ckpt"), "--layer", "2"),
            *("--clusters", "32", "--device", "cpu", "--max-frames", "2000", "--out", str(out)),
        ]

    def extract(out: Path) -> list[str]:
        model = ["-c", str(exp / "last.ckpt"), "--device", "cpu", "--max-frames", "2000"]
        return ["extract", str(audio), *model, "--out", str(out)]

    def rewrite(out: Path) -> list[str]:
        return ["convert", str(exp / "last.ckpt"), str(out)]

    for arguments in (prepare(1)(data), pretrain(exp)):
        ended = run(arguments, folder / "log")
        if ended.status:
            sys.exit(f"{arguments[0]} failed without any fault\n{ended.output[-2000:]}")
    return [
        Job("prepare --jobs 1", prepare(1), files_of),
        Job("prepare --jobs 2", prepare(2), files_of),
        Job("pretrain", pretrain, training_of, saving=True),
        Job("relabel", relabel, files_of),
        Job("extract", extract, files_of),
        Job("convert", rewrite, files_of),
    ]


def cells(row: Row) -> list[str]:
    """The texts of a row, in the order of `HEADER`."""
    lost = f"{statistics.median(row.lost):.2f}; {max(row.lost):.2f}" if row.lost else ""
    told = "" if row.told is None else f"{row.told} of {row.faults}"
    same = f"{row.same} of {row.finished}"
    return [
        f"`{row.job}`",
        row.fault,
        str(row.faults),
        told,
        str(row.finished),
        same,
        lost,
        f"{row.whole:.2f}",
    ]


def table(rows: list[Row]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "commands", nargs="*", metavar="COMMAND", help="only these (prepare, relabel, ...)"
    )
    arguments.add_argument("--kills", type=int, metavar="N", help="of each command (20; with --quick, 3)")
    arguments.add_argument("--sizes", type=int, metavar="N", help="of full disks (10; with --quick, 2)")
    arguments.add_argument("--seed", type=int, default=0, help="of the moments and sizes (0)")
    arguments.add_argument("--quick", action="store_true", help="few faults, little speech")
    arguments.add_argument("--markdown", type=Path, default=RESULTS / "faults.md", metavar="FILE")
    args = arguments.parse_args()
    count = (3 if args.quick else 20) if args.kills is None else args.kills
    sizes = (2 if args.quick else 10) if args.sizes is None else args.sizes
    for name in IMPORTED:
        import_module(name)
    adopt_orphans()
    moments = random.Random(args.seed)
    rows: list[Row] = []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        jobs = make_jobs(folder, 40 if args.quick else 160, 40 if args.quick else 120)
        if args.commands:
            jobs = [job for job in jobs if job.name.split()[0] in args.commands]
        place, log = folder / "place", folder / "log"
        place.mkdir()

        def note(row: Row) -> None:
            rows.append(row)
            print("  " + " | ".join(cells(row)), *row.notes, sep="\n    ", flush=True)

        for job in jobs:
            if count and job.name != "convert":  # It is over in a moment.
                note(kills(job, place, log, count, moments))
        with small_disk(folder / "disk") as disk:
            for job in jobs:
                if sizes and job.name != "prepare --jobs 2":
                    note(full_disks(job, disk, log, sizes, moments))
    minutes = (time.perf_counter() - begin) / 60
    named = [f"{name} {value}" for name, value in environment().items() if name != "gpu"]
    source = "digits" if os.environ.get("MELHUBERT_SPEECH") else "synthesized noise"
    text = f"{table(rows)}\n\n{minutes:.0f} minutes, {source}; {'; '.join(named)}.\n"
    args.markdown.parent.mkdir(exist_ok=True)
    with atomic_path(args.markdown) as out:
        out.write_text(text, encoding="utf-8")
    print("\n" + text, flush=True)
    return int(any(row.notes or row.same < row.finished for row in rows))


if __name__ == "__main__":
    sys.exit(main())
