"""SUPERB's intent classification: s3prl's `fluent_commands`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.intent_classification.fluent_commands import (
    SLOTS,
    check_fluent_commands,
    trained_values,
    write_tables,
)
from s3prl_melhubert.downstream_recipes.outputs import Classes, Labels
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    CheckedCorpus,
    Metric,
    Preparation,
    Task,
    TaskOptions,
)
from s3prl_melhubert.support.files import full_path

FLUENT_COMMANDS = Argument(
    "fluent-commands",
    "DIR",
    "Fluent Speech Commands: holds data/ and wavs/",
    example="fluent_speech_commands_dataset",
    required=True,
)
SIZES = {"train": 23132, "valid": 3118, "test": 3793}


def check(options: TaskOptions) -> CheckedCorpus:
    """Check the tables of Fluent Speech Commands and every file in them.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = Problems()
    root = options.needed(FLUENT_COMMANDS.name)
    splits = check_fluent_commands(root, problems)
    problems.raise_if_any(f"Fluent Speech Commands in {root}")
    return CheckedCorpus(
        path=full_path(root),
        summary=summary(splits),
        test_utterances=[command.prediction_name for command in splits["test"]],
        differences=size_differences(splits, SIZES),
        content=content_of(root, splits),
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[CheckedCorpus]) -> None:
    """Set the path of the corpus."""
    section = settings["downstream_expert"]["datarc"]
    section["num_workers"] = preparation.workers
    if preparation.corpus is not None:
        section["file_path"] = preparation.corpus.path


def name_and_slots(line: str) -> tuple[str, list[str]]:
    """Split `NAME,ACTION,OBJECT,LOCATION`."""
    name, *values = line.split(",")
    return name, values


def fault_in_intent(values: Sequence[str]) -> str | None:
    known = len(values) == len(SLOTS) and all(
        value in slot for value, slot in zip(values, SLOTS.values(), strict=True)
    )
    return None if known else repr(",".join(values))


def labels(settings: Mapping[str, Any]) -> Labels:
    """The values of each slot, in the order of s3prl's outputs: that in which the training table has them."""
    return trained_values(settings["downstream_expert"]["datarc"]["file_path"])


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write tables that have each value, of files that are not there."""
    write_tables(folder, labels)
    settings["downstream_expert"]["datarc"]["file_path"] = str(folder)


INTENT = LineFormat("`UTTERANCE,ACTION,OBJECT,LOCATION`", fault_in_intent, name_and_slots)

TASK = Task(
    key="ic",
    name="intent classification",
    column=3,
    downstream="fluent_commands",
    folder=Path(__file__).parent,
    arguments=(FLUENT_COMMANDS,),
    check=check,
    fill_in=fill_in,
    metric=Metric("ACC", higher_is_better=True, printed="acc", scale=100.0),
    test_split="test",
    test_name="test",
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test_predict.csv", "ic_public/predict.csv", INTENT, in_order=True),),
    sizes=SIZES,
    outputs=Classes(kinds=tuple(SLOTS), labels=labels, stand_in=stand_in),
)
