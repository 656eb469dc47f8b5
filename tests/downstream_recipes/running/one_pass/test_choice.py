"""Of several learning rates the best on the dev split counts, whatever the others found on the test split.

s3prl's test of their checkpoints is left out: what it would say stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.running.options import RunOptions, folder_of_rate
from s3prl_melhubert.downstream_recipes.running.trainings.training import Test as Outcome
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.downstream_recipes.tasks import all_tasks

RATES = (1e-1, 1e-2, 1e-3, 1e-4)


@pytest.fixture
def chosen_of(tmp_path, monkeypatch) -> Callable:
    """`chosen_of(task, dev)`: of trainings whose best checkpoints hold these scores; None is one without.

    Their scores on the test split are 10 % for the first rate, 20 % for the second, and so on.
    """

    finder.install()
    from s3prl_melhubert.downstream_recipes.running.one_pass import runs
    from s3prl_melhubert.downstream_recipes.running.one_pass.choice import Chosen, choose

    def choose_among(key: str, dev: Sequence[float | None]) -> Chosen:
        task, found = all_tasks()[key], []
        options = RunOptions(upstream="fbank", expdir=tmp_path, task_options=TaskOptions())
        for rate, score in zip(RATES, dev, strict=True):
            settings = task.superb_settings()
            settings["optimizer"]["lr"] = rate
            folder = tmp_path / folder_of_rate(rate)
            found.append(
                Training(task, options, device="cpu", settings=settings, folder=folder, shared=tmp_path)
            )
            write_checkpoint(folder / "states-4.ckpt", {"Step": 4})
            if score is not None:
                content = {"Downstream": {"best_score": torch.tensor(score)}}
                write_checkpoint(folder / task.best_checkpoint, content)
        return choose(found)

    def test(trainings: Sequence[Training]) -> list[Outcome]:
        return [
            Outcome(10.0 * number, training.checkpoint_to_test(), [])
            for number, training in enumerate(trainings, 1)
        ]

    monkeypatch.setattr(runs, "test", test)
    return choose_among


@pytest.mark.parametrize(
    ("task", "dev", "rate", "tested"),
    [
        ("sid", [None, 0.25, 0.75, 0.5], 1e-3, "lr-0.001/dev-best.ckpt"),
        ("pr", [0.75, None, 0.5, 0.25], 1e-4, "lr-0.0001/dev-best.ckpt"),
        ("sid", [0.5, 0.5, None, None], 1e-1, "lr-0.1/dev-best.ckpt"),
        ("sid", [None, None, None, None], 1e-1, "lr-0.1/states-4.ckpt"),
    ],
    ids=["accuracy", "errors", "alike", "none has one"],
)
def test_the_best_on_dev_counts(task, dev, rate, tested, chosen_of, tmp_path):
    chosen = chosen_of(task, dev)
    number = RATES.index(rate)
    assert chosen.training.rate == rate
    assert chosen.dev == (dev[number] and 100 * dev[number])
    assert (chosen.test.score, chosen.test.checkpoint) == (10.0 * (number + 1), tmp_path / tested)
    assert [(each.learning_rate, each.dev, each.test) for each in chosen.search] == [
        (rate, score and 100 * score, 10.0 * place)
        for place, (rate, score) in enumerate(zip(RATES, dev, strict=True), 1)
    ]


def test_what_chooses_is_the_dev_metric_of_a_task_that_has_one(chosen_of):
    """Diarization's score is its error rate, and its checkpoints are chosen by the accuracy of frames."""
    assert chosen_of("sd", [0.25, 0.75, 0.5, None]).training.rate == 1e-2
