"""Four learning rates in one pass against four runs of s3prl: `python -m benchmarks.superb_sweep`.

The base model at 20 ms with new weights, SUPERB's batches of synthesized audio. Every run is a process of its
own. A batch's time is that between two calls of the upstream, with the reading of audio, the training of the
downstream models and their updates; loading, evaluation and the first batch do not count.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.figures import THREADS, Figure, parser, save

RATE = 16_000
RATES = ("0.1", "0.01", "0.001", "0.0001")
SPLITS = ("train-clean-100", "dev-clean", "test-clean")
WORDS = ("THE", "DOG", "OF", "A", "BOY", "AND", "HIS", "HOUSE")
GOAL = 3.5

# Of each task: s3prl's name, the utterances of SUPERB's batch, batches that a step accumulates.
TASKS = {"sid": ("voxceleb1", 8, 4), "pr": ("ctc", 16, 2), "asr": ("asr", 16, 1)}
BATCHES = 8  # that a run takes
SECONDS = 8.0  # of an utterance


def write_audio(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)


def make_corpora(folder: Path, seconds: float) -> None:
    """Enough utterances for one epoch to hold every batch that is measured."""
    lines = []
    train = 8 * (BATCHES + 1)
    for number in range(train + 2):
        name = f"id{10001 + number % 3}/video/{number:05d}.wav"
        write_audio(folder / "VoxCeleb1/dev/wav" / name, seconds, number)
        lines.append(f"{max(1, number - train + 2)} {name}\n")
    (folder / "VoxCeleb1/test/wav").mkdir(parents=True)
    (folder / "VoxCeleb1/iden_split.txt").write_text("".join(lines))
    for place, split in enumerate(SPLITS, 1):
        chapter = folder / "LibriSpeech" / split / str(place) / "1"
        for number in range(16 * (BATCHES + 1) if split.startswith("train") else 2):
            write_audio(chapter / f"{place}-1-{number:04d}.flac", seconds, number)
        lines = [f"{path.stem} {' '.join(WORDS)}\n" for path in sorted(chapter.glob("*.flac"))]
        (chapter / f"{place}-1.trans.txt").write_text("".join(lines))
    (folder / "lexicon.txt").write_text("".join(f"{word}\tD AO1 G\n" for word in WORDS))


def make_model(folder: Path) -> None:
    from s3prl_melhubert import MelHuBERT
    from s3prl_melhubert.checkpoint import save_checkpoint
    from s3prl_melhubert.statistics import FeatureStats

    torch.manual_seed(0)
    model = MelHuBERT()
    stats = FeatureStats.load("librispeech-960h")
    save_checkpoint(folder / "model.ckpt", model.config, model.state_dict(), stats)


def arguments(folder: Path, task: str, experiment: str, rates: tuple[str, ...]) -> list[str]:
    """The arguments of `melhubert superb TASK`."""
    corpus = {
        "sid": ["--voxceleb", str(folder / "VoxCeleb1")],
        "pr": ["--librispeech", str(folder / "LibriSpeech"), "--lexicon", str(folder / "lexicon.txt")],
        "asr": ["--librispeech", str(folder / "LibriSpeech")],
    }[task]
    steps = BATCHES // TASKS[task][2]
    upstream = ["-u", "melhubert_local", "-k", str(folder / "model.ckpt")]
    run = ["-p", str(folder / experiment), "--device", "cpu", "--workers", "0", "--steps", str(steps)]
    late = "config.runner.eval_step=999,,config.runner.save_step=999"
    return ["superb", task, *corpus, *upstream, *run, "--lr", ",".join(rates), "-o", late, "--stage", "train"]


def measure(folder: Path, task: str, who: str, rates: tuple[str, ...]) -> dict[str, float]:
    """Train in this process; seconds of a batch and of the upstream in it, and the most memory in GB."""
    from s3prl_melhubert.cli import main as melhubert
    from s3prl_melhubert.upstream_expert.expert import UpstreamExpert

    torch.set_num_threads(THREADS)
    calls: list[tuple[float, float]] = []
    forward = UpstreamExpert.forward

    def timed(self: UpstreamExpert, wavs: Any) -> dict[str, Any]:
        begin = time.perf_counter()
        states = forward(self, wavs)
        if len(wavs) > 1:  # one is s3prl's question for the number of layers
            calls.append((begin, time.perf_counter() - begin))
        return states

    UpstreamExpert.forward = timed  # type: ignore[method-assign]
    if who == "one pass":
        assert melhubert(arguments(folder, task, f"{task}-ours", rates)) == 0
    else:
        import s3prl.downstream.voxceleb1.dataset as voxceleb1

        voxceleb1.CACHE_PATH = str(folder / "cache/")
        config = folder / f"{task}-ours/lr-{float(rates[0]):g}/config.yaml"
        start = ["-m", "train", "-u", "melhubert_local", "-k", str(folder / "model.ckpt"), "--device", "cpu"]
        place = ["-d", TASKS[task][0], "-c", str(config), "-p", str(folder / f"{task}-{rates[0]}")]
        sys.argv = ["run_downstream.py", *start, *place]
        runpy.run_module("s3prl.run_downstream", run_name="__main__")
    starts = [begin for begin, _ in calls]
    return {
        "batch": (starts[-1] - starts[1]) / (len(starts) - 2),
        "upstream": statistics.mean(seconds for _, seconds in calls[1:-1]),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def in_a_process(folder: Path, task: str, who: str, rates: tuple[str, ...]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.superb_sweep", "--child", str(folder), task, who, *rates]
    # Waiting threads that spin would measure whatever else the machine does.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {task}, {who}, {', '.join(rates)}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()),
        flush=True,
    )
    return found


def figures(
    task: str, seconds: float, ours: dict[str, float], theirs: list[dict[str, float]]
) -> list[Figure]:
    batch, upstream = ours["batch"], ours["upstream"]
    alone = sum(each["batch"] for each in theirs)
    size = TASKS[task][1]
    what = f"superb {task}, {len(RATES)} learning rates in one pass, times as fast as one after the other"
    note = (
        f"{batch:.2f} s a batch of {size} x {seconds:g} s, {alone:.2f} s in {len(theirs)} runs of s3prl; the "
        f"upstream takes {upstream:.2f} s, each rate {(batch - upstream) / len(RATES):.2f} s"
    )
    memory = max(each["memory"] for each in theirs)
    return [
        Figure(what, alone / batch, "x", GOAL if task == "sid" else None, note=note),
        Figure("the same, peak memory", ours["memory"], "GB", note=f"s3prl with one: {memory:.2f} GB"),
    ]


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of an utterance ({SECONDS:g})")
    made.add_argument("--child", nargs="+", help="for the program itself")
    args = made.parse_args()
    if args.child:
        folder, task, who, *rates = args.child
        print(json.dumps(measure(Path(folder), task, who, tuple(rates))))
        return
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpora(folder, args.seconds)
        make_model(folder)
        for task in args.tasks:
            ours = in_a_process(folder, task, "one pass", RATES)
            theirs = [in_a_process(folder, task, "s3prl", (rate,)) for rate in RATES]
            found += figures(task, args.seconds, ours, theirs)
    save("superb_sweep", found)


if __name__ == "__main__":
    main()
