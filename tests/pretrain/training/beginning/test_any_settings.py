"""Whatever the settings: a killed run is the run that was not, and two processes are one that accumulates.

The settings are drawn: which of them go together wrongly is what nobody thought of.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training.runner import Pretraining

MODEL = {
    "encoder_layerdrop": [0.0, 0.3],
    "layer_norm_first": [True, False],
    "skip_nomask": [True, False],
    "pred_nomask_weight": [0.5],
    "dropout": [0.0, 0.1],
    "attention_dropout": [0.0, 0.1],
    "activation_dropout": [0.0, 0.1],
    "mask_prob": [0.3, 0.65, 0.8],
    "mask_length": [3, 5, 10],
}
RUNNER = {
    "total_steps": [4, 7, 11],
    "n_epochs": [-1, 1, 2],
    "save_every_x_epochs": [-1, 1],
    "gradient_accumulate_steps": [1, 2, 3],
    "log_step": [1, 2, 5],
    "save_step": [-1, 1, 3],
    "max_keep": [-1, 1, 2],
    "gradient_clipping": [0.0, 0.5, 10.0],
    "precision": ["fp32", "bf16"],
}
OPTIMIZER = {
    "name": ["Adam", "AdamW", "RAdam", "NAdam", "Adafactor", "Adagrad", "RMSprop"],
    "lr": [1e-3],
}
SCHEDULER = {"name": ["constant", "linear", "cosine"], "warmup_steps": [0, 2]}
DATARC = {
    "num_workers": [0],
    "sequence_length": [17, 40, 100],
    "max_timestep": [0, 150, -60],
    "rows": [False, True],
    "train_batch_size": [1, 2, 3],
}
# What a step has: utterances, frames of a micro-batch, or frames of the step.
SIZES: list[Mapping[str, int]] = [{}, {"max_frames": 400}, {"frames_per_batch": 300}]


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
# Each process draws its own of these.
DRAWN_BY_EACH = ("encoder_layerdrop", "dropout", "attention_dropout", "activation_dropout")
COMPARED = ("step", "loss", "unmasked_loss", "masked_accuracy", "gradient_norm", "valid_loss")


class Killed(BaseException):
    """Ends a run where it is, as a kill would: nothing of the program's own catches it."""


def drawn(choices: Mapping[str, list[Any]], draw: random.Random) -> dict[str, Any]:
    return {name: draw.choice(values) for name, values in choices.items()}


@pytest.fixture
def killed_at(monkeypatch) -> Callable[[int, bool], None]:
    """`killed_at(step, before)`: runs end in that step, before what is due after it is done, or after."""
    take, follow = Pretraining._step, Pretraining._after_step
    kill = {"step": 0, "before": False}

    def may_end(training: Pretraining, before: bool) -> None:
        if (training.progress.step, before) == (kill["step"], kill["before"]):
            training.checkpoints.wait()
            raise Killed

    def step(training: Pretraining, batches: Any) -> None:
        take(training, batches)
        may_end(training, True)

    def after_step(training: Pretraining, save: bool) -> None:
        follow(training, save)
        may_end(training, False)

    monkeypatch.setattr(Pretraining, "_step", step)
    monkeypatch.setattr(Pretraining, "_after_step", after_step)
    return lambda step, before: kill.update(step=step, before=before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(
    prepared, yamls, tmp_path, same_training, repeated, killed_at, seed
):
    draw = random.Random(seed)
    model = drawn(MODEL, draw)
    runner, optimizer, scheduler, datarc = (
        drawn(choices, draw) for choices in (RUNNER, OPTIMIZER, SCHEDULER, DATARC)
    )
    datarc.update(draw.choice(SIZES))
    if draw.random() < 0.5:
        datarc["valid_sets"] = [str(prepared)]
    sections = {"runner": runner, "optimizer": optimizer, "scheduler": scheduler, "datarc": datarc}
    command = ["pretrain", *yamls(model, **sections), "--data", str(prepared), "--device", "cpu", "-n"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*command, str(whole)]) == 0

    for step in sorted(draw.sample(range(1, int(repeated(whole)[-1]["step"]) + 1), 2)):
        killed_at(step, draw.random() < 0.5)
        with pytest.raises(Killed):
            main([*command, str(killed), "--resume"])
    killed_at(0, False)
    assert main([*command, str(killed), "--resume"]) == 0

    names = sorted(path.name for path in whole.glob("*.ckpt"))
    assert sorted(path.name for path in killed.glob("*.ckpt")) == names
    for name in names:
        same_training(whole, killed, name)
    assert repeated(killed) == repeated(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_processes_train_as_one_that_accumulates(prepared, yamls, tmp_path, start, finish, log, seed):
    """What a step learns from is a matter of the settings, and not of who computes it."""
    draw = random.Random(seed)
    model = {**drawn(MODEL, draw), **dict.fromkeys(DRAWN_BY_EACH, 0.0)}
    runner, scheduler, datarc = (drawn(choices, draw) for choices in (RUNNER, SCHEDULER, DATARC))
    runner.update(precision="fp32", log_step=1)
    datarc.update(draw.choice(SIZES), rows=seed % 2 == 0, valid_sets=[str(prepared)])
    sections = {"scheduler": scheduler, "datarc": datarc, "optimizer": {"name": "Adam", "lr": 1e-3}}
    common = ["--data", prepared, "--device", "cpu", "-n"]
    two = yamls(model, runner=runner, **sections)
    finish(start("pretrain", *two, *common, tmp_path / "two", launcher=TWO_PROCESSES))
    runner["gradient_accumulate_steps"] *= 2
    finish(start("pretrain", *yamls(model, runner=runner, **sections), *common, tmp_path / "one"))
    for of_two, of_one in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        for name in COMPARED:
            a, b = of_two[name], of_one[name]
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-4), (name, of_two["step"])
