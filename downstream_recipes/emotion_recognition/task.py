"""SUPERB's emotion recognition: s3prl's `emotion`, in five folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.emotion_recognition.iemocap import (
    CLASSES,
    SESSIONS,
    EmotionUtterance,
    check_iemocap,
    write_fold,
    write_silence,
)
from s3prl_melhubert.downstream_recipes.outputs import Classes, Labels
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile, one_of
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Part,
    Preparation,
    Task,
    TaskOptions,
)
from s3prl_melhubert.support.files import full_path

IEMOCAP = Argument("iemocap", "DIR", "holds Session1 to Session5", example="IEMOCAP", required=True)
SIZES = {"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031, "Session5": 1241}
META_DATA = "meta_data"


@dataclass(frozen=True, kw_only=True)
class EmotionCorpus(CheckedCorpus):
    """IEMOCAP, checked; the whole one, or as one fold sees it."""

    sessions: Mapping[int, list[EmotionUtterance]]
    folds: tuple[int, ...] = SESSIONS  # that are to be run on it


def check(options: TaskOptions) -> EmotionCorpus:
    """Check every utterance of IEMOCAP that is of one of the four classes.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = Problems()
    root = options.needed(IEMOCAP.name)
    sessions = check_iemocap(root, problems)
    problems.raise_if_any(f"IEMOCAP in {root}")
    by_name = {f"Session{number}": utterances for number, utterances in sessions.items()}
    return EmotionCorpus(
        path=full_path(root),
        summary=summary(by_name),
        test_utterances=[each.prediction_name for utterances in by_name.values() for each in utterances],
        differences=size_differences(by_name, SIZES),
        content=content_of(root, by_name),
        sessions=sessions,
    )


def of_fold(fold: int) -> Callable[[EmotionCorpus], EmotionCorpus]:
    """Return what takes the corpus of one fold out of the whole one."""

    def take(corpus: EmotionCorpus) -> EmotionCorpus:
        names = [each.prediction_name for each in corpus.sessions[fold]]
        summary = [f"fold{fold}: tested on the {len(names)} utterances of Session{fold}"]
        return replace(corpus, folds=(fold,), summary=summary, test_utterances=names)

    return take


def fill_in(settings: dict[str, Any], preparation: Preparation[EmotionCorpus]) -> None:
    """Write s3prl's lists of the folds; set the paths of the corpus and of the lists."""
    section = settings["downstream_expert"]["datarc"]
    section["num_workers"] = preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        return
    folder = preparation.folder / META_DATA
    for fold in corpus.folds:
        write_fold(folder, corpus.sessions, fold)
    section["root"], section["meta_data"] = corpus.path, str(folder)


EMOTION = LineFormat(f"`UTTERANCE EMOTION` ({', '.join(CLASSES)})", one_of(CLASSES))


def part(fold: int) -> Part[EmotionCorpus]:
    """Describe the fold that is tested on one session."""
    name = f"fold{fold}"
    return Part(
        name=name,
        settings={"downstream_expert.datarc.test_fold": name},
        predictions=(
            PredictionFile(
                f"test_{name}_predict.txt", f"er_{name}_public/predict.txt", EMOTION, in_order=True
            ),
        ),
        corpus=of_fold(fold),
    )


def labels(settings: Mapping[str, Any]) -> Labels:
    """The four classes, in the order of s3prl's outputs."""
    return {"emotion": list(CLASSES)}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write the lists of a fold in which silence is the only utterance: s3prl reads the first one."""
    section = settings["downstream_expert"]["datarc"]
    silence = write_silence(folder)
    for fold in SESSIONS:
        write_fold(folder / META_DATA, {session: [silence] for session in SESSIONS}, fold)
    section["root"], section["meta_data"] = str(folder), str(folder / META_DATA)


TASK = Task(
    key="er",
    name="emotion recognition",
    column=5,
    downstream="emotion",
    folder=Path(__file__).parent,
    arguments=(IEMOCAP,),
    check=check,
    fill_in=fill_in,
    metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(),
    sizes={"test": sum(SIZES.values())},  # each utterance is tested in one fold
    parts=tuple(part(fold) for fold in SESSIONS),
    outputs=Classes(kinds=("emotion",), labels=labels, stand_in=stand_in),
)
