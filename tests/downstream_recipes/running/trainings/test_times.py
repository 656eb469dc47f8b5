"""The hours of a training are those in which it worked for this learning rate, as far as they are known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.trainings import training as trainings
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError

HOUR = 3600.0


@pytest.fixture
def at(tmp_path, monkeypatch):
    """`at(hours)`: a training's folder, as a process sees it that begins at that time."""

    def make(hours: float) -> Training:
        clock(hours)
        task, folder = all_tasks()["sid"], tmp_path / "EXP"
        options = RunOptions(upstream="fbank", expdir=folder, task_options=TaskOptions())
        settings = task.superb_settings()
        return Training(task, options, device="cpu", settings=settings, folder=folder, shared=folder)

    def clock(hours: float) -> None:
        monkeypatch.setattr(trainings.time, "time", lambda: hours * HOUR)

    make.clock = clock
    return make


def saved(training: Training, hours: float) -> Path:
    """A checkpoint of that time."""
    states = training.folder / "states-2.ckpt"
    states.touch()
    os.utime(states, (hours * HOUR, hours * HOUR))
    return states


def test_an_interruption_and_what_was_lost_by_it_do_not_count(at):
    first = at(10)
    first.begin(None)
    states = saved(first, 13)  # It was killed some time after this, and began again at 20.
    second = at(20)
    assert not second.ended
    second.begin(states)
    at.clock(24)
    second.end()
    assert second.ended
    second.must_have_ended()
    assert at(30).hours() == 3 + 4


def test_of_a_pass_for_several_rates_each_has_its_share(at):
    first = at(10)
    first.begin(None, share=0.5)
    states = saved(first, 14)
    second = at(20)
    second.begin(states, share=0.5)  # the same two go on
    at.clock(22)
    second.end()
    assert second.hours() == 2 + 1


def test_a_training_that_began_without_a_checkpoint_has_no_hours_of_before(at, capsys):
    at(10).begin(None)
    again = at(20)
    with pytest.raises(MelHuBERTError, match="its training has not ended"):
        again.must_have_ended()
    again.begin(None)
    assert "was begun before, but holds no checkpoint" in capsys.readouterr().out
    at.clock(21)
    again.end()
    assert again.hours() == 1
