"""SUPERB's keyword spotting: s3prl's `speech_commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.keyword_spotting.speech_commands import (
    CLASSES,
    TEST_SET,
    check_speech_commands,
    find_test_set,
)
from s3prl_melhubert.downstream_recipes.outputs import Classes, Labels
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile, one_of
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Task,
    TaskOptions,
)
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path

if TYPE_CHECKING:
    from torch import Tensor

SPEECH_COMMANDS = Argument(
    "speech-commands",
    "DIR",
    "Speech Commands v0.01: a folder for each word",
    example="speech_commands_v0.01",
    required=True,
)
TEST_ARGUMENT = Argument("test-set", "DIR", f"its test set (default: {TEST_SET} beside DIR)")
# Of v0.01. Its six recordings of noise are counted in train and in dev, for s3prl draws silence from them.
SIZES = {"train": 51094, "dev": 6804, "test": 3081}


@dataclass(frozen=True, kw_only=True)
class KeywordCorpus(CheckedCorpus):
    """Speech Commands, checked; `path` is the folder of the words."""

    test_path: str
    train_clips: int


def find_rest(options: TaskOptions) -> TaskOptions:
    """Find the test set, where it was not given.

    Raises:
        MelHuBERTError: there is none.
    """
    found = find_test_set(options.needed(SPEECH_COMMANDS.name), options.one(TEST_ARGUMENT.name))
    return options.with_value(TEST_ARGUMENT.name, str(found))


def check(options: TaskOptions) -> KeywordCorpus:
    """Check every file of Speech Commands and of its test set.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = Problems()
    root = options.needed(SPEECH_COMMANDS.name)
    test_root = find_rest(options).needed(TEST_ARGUMENT.name)
    splits = check_speech_commands(root, test_root, problems)
    problems.raise_if_any(f"Speech Commands in {root} and {test_root}")
    return KeywordCorpus(
        path=full_path(root),
        test_path=full_path(test_root),
        train_clips=len(splits["train"]),
        summary=summary(splits),
        test_utterances=[clip.prediction_name for clip in splits["test"]],
        differences=size_differences(splits, SIZES),
        content=content_of([root, test_root], splits),
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[KeywordCorpus]) -> None:
    """Set the paths of the corpus and of its test set.

    Raises:
        MelHuBERTError: there are fewer clips than a batch has; s3prl would wait for its first batch for ever.
    """
    section = settings["downstream_expert"]["datarc"]
    section["num_workers"] = preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        return
    if corpus.train_clips < section["batch_size"]:
        raise MelHuBERTError(
            f"{corpus.path}: {corpus.train_clips} clips for training, a batch has {section['batch_size']}; "
            "give a smaller one, -o config.downstream_expert.datarc.batch_size=N"
        )
    section["speech_commands_root"] = corpus.path
    section["speech_commands_test_root"] = corpus.test_path


def labels(settings: Mapping[str, Any]) -> Labels:
    """The twelve classes, in the order of s3prl's outputs."""
    return {"keyword": CLASSES}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Give both of the corpus' paths a folder without a word."""
    section = settings["downstream_expert"]["datarc"]
    section["speech_commands_root"] = section["speech_commands_test_root"] = str(folder)


def hear(waveform: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Lower the volume of a waveform (n,), as s3prl does with every clip."""
    from s3prl.downstream.speech_commands.dataset import EFFECTS
    from torchaudio.sox_effects import apply_effects_tensor

    return apply_effects_tensor(waveform[None], SAMPLE_RATE, EFFECTS)[0][0]


CLASS = LineFormat(f"`WORD-FILE CLASS` ({', '.join(CLASSES)})", one_of(CLASSES))

TASK = Task(
    key="ks",
    name="keyword spotting",
    column=2,
    downstream="speech_commands",
    folder=Path(__file__).parent,
    arguments=(SPEECH_COMMANDS, TEST_ARGUMENT),
    check=check,
    fill_in=fill_in,
    metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test_predict.txt", "ks_public/predict.txt", CLASS),),
    sizes=SIZES,
    find_rest=find_rest,
    outputs=Classes(kinds=("keyword",), labels=labels, stand_in=stand_in, hear=hear),
)
