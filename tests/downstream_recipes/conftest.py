"""What tests of several rooms share: small corpora, hummed, and real ones; results without an experiment."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from s3prl_melhubert import downstream_recipes
from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.keyword_spotting.speech_commands import (
    CLASSES,
    KEYWORDS,
    NOISE,
    TEST_SET,
    split_of,
)
from s3prl_melhubert.downstream_recipes.report.results import Result
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

RATE = 16_000
SPLITS = ("train-clean-100", "dev-clean", "test-clean")
SENTENCES = ("THE BOY'S DOG BARKED", "A DOG BARKED", "THE BOY LAUGHED AT THE DOG", "O A BOY", "BARKED")
INTENTS = [
    ("change language", "Chinese", "none"),
    ("activate", "lights", "kitchen"),
    ("deactivate", "lights", "bedroom"),
    ("bring", "shoes", "none"),
]
LEXICON = """\
THE\tDH AH0
A\tAH0
A\tEY1
BOY'S\tB OY1 Z
BOY\tB OY1
DOG\tD AO1 G
BARKED\tB AA1 R K T
LAUGHED\tL AE1 F T
AT\tAE1 T
O\tOW1
"""


def hum(seed: int, samples: int) -> np.ndarray:
    """(n,) samples of a tone with some noise."""
    tone = np.sin(2 * np.pi * (100 + 40 * seed) / RATE * np.arange(samples))
    return (0.3 * tone + np.random.default_rng(seed).normal(0, 0.02, samples)).astype(np.float32)


@pytest.fixture(scope="session")
def write_audio() -> Callable[..., Path]:
    """`write_audio(path, samples=8000, rate=16000, channels=1, seed=0)` makes a file and its folder."""

    def write(path: Path, samples: int = 8000, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = hum(seed, samples)
        soundfile.write(path, wave if channels == 1 else np.stack([wave] * channels, axis=1), rate)
        return path

    return write


@pytest.fixture
def librispeech(tmp_path, write_audio) -> Path:
    """SUPERB's three splits, five utterances each, of 0.25 to 0.75 s, in two chapters of one speaker each."""
    root = tmp_path / "LibriSpeech"
    for s, split in enumerate(SPLITS, 1):
        for i, sentence in enumerate(SENTENCES):
            chapter = root / split / str(10 * s + i % 2) / "7"
            name = f"{chapter.parent.name}-7-{i:04d}"
            write_audio(chapter / f"{name}.flac", samples=4000 + 2000 * i, seed=i)
            with (chapter / f"{chapter.parent.name}-7.trans.txt").open("a") as transcripts:
                transcripts.write(f"{name} {sentence}\n")
    return root


@pytest.fixture
def lexicon_file(tmp_path) -> Path:
    """Pronunciations for every word of `librispeech`; A has two."""
    path = tmp_path / "lexicon.txt"
    path.write_text(LEXICON)
    return path


@pytest.fixture(scope="session")
def write_voxceleb(write_audio) -> Callable[[Path], tuple[Path, Path]]:
    """VoxCeleb1's layout with three speakers of six files each, two of them in dev/, and the split file."""

    def write(folder: Path) -> tuple[Path, Path]:
        root, lines = folder / "VoxCeleb1", []
        for speaker in (10001, 10002, 11251):
            for i in range(6):
                name = f"id{speaker}/video{i % 2}/{i:05d}.wav"
                top = "test" if speaker == 11251 else "dev"
                write_audio(root / top / "wav" / name, samples=4000 + 500 * i, seed=speaker % 7)
                lines.append(f"{1 + max(0, i - 3)} {name}\n")
        split_file = root / "iden_split.txt"
        split_file.write_text("".join(lines))
        return root, split_file

    return write


@pytest.fixture
def voxceleb(tmp_path, write_voxceleb) -> tuple[Path, Path]:
    """VoxCeleb1 of three speakers, and its split file."""
    return write_voxceleb(tmp_path)


@pytest.fixture
def speech_commands(tmp_path, write_audio) -> Path:
    """Of each keyword and another word three clips for training, one for dev, one unused; noise; tests."""
    root = tmp_path / "speech_commands_v0.01"
    wanted = {"train": 3, "dev": 1, "unused": 1}
    for seed, word in enumerate((*KEYWORDS, "bed")):
        for split, number in wanted.items():
            for _, name in zip(range(number), _clip_names(split), strict=False):
                write_audio(root / word / name, samples=8000, seed=seed)
    write_audio(root / NOISE / "pink_noise.wav", samples=20000)
    listed = [f"bed/{next(_clip_names('dev'))}\n"]
    (root / "validation_list.txt").write_text("".join(listed))
    for seed, word in enumerate(CLASSES):
        write_audio(root.parent / TEST_SET / word / f"{seed}_nohash_0.wav", samples=8000, seed=seed)
    return root


def _clip_names(split: str) -> Iterator[str]:
    """Names of clips whose speakers are in the split."""
    return (name for n in count() if split_of(name := f"{n:08x}_nohash_0.wav") == split)


@pytest.fixture
def fluent_commands(tmp_path, write_audio) -> Path:
    """Four intents: three commands of each for training, one for valid, one for test, by two speakers."""
    root = tmp_path / "fluent_speech_commands_dataset"
    (root / "data").mkdir(parents=True)
    for table, number in (("train", 3), ("valid", 1), ("test", 1)):
        with (root / "data" / f"{table}_data.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["", "path", "speakerId", "transcription", "action", "object", "location"])
            for i in range(number * len(INTENTS)):
                path = f"wavs/speakers/s{i % 2}/{table}-{i}.wav"
                write_audio(root / path, samples=4000 + 500 * (i % 4), seed=i % 4)
                rows.writerow([i, path, f"s{i % 2}", "Please, do", *INTENTS[i % 4]])
    return root


@pytest.fixture(scope="session")
def spoken_librispeech(speech) -> Path:
    """The real digits in LibriSpeech's layout."""
    return speech / "digits/LibriSpeech"


@pytest.fixture(scope="session")
def spoken_voxceleb(tmp_path_factory, speech) -> tuple[Path, Path]:
    """The real digits in VoxCeleb1's layout; copies of the folder may hold its links as files of one line."""
    source, corpus = speech / "digits/VoxCeleb1", tmp_path_factory.mktemp("digits") / "VoxCeleb1"
    for entry in (source / "dev/wav").glob("id*/*"):
        link = corpus / entry.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((entry.parent / entry.read_text().strip()).resolve() if entry.is_file() else entry)
    return corpus, speech / "digits/iden_split.txt"


@pytest.fixture(scope="session")
def result() -> Callable[..., Result]:
    """`result(task, value, upstream="fbank", checkpoint=None, **changes)`, of SUPERB's settings otherwise."""

    def make(
        task: str, value: float, upstream: str = "fbank", checkpoint: str | None = None, **changes
    ) -> Result:
        base = Result(
            task=task,
            metric=all_tasks()[task].metric.name,
            value=value,
            dev=None,
            test_split="test",
            upstream=upstream,
            checkpoint=checkpoint,
            checkpoint_sha256=None,
            upstream_config=None,
            learning_rate=1e-3,
            differences=[],
            search=[],
            layer_weights=[],
            tested_checkpoint="dev-best.ckpt",
            predictions="test-hyp.ark",
            test_utterances=2620,
            corpus="corpus",
            lexicon=None,
            hours={"train": 1.0, "test": 0.1},
            steps=100,
            device="cpu",
            versions={},
            created="2025-01-01T00:00:00+00:00",
        )
        return replace(base, **changes)

    return make


@pytest.fixture
def corpus(librispeech, lexicon_file, voxceleb) -> dict[str, list[str]]:
    """The arguments that name each task's corpus."""
    return {
        "pr": ["--librispeech", str(librispeech), "--lexicon", str(lexicon_file)],
        "sid": ["--voxceleb", str(voxceleb[0])],
        "asr": ["--librispeech", str(librispeech)],
    }


@pytest.fixture
def upstream(tmp_path, reference) -> list[str]:
    """Arguments of a tiny MelHuBERT, whose hidden states are three."""
    (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\n")
    return ["-u", "melhubert_local", "-k", str(reference / "tiny-20ms.ckpt"), "-g", str(tmp_path / "g.yaml")]


@pytest.fixture(scope="session")
def small() -> dict[str, str]:
    """What makes each task's downstream model small, for `-o`."""
    return {
        "pr": "config.downstream_expert.model.project_dim=8",
        "sid": "config.downstream_expert.modelrc.projector_dim=8",
        "asr": "config.downstream_expert.modelrc.RNNs.dim=[8,8]",
        "asv": "config.downstream_expert.modelrc.input_dim=8,,"
        "config.downstream_expert.modelrc.module_config.XVector.agg_dim=8,,"
        "config.runner.gradient_accumulate_steps=1",
    }


@pytest.fixture(scope="session")
def short() -> Callable[..., list[str]]:
    """`short(steps=2)`: the arguments of a run of seconds."""

    def arguments(steps: int = 2) -> list[str]:
        return ["--device", "cpu", "--workers", "0", "--steps", str(steps)]

    return arguments


@pytest.fixture
def add_task(tmp_path, monkeypatch) -> Iterator[Callable[[str, str, str], None]]:
    """`add_task(name, task_py, superb_yaml)` puts a task's folder beside those of the package."""
    place = tmp_path / "tasks"
    added = []

    def add(name: str, task: str, settings: str) -> None:
        folder = place / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "task.py").write_text(task)
        (folder / "superb.yaml").write_text(settings)
        added.append(f"{downstream_recipes.__name__}.{name}")

    monkeypatch.setattr(downstream_recipes, "__path__", [*downstream_recipes.__path__, str(place)])
    yield add
    for name in [name for name in sys.modules if name.startswith(tuple(added))]:
        del sys.modules[name]


@pytest.fixture
def stand_in_for_asteroid(monkeypatch) -> Iterator[list[np.ndarray]]:
    """What s3prl's experts import of asteroid, where it is not installed: every score is the same.

    The list takes the signals that s3prl has scored, (signals, n) of each recording.
    """
    scored = []
    _forget_those_who_know_asteroid()

    def get_metrics(mixture, clean, estimated, *, metrics_list, **_) -> dict[str, float]:
        scored.append(estimated)
        return {f"{kind}{name}": 2.0 for name in metrics_list for kind in ("", "input_")}

    contents = {"": {}, ".losses": {"PITLossWrapper": object}, ".metrics": {"get_metrics": get_metrics}}
    for name, content in contents.items():
        module = ModuleType(f"asteroid{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield scored
    _forget_those_who_know_asteroid()


def _forget_those_who_know_asteroid() -> None:
    """Have s3prl's modules imported anew that took names from asteroid, or from what stands in for it."""
    for name in [name for name in sys.modules if name.startswith("s3prl.downstream.") and "_stft" in name]:
        del sys.modules[name]


@pytest.fixture
def run_in_checkout(run_python, capsys, s3prl_checkout, tmp_path) -> Callable[..., Path]:
    """Train and test with `run_downstream.py -c $(melhubert superb config TASK ...)`; return its folder."""

    def run(task: str, downstream: str, split: str, corpus: list[str], changed: str) -> Path:
        assert main(["superb", "config", task, *corpus, "--workers", "0", "--out", str(tmp_path / "c")]) == 0
        config = capsys.readouterr().out.strip()
        steps = [f"config.runner.{name}=2" for name in ("total_steps", "eval_step", "save_step")]
        experiment = tmp_path / "EXP"
        start = ["-u", "fbank", "-d", downstream, "-c", config, "-p", experiment]
        for arguments in (
            ["-m", "train", *start, "-o", ",,".join([*steps, changed])],
            ["-m", "evaluate", "-t", split, "-e", experiment],
        ):
            command = ["run_downstream.py", *arguments, "--device", "cpu"]
            done = run_python(*command, cwd=s3prl_checkout, PYTHONPATH=str(s3prl_checkout.parent))
            assert done.returncode == 0, done.stderr[-3000:]
        return experiment

    return run


@pytest.fixture
def run_task(tmp_path, capsys, short) -> Callable[..., tuple[Path, str]]:
    """`run_task(task, corpus, changed="", steps=2)` on log-Mel: the experiment, and what was printed."""

    def run(task: str, corpus: list[str], changed: str = "", steps: int = 2) -> tuple[Path, str]:
        experiment = tmp_path / "exp" / task
        command = ["superb", task, *corpus, "-u", "fbank", "-p", str(experiment), *short(steps)]
        assert main([*command, *(["-o", changed] if changed else [])]) == 0
        return experiment, capsys.readouterr().out

    return run


@pytest.fixture
def report_and_submit(tmp_path, capsys, recwarn) -> Callable[..., tuple[str, Path]]:
    """`report_and_submit(task, experiment)`: the report's table, and the folder `predict` of a submission."""

    def both(task: str, experiment: Path) -> tuple[str, Path]:
        assert main(["superb", "report", str(experiment), "--out", str(tmp_path / "report")]) == 0
        shown = capsys.readouterr().out
        assert main(["superb", "submit", f"--{task}", str(experiment), "--out", str(tmp_path / "out")]) == 0
        return shown, tmp_path / "out/predict"

    return both


@pytest.fixture
def predicted(tmp_path, capsys) -> Callable[..., dict[str, dict]]:
    """`predicted(experiment, corpus, files, *more)`: the JSON of each file by its stem, without the corpus.

    The corpus is moved away, and `files` is a pattern in it.
    """

    def predict(experiment: Path, corpus: Path, files: str, *more: str) -> dict[str, dict]:
        moved = corpus.rename(tmp_path / "moved")
        found = sorted(map(str, moved.glob(files)))
        capsys.readouterr()
        command = ["superb", "predict", str(experiment), *found, "--json", "--device", "cpu", *more]
        assert main(command) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        moved.rename(corpus)
        assert [row["file"] for row in rows] == found
        return {Path(row.pop("file")).stem: row for row in rows}

    return predict
