"""Four learning rates in one pass against four runs of s3prl: `python -m benchmarks.superb_sweep`.

The base model at 20 ms with new weights, SUPERB's batches of synthesized audio. Every run is a process of its
own. A batch's time is that between two calls of the upstream, with the reading of audio, the training of the
downstream models and their updates; loading, evaluation and the first batch do not count. Of query by
example, in which nothing is trained, it is the time for all layers of the upstream.

    sid   four rates; one rate; four rates with --precision bf16; s3prl alone with each rate
    pr    four rates; s3prl alone with one, which is counted four times
    asr   the same; s3prl halves SUPERB's batch of 32
    qbe   all 13 layers in one pass; s3prl's pass with one layer, which is counted 13 times
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
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.common.figures import THREADS, Figure, parser, save

RATE = 16_000
RATES = ("0.1", "0.01", "0.001", "0.0001")
SPLITS = ("train-clean-100", "dev-clean", "test-clean")
WORDS = ("THE", "DOG", "OF", "A", "BOY", "AND", "HIS", "HOUSE")
GOALS = {"fp32": 3.5, "bf16": 5.5}  # of SID
LAYERS = 13
QUERIES, DOCUMENTS = 48, 24
# QUESST 2014's English part: seconds of audio of the documents and dev queries, and pairs of them, about.
QUESST_SECONDS, QUESST_PAIRS = 4.5 * 3600, 138 * 2438


@dataclass(frozen=True)
class Sweep:
    """What is measured of a task in which something is trained."""

    downstream: str  # s3prl's name
    size: int  # utterances of SUPERB's batch
    accumulated: int  # batches of a step
    seconds: float  # of an utterance
    alone: int  # rates with which s3prl runs


SWEEPS = {
    "sid": Sweep("voxceleb1", 8, 4, 8.0, len(RATES)),  # VoxCeleb1's mean, and the longest crop
    "pr": Sweep("ctc", 16, 2, 2.0, 1),
    "asr": Sweep("asr", 16, 1, 1.0, 1),
}
BATCHES = 8  # that a run takes
QBE = "qbe"

# -- the corpora -----------------------------------------------------------------------------------------


def write_audio(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)


def make_voxceleb(root: Path, seconds: float, batches: int) -> None:
    """Enough utterances for one epoch to hold every batch that is measured."""
    lines = []
    train = SWEEPS["sid"].size * (batches + 1)
    for number in range(train + 2):
        name = f"id{10001 + number % 3}/video/{number:05d}.wav"
        write_audio(root / "dev/wav" / name, seconds, number)
        lines.append(f"{max(1, number - train + 2)} {name}\n")
    (root / "test/wav").mkdir(parents=True)
    (root / "iden_split.txt").write_text("".join(lines))


def make_librispeech(root: Path, seconds: float, batches: int) -> None:
    for place, split in enumerate(SPLITS, 1):
        chapter = root / split / str(place) / "1"
        for number in range(SWEEPS["pr"].size * (batches + 1) if split.startswith("train") else 2):
            write_audio(chapter / f"{place}-1-{number:04d}.flac", seconds, number)
        lines = [f"{path.stem} {' '.join(WORDS)}\n" for path in sorted(chapter.glob("*.flac"))]
        (chapter / f"{place}-1.trans.txt").write_text("".join(lines))
    (root / "lexicon.txt").write_text("".join(f"{word}\tD AO1 G\n" for word in WORDS))


def make_quesst(root: Path, seconds: float) -> None:
    """Documents, and queries of a fifth of their length; every query is in the first document."""
    scoring = root / "scoring"
    sets = {"utterances": ("Audio", DOCUMENTS, seconds), "dev": ("dev_queries", QUERIES, seconds / 5)}
    sets["eval"] = ("eval_queries", 1, seconds / 5)
    names: dict[str, list[str]] = {}
    for key, (folder, number, length) in sets.items():
        names[key] = [f"quesst14_{key}_{n:04d}" for n in range(number)]
        for seed, name in enumerate(names[key]):
            write_audio(root / folder / f"{name}.wav", length, seed)
        scoring.mkdir(exist_ok=True)
        lines = [f"quesst14Database/{folder}/{name}.wav nnenglish\n" for name in names[key]]
        (scoring / f"language_key_{key}.lst").write_text("".join(lines))
    for key in ("dev", "eval"):
        truth = scoring / f"groundtruth_quesst14_{key}"
        truth.mkdir()
        terms = "".join(f'<term termid="{name}"/>' for name in names[key])
        (truth / "queries.tlist.xml").write_text(f"<termlist>{terms}</termlist>")
        excerpts = "".join(f'<excerpt audio_filename="Audio/{name}.wav"/>' for name in names["utterances"])
        (truth / "documents.ecf.xml").write_text(f"<ecf>{excerpts}</ecf>")
        first = names["utterances"][0]
        lines = [f"LEXEME {first} 1 0.00 1.00 {name} lex S 0.5\n" for name in names[key]]
        (truth / "truth.rttm").write_text("".join(lines))


def make_model(folder: Path) -> None:
    from s3prl_melhubert import MelHuBERT
    from s3prl_melhubert.checkpoint import save_checkpoint
    from s3prl_melhubert.statistics import FeatureStats

    torch.manual_seed(0)
    model = MelHuBERT()
    stats = FeatureStats.load("librispeech-960h")
    save_checkpoint(folder / "model.ckpt", model.config, model.state_dict(), stats)


# -- one run, in a process of its own --------------------------------------------------------------------


def ours(folder: Path, task: str, experiment: str, rates: Sequence[str], precision: str) -> list[str]:
    """The arguments of `melhubert superb TASK`."""
    corpus = {
        "sid": ["--voxceleb", str(folder / "VoxCeleb1")],
        "pr": ["--librispeech", str(folder / "pr"), "--lexicon", str(folder / "pr/lexicon.txt")],
        "asr": ["--librispeech", str(folder / "asr")],
        QBE: ["--quesst", str(folder / "quesst")],
    }[task]
    command = ["superb", task, *corpus, "-u", "melhubert_local", "-k", str(folder / "model.ckpt")]
    command += ["-p", str(folder / experiment), "--device", "cpu", "--stage", "train"]
    if precision != "fp32":
        command += ["--precision", precision]
    if task == QBE:
        return [*command, "--workers", str(THREADS)]
    steps = batches_in(folder) // SWEEPS[task].accumulated
    late = "config.runner.eval_step=999,,config.runner.save_step=999"
    return [*command, "--workers", "0", "--steps", str(steps), "--lr", ",".join(rates), "-o", late]


def theirs(folder: Path, task: str, rate: str) -> list[str]:
    """The arguments of s3prl's program, with the settings that ours has written."""
    start = ["-u", "melhubert_local", "-k", str(folder / "model.ckpt"), "--device", "cpu"]
    start += ["-p", str(folder / f"{task}-alone-{rate}")]
    if task == QBE:
        config = str(folder / "qbe-ours/layer-0/config.yaml")
        return ["-m", "evaluate", "-t", "dev", "-l", rate, "-d", "quesst14_dtw", "-c", config, *start]
    config = str(folder / f"{task}-ours/lr-{float(rate):g}/config.yaml")
    return ["-m", "train", "-d", SWEEPS[task].downstream, "-c", config, *start]


def batches_in(folder: Path) -> int:
    return int((folder / "batches").read_text())


class Clock:
    """Seconds in functions that are replaced by ones that count them."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def on(self, holder: Any, name: str, part: str, counts: Callable[..., bool] = lambda *a: True) -> None:
        function = getattr(holder, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = function(*arguments, **options)
            if counts(*arguments):
                self.calls[part].append((begin, time.perf_counter() - begin))
            return result

        setattr(holder, name, timed)

    def seconds(self, part: str, begin: float = 0.0, end: float = float("inf")) -> float:
        return sum(taken for start, taken in self.calls[part] if begin <= start < end)


def measure(folder: Path, task: str, who: str, precision: str, rates: Sequence[str]) -> dict[str, float]:
    """Do one run in this process; return seconds of its parts, and the most memory in GB."""
    from s3prl_melhubert.cli import main as melhubert
    from s3prl_melhubert.compat import finder
    from s3prl_melhubert.upstream_expert.expert import UpstreamExpert

    finder.install()
    torch.set_num_threads(THREADS)
    clock = Clock()
    # Of one utterance of one second, it is the question for the number of layers.
    clock.on(UpstreamExpert, "forward", "upstream", lambda _, wavs: list(map(len, wavs)) != [RATE])
    if task == QBE:
        import s3prl.downstream.quesst14_dtw.expert as quesst

        clock.on(quesst.DownstreamExpert, "log_records", "alignments")
    if who == "ours":
        from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate

        for name in ("backward", "update"):
            clock.on(Rate, name, "rates")
        experiment = f"{task}-ours" if len(rates) != 1 and precision == "fp32" else f"{task}-{precision}"
        assert melhubert(ours(folder, task, experiment, rates, precision)) == 0
    else:
        import s3prl.downstream.voxceleb1.dataset as voxceleb1

        voxceleb1.CACHE_PATH = str(folder / "cache/")
        arguments = theirs(folder, task, rates[0])
        Path(arguments[arguments.index("-p") + 1]).mkdir()
        sys.argv = ["run_downstream.py", *arguments]
        runpy.run_module("s3prl.run_downstream", run_name="__main__")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if task == QBE:
        parts = {part: clock.seconds(part) for part in ("upstream", "alignments")}
        return {"whole": sum(parts.values()), **parts, "memory": memory}
    starts = [begin for begin, _ in clock.calls["upstream"]]
    first, last, number = starts[1], starts[-1], len(starts) - 2
    parts = {part: clock.seconds(part, first, last) / number for part in ("upstream", "rates")}
    return {"whole": (last - first) / number, **parts, "memory": memory}


def in_a_process(
    folder: Path, task: str, who: str, rates: Sequence[str], precision: str = "fp32"
) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.superb_sweep"]
    command += ["--child", str(folder), task, who, precision, *rates]
    # Waiting threads that spin would measure whatever else the machine does.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    run = f"{task}, {who}, {precision}, {', '.join(rates) or 'all layers'}"
    print(f"  {run}: {shown} ({time.perf_counter() - begin:.0f} s in all)", flush=True)
    return found


# -- the figures -----------------------------------------------------------------------------------------


def sweep_figures(folder: Path, task: str, seconds: float) -> list[Figure]:
    sweep, number = SWEEPS[task], len(RATES)
    together = in_a_process(folder, task, "ours", RATES)
    alone = [in_a_process(folder, task, "s3prl", [rate]) for rate in RATES[: sweep.alone]]
    one = statistics.mean(each["whole"] for each in alone)
    memory = max(each["memory"] for each in alone)
    counted = "" if sweep.alone == number else f", counted as {number} times the one that was run"

    def figure(found: dict[str, float], precision: str) -> Figure:
        whole, upstream = found["whole"], found["upstream"]
        rest = whole - upstream - found["rates"]
        note = (
            f"{whole:.2f} s a batch of {sweep.size} x {seconds:g} s, {number * one:.2f} s in {number} runs "
            f"of s3prl in fp32{counted}; the upstream takes {upstream:.2f} s, each rate "
            f"{found['rates'] / number:.3f} s, the loop, the reading of audio and the data {rest:.3f} s; "
            f"peak memory {found['memory']:.2f} GB, s3prl with one {memory:.2f} GB"
        )
        what = f"superb {task}, {number} learning rates in one pass, {precision}, times as fast as s3prl"
        return Figure(what, number * one / whole, "x", GOALS[precision] if task == "sid" else None, note=note)

    figures = [figure(together, "fp32")]
    if task == "sid":
        single = in_a_process(folder, task, "ours", RATES[:1])
        note = f"{single['whole']:.2f} s a batch, s3prl {one:.2f} s (mean of {len(alone)} runs)"
        figures.append(
            Figure("the same, one rate, as long as s3prl", single["whole"] / one, "x", 1.0, False, note)
        )
        figures.append(figure(in_a_process(folder, task, "ours", RATES, "bf16"), "bf16"))
    elif task == "pr":
        figures[0] = Figure(figures[0].what, figures[0].measured, "x", GOALS["fp32"], note=figures[0].note)
    return figures


def qbe_figures(folder: Path, seconds: float) -> list[Figure]:
    together = in_a_process(folder, QBE, "ours", [])
    alone = in_a_process(folder, QBE, "s3prl", [str(LAYERS - 1)])
    audio = DOCUMENTS * seconds + QUERIES * seconds / 5
    pairs = QUERIES * DOCUMENTS

    def on_quesst(upstream: float, alignments: float) -> float:
        """Hours for 13 layers, from the seconds that all of the audio and one layer's pairs took here."""
        hours = upstream / audio * QUESST_SECONDS + LAYERS * alignments / pairs * QUESST_PAIRS
        return hours / 3600

    mine = on_quesst(together["upstream"], together["alignments"] / LAYERS)
    other = on_quesst(LAYERS * alone["upstream"], alone["alignments"])
    note = (
        f"{QUERIES} queries in {DOCUMENTS} documents of {seconds:g} s: upstream {together['upstream']:.1f} "
        f"s, alignments {together['alignments']:.1f} s; s3prl for one layer {alone['upstream']:.1f} s and "
        f"{alone['alignments']:.1f} s; in {THREADS} processes a pair takes "
        f"{together['alignments'] / LAYERS / pairs * 1e3:.2f} ms, s3prl "
        f"{alone['alignments'] / pairs * 1e3:.2f} ms; so QUESST's dev queries would take {mine:.1f} h, "
        f"s3prl {other:.1f} h; peak memory {together['memory']:.2f} GB, s3prl {alone['memory']:.2f} GB"
    )
    return [
        Figure(
            f"superb qbe, {LAYERS} layers in one pass, times as fast as s3prl",
            LAYERS * alone["whole"] / together["whole"],
            "x",
            note=note,
        )
    ]


def main() -> None:
    made = parser(__doc__, rounds=1)
    tasks = [*SWEEPS, QBE]
    made.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    made.add_argument("--seconds", type=float, help="of an utterance; without it, what the task has")
    made.add_argument("--batches", type=int, default=BATCHES, help=f"that a run takes ({BATCHES})")
    made.add_argument("--child", nargs="+", help="for the program itself")
    args = made.parse_args()
    if args.child:
        folder, task, who, precision, *rates = args.child
        print(json.dumps(measure(Path(folder), task, who, precision, rates)))
        return
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "batches").write_text(str(args.batches))
        make_model(folder)
        for task in args.tasks:
            seconds = args.seconds or (6.0 if task == QBE else SWEEPS[task].seconds)
            if task == QBE:
                make_quesst(folder / "quesst", seconds)
                found += qbe_figures(folder, seconds)
                continue
            if task == "sid":
                make_voxceleb(folder / "VoxCeleb1", seconds, args.batches)
            else:
                make_librispeech(folder / task, seconds, args.batches)
            found += sweep_figures(folder, task, seconds)
    save("superb_sweep", found)


if __name__ == "__main__":
    main()
