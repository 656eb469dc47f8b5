"""The runner's settings: what cannot be is told before data and checkpoints are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.beginning.folder import RUNNER_YAML
from s3prl_melhubert.pretrain.training.beginning.options import Options
from s3prl_melhubert.pretrain.training.settings import OptimizerSettings, Settings


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("optimizer", {"lr": 0}, "lr: 0 found, with which nothing is learned; expected a number above zero"),
        ("optimizer", {"lr": -1e-4}, "Invalid learning rate: -0.0001"),
        ("optimizer", {"lr": True}, "lr: True found, expected a number"),
        ("optimizer", {"lr": None}, "lr: None found, expected a number"),
        ("optimizer", {"lr": "1e400"}, "lr: '1e400' found, expected a finite number"),
        ("optimizer", {"betas": [0.9, 1.0]}, "Invalid beta parameter at index 1: 1.0"),
        ("optimizer", {"betas": [0.9]}, "betas: [0.9] found, expected 2 numbers"),
        ("optimizer", {"eps": 0}, "gradients of 0 and 1 give parameters that are not finite"),
        ("optimizer", {"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        ("optimizer", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("optimizer", {"beta": 1}, "Adam takes no beta"),
        ("optimizer", {1: 2}, "Adam takes no 1 (known are "),
        ("runner", {"gradient_clipping": -1}, "gradient_clipping: -1.0 found, expected at least 0"),
        ("runner", {"gradient_clipping": True}, "gradient_clipping: True found, expected a number"),
        ("runner", {"gradient_clipping": float("nan")}, "gradient_clipping: nan found, expected a finite"),
        ("optimizer", {"maximize": True}, "maximize: True: a gradient above 0 does not lower a parameter"),
        ("runner", {"fp16": "False"}, "fp16: 'False' found, expected bool"),
        ("runner", {"max_keep": 0}, "max_keep: 0 found, expected at least 1, or -1"),
        ("runner", {"valid_step": -2}, "valid_step: -2 found, expected at least 1, or -1"),
        ("runner", {"save_minutes": -1}, "save_minutes: -1.0 found, expected at least 0"),
        (
            "runner",
            {"total_steps": -1, "n_epochs": -1},
            "n_epochs: -1 found, expected a number of epochs, or",
        ),
        ("runner", {"gradient_sum": "fp16"}, "gradient_sum: 'fp16' found, expected fp32 or bf16"),
        ("runner", {"cuda_graphs": True}, "cuda_graphs: True found, expected False, or compile: True"),
        ("datarc", {"train_batch_size": 0}, "train_batch_size: 0 found, expected at least 1"),
        ("datarc", {"sequence_length": 0}, "sequence_length: 0 found, expected at least 1, or -1"),
        ("datarc", {"num_workers": -1}, "num_workers: -1 found, expected at least 0"),
        ("scheduler", {"warmup_steps": 6}, "warmup_steps: 6 found, expected fewer than the run's 6 steps"),
        ("scheduler", {"warmup_steps": -1}, "warmup_steps: -1 found, expected at least 0"),
    ],
)
def test_settings_are_refused_before_anything_is_read(section, values, words, yamls, tmp_path, capsys):
    settings = yamls(**{section: values})
    nowhere = ["--data", "/nowhere", "-i", "/nowhere.ckpt", "-n", str(tmp_path / "exp")]
    assert main(["pretrain", *settings, *nowhere]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"melhubert: {settings[-1]}, section {section}: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("runner", "steps"),
    [
        ({}, 2000),
        ({"n_epochs": 2}, 20),
        ({"total_steps": -1}, 2000),  # as many as the epochs need, which are the published ones
        ({"total_steps": 7}, 7),
        ({"total_steps": 5000}, 5000),  # who asks for steps alone gets as many
        ({"n_epochs": 2, "total_steps": 7}, 7),
        ({"n_epochs": 2, "total_steps": 70}, 20),
    ],
)
def test_a_run_has_the_steps_or_the_epochs_that_it_is_asked_for(runner, steps):
    assert Settings.from_mapping({"runner": runner}, "file").runner.steps(10) == steps


@pytest.mark.parametrize("dampening", [1, 2])  # with which later gradients count nothing, or the reverse
def test_arguments_that_do_not_descend_are_refused(dampening):
    with pytest.raises(MelHuBERTError, match="does not lower a parameter"):
        OptimizerSettings("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": dampening})


@pytest.mark.parametrize("scheduler", [{"name": "linear"}, {"warmup_steps": 2}])
def test_a_schedule_that_the_optimizer_does_not_follow_is_refused(scheduler):
    content = {"runner": {"total_steps": 5}, "optimizer": {"name": "Rprop"}, "scheduler": scheduler}
    with pytest.raises(MelHuBERTError, match=r"^file, section scheduler: .*Rprop finds a step size for each"):
        Settings.from_mapping(content, "file")
    Settings.from_mapping({**content, "scheduler": {}}, "file")


def test_a_single_step_may_have_no_learning_rate():
    """So are the checkpoints of initial weights made with which trained ones are compared."""
    one = {"runner": {"total_steps": 1}, "optimizer": {"name": "SGD", "lr": 0}}
    assert not Settings.from_mapping(one, "file").learns
    for runner in ({"total_steps": 2}, {"n_epochs": 1}):
        with pytest.raises(MelHuBERTError, match=r"^file, section optimizer: lr: 0 found"):
            Settings.from_mapping({**one, "runner": runner}, "file")


@pytest.mark.parametrize("name", ["Adafactor", "Adam", "Rprop", "SGD"])
@pytest.mark.parametrize("rate", [True, None, [1e-4], "fast", float("nan"), "1e400", 10**400])
def test_learning_rate_is_a_number(name, rate):
    with pytest.raises(MelHuBERTError, match=r"^lr: .* found, expected a (finite )?number"):
        OptimizerSettings(name, {"lr": rate})


@pytest.mark.parametrize(
    ("name", "argument"),
    [("Adam", {"eps": 0}), ("RAdam", {"eps": 0}), ("SGD", {"lr": 1e39}), ("RMSprop", {"alpha": 2})],
)
def test_arguments_that_give_no_numbers_are_refused(name, argument):
    with pytest.raises(MelHuBERTError, match=r"not finite|without overflow"):
        OptimizerSettings(name, argument)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adafactor", {"eps": [None, 1e-3]}),
        ("Adam", {"lr": "1e-4", "betas": ["9e-1", 0.999], "foreach": None, "amsgrad": True}),
        ("Adam", {"capturable": True}),  # which a GPU takes
        ("SGD", {"lr": 1, "momentum": 0.9, "nesterov": True, "weight_decay": 0}),
    ],
)
def test_what_an_optimizer_can_take_is_taken(name, arguments):
    OptimizerSettings(name, arguments)


@pytest.mark.parametrize("period", [10, 20])
def test_crops_that_a_file_does_not_name_have_15_seconds(period, yamls, tmp_path):
    arguments = dict.fromkeys(["frame_period", "initial_weight", "data", "valid", "device", "resume"])
    arguments |= dict.fromkeys(["init_layers", "init_stats", "init_optimizer_from_initial_weight"])
    model, runner = yamls(model={"feat_emb_dim": 4 * period})[1::2]
    arguments |= {"seed": 1, "expdir": tmp_path / "exp", "upstream_config": model, "runner_config": runner}

    def crops(**changes) -> int:
        return Options.from_command({**arguments, **changes}).settings.datarc.sequence_length

    assert crops() == yaml.safe_load(Path(runner).read_text())["datarc"]["sequence_length"]
    Path(runner).write_text("datarc: {num_workers: 0}\n")
    assert crops() * period == 15_000
    assert crops(runner_config=None) * period == 15_000

    # A run that earlier versions began with 750 frames at 10 ms goes on with these.
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / RUNNER_YAML).write_text("datarc: {sequence_length: 750}\n")
    assert crops(resume=True) == 750
    (tmp_path / "exp" / RUNNER_YAML).write_text("datarc: [750]\n")  # which -c takes the place of
    assert crops(resume=True) * period == 15_000
