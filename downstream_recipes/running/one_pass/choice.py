"""Which of several trainings counts, and what the test split says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from s3prl_melhubert.downstream_recipes.report.results import Trial
from s3prl_melhubert.downstream_recipes.running.one_pass import layers, runs
from s3prl_melhubert.downstream_recipes.running.trainings.layer_test import LayerTest
from s3prl_melhubert.downstream_recipes.running.trainings.training import Test, Training


@dataclass(frozen=True)
class Chosen:
    """The training that counts, and what it was chosen among."""

    training: Training
    dev: float | None  # in the unit of the task's metric on dev
    test: Test
    search: list[Trial]  # what each training found


def choose(trainings: Sequence[Training]) -> Chosen:
    """Test what there is to test of an experiment that was trained.

    The best training on the dev split counts; where every saved checkpoint is tested, for want of a dev
    split, the best on the test split.

    Raises:
        MelHuBERTError: there is nothing to test, or it failed.
    """
    task = trainings[0].task
    search = [
        Trial(t.rate, t.dev_score(), t.folder.relative_to(t.shared).as_posix(), layer=t.layer)
        for t in trainings
    ]
    tests: list[Test] | None = None  # of all trainings, where that takes no pass for each
    if task.tests_every_checkpoint:
        tests = [training.test() for training in trainings]
        best = task.metric.best([each.score for each in tests])
    else:
        scored = {i: trial.dev for i, trial in enumerate(search) if trial.dev is not None}
        best = list(scored)[(task.dev_metric or task.metric).best(list(scored.values()))] if scored else 0
        tests = runs.test(trainings) if task.trained else None
    training, dev = trainings[best], search[best].dev
    if tests is not None:
        search = [replace(trial, test=each.score) for trial, each in zip(search, tests, strict=True)]
        return Chosen(training, dev, tests[best], search)
    test = layers.score_on_test(training) if isinstance(training, LayerTest) else training.test()
    return Chosen(training, dev, test, search)
