"""The result of a task in folds is the mean of theirs, and says which fold each of them is of."""

from __future__ import annotations

import pytest

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import PartResult, Trial
from s3prl_melhubert.downstream_recipes.running.experiments.parts import mean_of_parts

SHORTER = Difference("runner.total_steps", 30000, [2])


def test_scores_and_weights_are_means_and_times_are_sums(result):
    one = result(
        "er",
        50.0,
        dev=60.0,
        layer_weights=[0.25, 0.75],
        hours={"train": 1.0, "test": 0.25},
        further={"F1": 40.0},
        test_utterances=10,
        predictions="test_fold1_predict.txt",
        predictions_sha256="1" * 64,
        notes=["fold1 alone, one of 2"],
        differences=[SHORTER],
    )
    other = result(
        "er",
        54.0,
        dev=70.0,
        layer_weights=[0.5, 0.5],
        hours={"train": 2.0, "test": 0.5},
        further={"F1": 50.0},
        test_utterances=30,
        predictions="test_fold2_predict.txt",
        notes=["fold2 alone, one of 2", "tested the last one"],
        differences=[SHORTER, Difference("optimizer.name", "Adam", "SGD")],
    )
    mean = mean_of_parts({"fold1": one, "fold2": other})
    assert (mean.value, mean.dev, mean.further) == (52.0, 65.0, {"F1": 45.0})
    assert mean.layer_weights == [0.375, 0.625]
    assert mean.hours == {"train": 3.0, "test": 0.75}
    assert mean.test_utterances == 40
    assert mean.learning_rate == 1e-3
    assert [each.setting for each in mean.differences] == ["runner.total_steps", "optimizer.name"]
    assert mean.notes == ["fold2: tested the last one"]
    assert (mean.tested_checkpoint, mean.predictions) == (
        "fold1/dev-best.ckpt",
        "fold1/test_fold1_predict.txt",
    )
    assert mean.parts == [
        PartResult("fold1", 50.0, 60.0, 1e-3, "fold1/test_fold1_predict.txt", "1" * 64),
        PartResult("fold2", 54.0, 70.0, 1e-3, "fold2/test_fold2_predict.txt"),
    ]


@pytest.mark.parametrize(("of_other", "dev", "found"), [(None, 60.0, 62.0), (70.0, 65.0, 64.0)])
def test_a_part_without_a_dev_score_has_no_share_in_the_mean_of_those(result, of_other, dev, found):
    tried = [
        [Trial(1e-1, 62.0, "lr-0.1", 50.0), Trial(1e-2, None, "lr-0.01", 40.0)],
        [Trial(1e-1, of_other and 66.0, "lr-0.1", 52.0), Trial(1e-2, None, "lr-0.01")],
    ]
    one = result("er", 50.0, dev=60.0, search=tried[0], learning_rate=1e-1)
    other = result("er", 52.0, dev=of_other, search=tried[1], learning_rate=1e-2)
    mean = mean_of_parts({"fold1": one, "fold2": other})
    assert mean.dev == dev
    assert mean.learning_rate is None  # each has its own
    assert mean.search == [Trial(1e-1, found, "*/lr-0.1", 51.0), Trial(1e-2, None, "*/lr-0.01", 40.0)]
    assert mean_of_parts({"fold2": result("er", 52.0), "fold3": result("er", 54.0)}).dev is None
