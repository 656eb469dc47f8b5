"""A task's second test, with a language model: when it is left to do, and what the result keeps of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.task import SecondTesting, Task, TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.progress import from_here, say


def asked_for(task: Task[Any], options: TaskOptions) -> SecondTesting | None:
    """What a second test needs; None where the user asked for none.

    Raises:
        MelHuBERTError: one of its files cannot be used.
    """
    return None if task.second_test is None else task.second_test.from_options(options)


def is_left(result: Result, testing: SecondTesting | None) -> bool:
    """Whether a second test is asked for of which the result has no score, or one with other files."""
    if testing is None:
        return False
    found = {**testing.digests, **(result.with_language_model or {})}  # older results have no hashes
    return any(found.get(name) != now for name, now in {**testing.files, **testing.digests}.items())


def carried_over(folder: Path, result: Result, testing: SecondTesting | None) -> Result:
    """Give a new result the second score of the experiment's earlier one, if it is of the same checkpoint.

    Args:
        folder: of the experiment; it holds the earlier result, if there is one.
        result: of testing again.
        testing: what a second test needs that comes next; None where none does, so that what is lost is told.
    """
    try:
        earlier = read_result(folder)
    except MelHuBERTError:  # there is none, or it is damaged, and replaced
        return result
    if earlier.with_language_model is None:
        return result
    if (earlier.tested_checkpoint, earlier.value) == (result.tested_checkpoint, result.value):
        return replace(result, with_language_model=earlier.with_language_model)
    if testing is None:
        say(
            f"{from_here(folder)}: the score with a language model was of another test, and is left out; for "
            "a new one, give the language model"
        )
    return result


def with_second_score(
    folder: Path, result: Result, trainings: Sequence[Training], testing: SecondTesting
) -> Result:
    """Test the checkpoint of a result once more, and return the result with the second score.

    Args:
        folder: of the experiment.
        result: of its first test.
        trainings: of all its learning rates.
        testing: what the second test needs.

    Raises:
        MelHuBERTError: the checkpoint is gone, or the test failed.
    """
    checkpoint = folder / result.tested_checkpoint
    if not checkpoint.is_file():
        raise MelHuBERTError(
            f"{checkpoint}: not found, and a test with {', '.join(testing.files)} would be of it; put it "
            "back, or train anew in another folder"
        )
    [training] = [each for each in trainings if each.folder == checkpoint.parent]
    started = time.time()
    second = training.test_again(checkpoint, testing)
    second["predictions"] = (training.folder / second["predictions"]).relative_to(folder).as_posix()
    hours = result.hours.get("test", 0.0) + (time.time() - started) / 3600
    return replace(result, with_language_model=second, hours={**result.hours, "test": round(hours, 6)})
