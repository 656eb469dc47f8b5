"""What the tests of the report share: results of several models and tasks."""

import pytest

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import Result

SHORTER = [Difference("runner.total_steps", 100000, 1500)]


@pytest.fixture
def results(result) -> list[Result]:
    """A spectrum with two tasks, a model of three layers with three, one of them not made as SUPERB's."""
    model = {"upstream": "melhubert_local", "checkpoint": "exp/digits/last.ckpt"}
    return [
        result("pr", 82.5),
        result("asr", 101.25),
        result("pr", 10.125, **model, layer_weights=[0.2, 0.3, 0.5]),
        result("sid", 44.0, **model, layer_weights=[0.6, 0.3, 0.1], differences=SHORTER),
        result("asr", 20.5, **model, layer_weights=[0.1, 0.8, 0.1], with_language_model={"value": 15.25}),
    ]
