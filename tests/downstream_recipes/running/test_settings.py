"""SUPERB's settings, what is changed of them, and that the difference is told."""

import pytest

from s3prl_melhubert.downstream_recipes.running.settings import differences, with_override, with_steps
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError

# The table of SUPERB's public instructions.
SUPERB = {
    "pr": ("TorchOptim", 1e-2, 100_000, 2, 100, 1000, 100),
    "sid": ("TorchOptim", 1e-4, 200_000, 4, 500, 5000, 1000),
    "asr": ("TorchOptim", 1e-4, 200_000, 1, 100, 2000, 500),
}


@pytest.mark.parametrize("task", SUPERB)
def test_settings_are_those_of_superbs_instructions(task):
    settings = all_tasks()[task].superb_settings()
    runner, optimizer = settings["runner"], settings["optimizer"]
    assert (
        optimizer["name"],
        optimizer["lr"],
        runner["total_steps"],
        runner["gradient_accumulate_steps"],
        runner["log_step"],
        runner["eval_step"],
        runner["save_step"],
    ) == SUPERB[task]
    assert runner["gradient_clipping"] == 1
    assert optimizer["torch_optim_name"] == "Adam"


@pytest.mark.parametrize("steps", [1, 7, 100, 150, 1000, 1001, 99_999, 100_000])
def test_shorter_run_is_evaluated_and_saved_at_its_end_or_close_to_it(steps):
    runner = with_steps(all_tasks()["pr"].superb_settings(), steps)["runner"]
    assert runner["total_steps"] == steps
    for interval in ("log_step", "eval_step", "save_step"):
        last = steps // runner[interval] * runner[interval]
        assert last > 0
        assert steps - last < steps / runner[interval]


def test_full_length_run_differs_in_nothing_but_what_may_be_chosen():
    superb = all_tasks()["asr"].superb_settings()
    here, arguments = with_override(
        superb, "config.optimizer.lr=5e-4,,config.downstream_expert.datarc.num_workers=0"
    )
    here["downstream_expert"]["datarc"]["libri_root"] = "LibriSpeech"
    assert differences(superb, here, arguments) == []
    assert here["optimizer"]["lr"] == 5e-4


def test_every_other_change_is_told_misspelt_ones_too():
    superb = all_tasks()["pr"].superb_settings()
    here, arguments = with_override(
        superb,
        "config.downstream_expert.corpus.batch_size=8,,config.optimzer.lr=1,,args.upstream_trainable=True",
    )
    assert [str(each) for each in differences(superb, here, arguments)] == [
        "downstream_expert.corpus.batch_size 8 (SUPERB: 16)",
        "optimzer.lr 1 (SUPERB: not set)",
        "upstream_trainable True (SUPERB: False)",
    ]


@pytest.mark.parametrize("override", ["batch_size=8", "config.optimizer.lr", "config.runner.total_steps.x=1"])
def test_override_that_s3prl_could_not_read_is_explained(override):
    with pytest.raises(MelHuBERTError, match="-o "):
        with_override(all_tasks()["pr"].superb_settings(), override)
