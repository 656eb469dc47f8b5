"""The quickstart: the whole path on a small synthesized corpus, on a CPU, in minutes.

Every step but the first is a `melhubert` command that is shown and then run, as its user could: prepare the
audio, pre-train a small model, run three of SUPERB's tasks with log-Mel (`fbank`), with the model before its
training and with the trained one, and report. A run that was killed continues.

    OUT/
      quickstart.yaml     what this folder is
      corpus/             synthesized speech
      settings/           the YAML files of the model and its training
      data/               what `melhubert prepare` made
      models/             untrained/last.ckpt and pretrained/last.ckpt
      superb/             an experiment per upstream and task
      report.md, report.png
      log.txt             what the commands printed
"""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

from s3prl_melhubert import __version__, cli
from s3prl_melhubert.downstream_recipes import espeak
from s3prl_melhubert.downstream_recipes.quickstart.corpus import (
    ABOUT,
    COMMANDS,
    LIBRISPEECH,
    SPLIT_FILE,
    VOXCELEB,
    make_corpus,
)
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, write_text
from s3prl_melhubert.support.made_from import changes
from s3prl_melhubert.support.settings import LARGEST_SMALL_SEED, check_seed, read_yaml_mapping
from s3prl_melhubert.support.writable import check_writable

IDENTITY, LOG = "quickstart.yaml", "log.txt"
SETTINGS = ("model.yaml", "runner.yaml", "untrained.yaml")
# About as many as English has sounds; 100 gave phone error rates between 3.3 points higher and 1.2 lower.
CLUSTERS = 40
NEEDED = 350 * 1024**2  # bytes
UPSTREAMS = {
    "fbank": "log-Mel",
    "untrained": "the untrained model",
    "pretrained": "the pre-trained model",
}

# With so few steps, the score at a constant learning rate depends on the last few batches. The same
# pre-trained model had a PER of 35.0 % on one machine, and 38.5 % on another. A rate that decreases to zero
# gives better scores that vary less.
DECAY = (
    "config.scheduler.name=linear_schedule_with_warmup",
    "config.scheduler.num_warmup_steps=20",
)
EACH_BATCH = "config.runner.gradient_accumulate_steps=1"

# For each task, how long is learned, at which learning rate, and what else differs from SUPERB's settings.
TASK_ARGUMENTS = {
    "pr": ["--steps", "450", "--lr", "2e-2", "-o", ",,".join([EACH_BATCH, *DECAY])],
    "ks": ["--steps", "200", "--lr", "1e-2", "-o", ",,".join(DECAY)],
    "sid": ["--steps", "300", "--lr", "2e-2", "-o", ",,".join([EACH_BATCH, *DECAY])],
}

OWN_DATA = """\
The same with your own data (--help of each tells more):
  melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train
  melhubert pretrain -f 20 --data data/train -n exp/stage1
  melhubert superb pr --librispeech LibriSpeech -u melhubert_local -k exp/stage1/last.ckpt -p exp/superb/pr
  melhubert superb ks --speech-commands speech_commands_v0.01 -u melhubert_local -k exp/stage1/last.ckpt \\
    -p exp/superb/ks
  melhubert superb sid --voxceleb VoxCeleb1 -u melhubert_local -k exp/stage1/last.ckpt -p exp/superb/sid
  melhubert superb report exp/superb --out report"""


@dataclass(frozen=True)
class Step:
    """A command of the path."""

    title: str
    arguments: list[str]  # of `melhubert`
    experiment: Path | None = None  # where `melhubert superb` writes its result


def quickstart(out: Path, seed: int) -> int:
    """Go the whole path in the folder `out`, or the rest of it; return the exit status.

    Raises:
        MelHuBERTError: the seed cannot be one, eSpeak NG is not installed, or the folder is another's.
    """
    check_seed(seed, LARGEST_SMALL_SEED)  # which `melhubert superb` gets, too
    if not espeak.is_installed():
        raise MelHuBERTError(
            "eSpeak NG, which speaks the quickstart's corpus, is not installed: pip install "
            "'s3prl-melhubert[demo]' (in a clone: pip install '.[demo]')"
        )
    begin, out = time.monotonic(), out.expanduser()
    claim(out, seed)
    steps = path(out, seed)
    print(
        f"From audio to a table of SUPERB's tasks, in {out}/: about three minutes on two cores, and twice as "
        "long on older ones",
        flush=True,
    )

    announce(1, len(steps) + 1, "synthesize a corpus: 182 speakers, sentences of 154 words")
    corpus = out / "corpus"
    if not corpus.is_dir():
        make_corpus(corpus, seed)
    print("{utterances} utterances, {hours} h of speech".format(**read_yaml_mapping(corpus / ABOUT)))
    for number, step in enumerate(steps, 2):
        announce(number, len(steps) + 1, step.title)
        status = execute(step, out / LOG)
        if status != 0:
            return status

    folders = [step.experiment for step in steps if step.experiment is not None]
    results = {(folder.parent.name, folder.name): read_result(folder) for folder in folders}
    print(f"\n{out / LOG}: what the experiments printed; {(time.monotonic() - begin) / 60:.1f} minutes\n")
    print("\n".join(in_words(results)))
    print(f"\n{OWN_DATA}")
    return 0


def claim(out: Path, seed: int) -> None:
    """Make the folder and its settings, or find them as they must be to continue.

    Raises:
        MelHuBERTError: the folder holds something else, or was begun with another seed or version.
    """
    identity = {"made by": "melhubert quickstart", "version": __version__, "seed": seed}
    marker = out / IDENTITY
    if marker.is_file():
        for change in changes(read_yaml_mapping(marker), identity):
            raise MelHuBERTError(
                f"{out}: was begun with {change}; continue with that or choose another folder with --out"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MelHuBERTError(
            f"{out}: is not a folder of `melhubert quickstart` (no {IDENTITY}) and not empty; choose another "
            "with --out"
        )
    check_writable(out, NEEDED)
    (out / "settings").mkdir(exist_ok=True)
    for name in SETTINGS:
        with atomic_path(out / "settings" / name) as temporary:
            shutil.copyfile(Path(__file__).parent / name, temporary)
    write_text(marker, yaml.safe_dump(identity, sort_keys=False))


def path(out: Path, seed: int) -> list[Step]:
    """List the commands, in their order."""
    librispeech, voxceleb = out / "corpus" / LIBRISPEECH, out / "corpus" / VOXCELEB
    data, models, seeded = str(out / "data"), out / "models", ["--seed", str(seed)]
    prepare = ["prepare", "--audio", str(librispeech), "--subset", "train-clean-360", "--out", data]
    prepare += ["--clusters", str(CLUSTERS), "--jobs", "1", *seeded]
    steps = [Step("log-Mel features and cluster labels", prepare)]
    for name, title, settings in (
        ("untrained", "the model with its initial weights, to compare", "untrained.yaml"),
        ("pretrained", "pre-train the model", "runner.yaml"),
    ):
        pretrain = ["pretrain", "-f", "20", "-g", str(out / "settings" / "model.yaml")]
        pretrain += ["-c", str(out / "settings" / settings), "--data", data, "-n", str(models / name)]
        steps.append(Step(title, [*pretrain, "--device", "cpu", "--resume", *seeded]))

    corpora = {
        "pr": ["--librispeech", str(librispeech), "--lexicon", str(out / "corpus" / "lexicon.txt")],
        "ks": ["--speech-commands", str(out / "corpus" / COMMANDS)],
        "sid": ["--voxceleb", str(voxceleb), "--split-file", str(voxceleb / SPLIT_FILE)],
    }
    for task, corpus in corpora.items():
        for name, description in UPSTREAMS.items():
            experiment = out / "superb" / name / task
            upstream = ["-u", "fbank"]
            if name != "fbank":
                upstream = ["-u", "melhubert_local", "-k", str(models / name / "last.ckpt")]
            arguments = ["superb", task, *corpus, *upstream, "-p", str(experiment), "--device", "cpu"]
            arguments += ["--workers", "0", "--keep-states", *seeded, *TASK_ARGUMENTS[task]]
            steps.append(Step(f"{all_tasks()[task].name} with {description}", arguments, experiment))
    report = ["superb", "report", *(str(out / "superb" / name) for name in UPSTREAMS), "--out", str(out)]
    steps.append(Step("the report", report))
    return steps


def announce(number: int, of: int, title: str) -> None:
    print(f"\n[{number}/{of}] {title}", flush=True)


def execute(step: Step, log: Path) -> int:
    """Show a command and run it in this process; return its exit status.

    What `melhubert superb TASK` prints goes to the log, all but its result: nine times the same would hide
    what matters.
    """
    print(f"$ {command_line(step.arguments)}", flush=True)
    begin = time.monotonic()
    if step.experiment is None:
        status = cli.main(step.arguments)
    else:
        with log.open("a", encoding="utf-8") as file, redirect_stdout(file):
            status = cli.main(step.arguments)
        if status == 0:
            result = read_result(step.experiment)
            print(f"{result.metric} {result.value:.2f} %, in {time.monotonic() - begin:.0f} s", flush=True)
    return status


def command_line(arguments: Sequence[str], columns: int = 80) -> str:
    """Write a command of `melhubert` as a shell reads it, in several lines where it is long."""
    together: list[list[str]] = [["melhubert"]]  # an option and its values
    for word in arguments:
        if word.startswith("-") or not together[-1][0].startswith("-"):
            together.append([])
        together[-1].append(word)
    lines = ["melhubert"]
    for group in together[1:]:
        *before, last = group
        first, *rest = map(shlex.quote, last.split(",,"))
        first = " ".join([*map(shlex.quote, before), first])
        # The first line stands behind "$ ", and a line that goes on ends in a blank and a backslash.
        if len(lines[-1]) + 1 + len(first) + 2 > columns - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {first}"
        for part in rest:  # of s3prl's -o; a backslash at the end of a line joins the parts of a word, too
            lines[-1] += ",,\\"
            lines.append(part)
    return "\n".join(lines)


def in_words(results: Mapping[tuple[str, str], Result]) -> list[str]:
    """Say in a line for each task whether the pre-trained model is the best of the three, and by how much.

    Args:
        results: by upstream and task.
    """
    lines = []
    for task in TASK_ARGUMENTS:
        here = {name: results[name, task] for name in UPSTREAMS}
        figures = ", ".join(f"{UPSTREAMS[name]} {result.value:.1f} %" for name, result in here.items())
        gain, noise = gain_of(here)
        if noise and abs(gain) <= noise:
            verdict = (
                f"a difference of {gain:+.1f} points to the better of the others is within the noise of "
                f"{here['pretrained'].test_utterances} test utterances ({noise:.1f})"
            )
        elif gain > 0:
            verdict = f"pre-training helps, by {gain:.1f} points over the better of the others"
        else:
            verdict = f"pre-training does not help here: {-gain:.1f} points behind the better of the others"
        lines.append(f"{task.upper()}: {here['pretrained'].metric} of {figures}: {verdict}.")
    return lines


def gain_of(results: Mapping[str, Result]) -> tuple[float, float]:
    """Compare the pre-trained model with the better one of the others.

    Args:
        results: of one task, by upstream.

    Returns:
        By how many points it is better, and how far two accuracies may be apart by chance: two standard
        errors of the difference. The second is 0 for an error rate, whose errors do not come one by one.
    """
    metric = all_tasks()[results["pretrained"].task].metric
    ours = results["pretrained"].value
    others = [result.value for name, result in results.items() if name != "pretrained"]
    rival = others[metric.best(others)]
    if not metric.higher_is_better:
        return rival - ours, 0.0
    share = rival / 100
    return ours - rival, 200 * math.sqrt(2 * share * (1 - share) / results["pretrained"].test_utterances)
