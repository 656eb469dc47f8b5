"""Recordings with several signals of the same length: a mixture and its sources, or noisy and clean.

s3prl's speech enhancement and source separation read a list of files for each of these signals:

    SPLIT/SIGNAL/wav.scp    RECORDING PATH

They trust these lists: a signal of another length stops the training when its turn comes, and one that is
missing does, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.task import CheckedCorpus, Metric, Preparation
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, full_path

SUFFIX = ".wav"
BEST = "best-states-dev.ckpt"  # s3prl's name of the best checkpoint
DISK = 3 * 1024**3  # bytes: a model of 51 million parameters with its optimizer, in three checkpoints
FIGURES = ("si_sdr", "stoi", "pesq")  # the lines of s3prl's file, in its order
LISTS = "lists"  # in an experiment's folder
SHORTEST = SAMPLE_RATE // 4  # samples; PESQ is not defined for less

INCOMPLETE = Kind("recordings of which a signal is not there", "fetch, unpack or mix them again")
UNEQUAL = Kind("recordings whose signals have different lengths", "fetch, unpack or mix them again")
TOO_SHORT = Kind("recordings of less than 0.25 s, which PESQ cannot score", "take their files out")
BLANK = Kind("paths with a blank, at which s3prl cuts them", "rename the file or the folder")
EMPTY = Kind("sets without a recording", "fetch, unpack or mix them again")


@dataclass(frozen=True)
class Recording:
    """One recording."""

    name: str  # of its files, without the suffix
    signals: Mapping[str, Path]  # its file of each signal, by s3prl's name of the signal
    samples: int  # of each signal, at 16 kHz


@dataclass(frozen=True, kw_only=True)
class ParallelCorpus(CheckedCorpus):
    """A corpus of such recordings, checked."""

    splits: Mapping[str, Sequence[Recording]]  # train, dev and test


def files_of(folders: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """The WAV files of each signal, by name and sorted by it.

    Args:
        folders: of the signals, by s3prl's names of them.

    Raises:
        MelHuBERTError: a folder is not there or cannot be read.
    """
    found: dict[str, dict[str, Path]] = {}
    for signal, folder in folders.items():
        try:
            # What begins with a dot was left there by a system, such as ._NAME by macOS.
            paths = [each for each in folder.iterdir() if each.suffix == SUFFIX and each.name[0] != "."]
        except OSError as error:
            raise MelHuBERTError(f"{folder}: {error.strerror}, expected a folder of WAV files") from None
        found[signal] = {path.stem: path for path in sorted(paths)}
    return found


def check_recordings(
    split: str, files: Mapping[str, Mapping[str, Path]], problems: Problems
) -> list[Recording]:
    """Check every file of a split; return the recordings without a problem, sorted by name.

    Args:
        split: its name, for reports.
        files: of each signal, by the recordings' names.
        problems: takes what is wrong.
    """
    names = sorted(set().union(*files.values()))
    if not names:
        problems.add(EMPTY, split)
    complete = []
    for name in names:
        absent = [signal for signal, there in files.items() if name not in there]
        if absent:
            problems.add(INCOMPLETE, f"{split}: {name} ({', '.join(absent)})")
        else:
            complete.append(name)
    paths = [files[signal][name] for name in complete for signal in files]
    for path in paths:
        if full_path(path).split() != [full_path(path)]:
            problems.add(BLANK, str(path))
    lengths = check_audio(paths, lambda path: f"{split}: {path.name}", problems, f"check {split}")
    found = []
    for number, name in enumerate(complete):
        of_name = lengths[number * len(files) : (number + 1) * len(files)]
        samples = of_name[0]
        if samples is None or None in of_name:
            continue
        if len(set(of_name)) > 1:
            problems.add(UNEQUAL, f"{split}: {name}")
        elif samples < SHORTEST:
            problems.add(TOO_SHORT, f"{split}: {name}")
        else:
            found.append(Recording(name, {signal: files[signal][name] for signal in files}, samples))
    return found


def checked_corpus(
    root: Path, splits: Mapping[str, Sequence[Recording]], sizes: Mapping[str, int]
) -> ParallelCorpus:
    """The corpus in a folder, of which everything was checked, beside SUPERB's utterances of each split."""
    return ParallelCorpus(
        path=full_path(root),
        summary=summary(splits),
        test_utterances=[each.name for each in splits["test"]],
        differences=size_differences(splits, sizes),
        content=content_of(root, splits),
        splits=splits,
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[ParallelCorpus]) -> None:
    """Write s3prl's lists of the three splits, and set their paths."""
    section = settings["downstream_expert"]["loaderrc"]
    section["num_workers"] = preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        return
    write_lists(preparation.folder / LISTS, corpus.splits)
    for split in corpus.splits:
        section[f"{split}_dir"] = str(preparation.folder / LISTS / split)


def write_lists(folder: Path, splits: Mapping[str, Sequence[Recording]]) -> None:
    """Write s3prl's lists, `SPLIT/SIGNAL/wav.scp`."""
    for split, recordings in splits.items():
        for signal in recordings[0].signals:
            path = folder / split / signal / "wav.scp"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{each.name} {full_path(each.signals[signal])}\n" for each in recordings]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")


def metrics(line: str) -> tuple[Metric, Metric, Metric]:
    """PESQ, STOI and SI-SDRi, which s3prl prints in lines that begin so."""
    return (
        Metric("PESQ", higher_is_better=True, printed="pesq", scale=1.0, line=line, unit=""),
        Metric("STOI", higher_is_better=True, printed="stoi", scale=100.0, line=line),
        Metric("SI-SDRi", higher_is_better=True, printed="si_sdr", scale=1.0, line=line, unit="dB"),
    )


def figures_file(task: str) -> PredictionFile:
    """What s3prl writes of a test, and the leaderboard takes for a task: the figures, not the signals."""
    return PredictionFile(
        "test_metrics.txt",
        f"{task}_public/metrics.txt",
        LineFormat(f"a line with the value of each of {', '.join(FIGURES)}", _fault_in_figures),
        of_utterances=False,
    )


def _fault_in_figures(lines: Sequence[str]) -> str | None:
    fields = [line.split() for line in lines]
    if [each[:1] for each in fields] != [[name] for name in FIGURES] or any(
        len(each) != 2 for each in fields
    ):
        return repr(" ".join(lines)[:60])
    return next((repr(value) for _, value in fields if not _is_number(value)), None)


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)  # and not NaN, which is no score
    except ValueError:
        return False


def check_packages(task: str) -> None:
    """Make sure that what s3prl's experts import of asteroid is there.

    Raises:
        MelHuBERTError: it is not; the message says what to install.
    """
    try:
        import asteroid.losses
        import asteroid.metrics
    except Exception as error:
        raise MelHuBERTError(
            f"{task} needs asteroid, which cannot be imported ({error}): pip install 's3prl-melhubert[se]'"
        ) from None
    del asteroid
