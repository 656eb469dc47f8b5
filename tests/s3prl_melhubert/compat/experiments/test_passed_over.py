"""Arguments that have no effect beside a checkpoint are told, and those that it has are not."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.command_lines.downstream import DownstreamLine
from s3prl_melhubert.compat.command_lines.parser import checked
from s3prl_melhubert.compat.command_lines.pretrain import PretrainLine

SETTINGS = {
    "runner": {
        "total_steps": 20,
        "gradient_accumulate_steps": 1,
        "gradient_clipping": 1,
        "log_step": 5,
        "eval_step": 5,
        "eval_dataloaders": ["dev"],
        "save_step": 5,
        "max_keep": 1,
    },
    "optimizer": {"name": "Adam", "lr": 0.01},
    "downstream_expert": {"datarc": {"num_workers": 4}},
}
FIRST = [
    "-m",
    "train",
    "-u",
    "fbank",
    "-d",
    "example",
    "-c",
    "c.yaml",
    "-p",
    "EXP",
    "--device",
    "cpu",
    "-l",
    "1",
]
FIRST += ["-o", "config.runner.save_step=7,,args.seed=3"]


@pytest.fixture
def said(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """`said(ARGUMENT, ...)`: what is said of the arguments of run_downstream.py beside EXP's checkpoint."""
    finder.install()
    from s3prl import run_downstream

    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(SETTINGS))

    last: list[dict] = []

    def say(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["run_downstream.py", *arguments])
        with checked(DownstreamLine) as line:
            args, config, _ = run_downstream.get_downstream_args()
        capsys.readouterr()
        line[0].tell_passed_over(args, config)
        line[0].keep_optimizer(config)
        last[:] = [config]
        if line[0].past is None:
            del config["downstream_expert"]["datarc"]["num_workers"]  # as s3prl's ctc does
            models = {"Featurizer": {}, "Downstream": {}}
            torch.save({"Args": args, "Config": config, "Optimizer": {1: 1}, **models}, "EXP/states-5.ckpt")
        return capsys.readouterr().out

    assert say(*FIRST) == ""
    say.settings = last  # with which s3prl goes on
    return say


def test_the_same_arguments_again_are_not_told(said):
    assert said(*FIRST, "-a") == ""
    assert said("-m", "evaluate", "-t", "dev", "-e", "EXP", "--device", "cpu") == ""
    same = [
        "-c",
        f"{Path.cwd()}/c.yaml",
        "-p",
        "./EXP",
        "--seed",
        "1337",
        "-o",
        "args.seed=1337,,config.runner=7",
    ]
    assert said("-m", "train", "-e", "EXP/states-5.ckpt", "--device", "cpu", *same) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-u", "mfcc"], "-u mfcc (it has fbank)"),
        (["-k", "other.ckpt", "-f"], "-k other.ckpt (it has none), -f (it has False)"),
        (["-l", "2", "--seed", "1337"], "-l 2 (it has 1), --seed 1337 (it has 3)"),
        (["-s", "hidden_states"], None),
        (["-c", "nope.yaml", "-d", "nope"], "-d nope (it has example), -c nope.yaml"),
        (["-p", "NEW"], "-p NEW (it has EXP)"),
        (["-n", "NEW"], "-n result/downstream/NEW (it has EXP)"),
        (["-u", "mfcc", "-l", "2", "-o", "args.upstream=mfcc"], "-l 2 (it has 1)"),
    ],
)
def test_other_arguments_are_told(said, arguments, words):
    told = said("-m", "evaluate", "-e", "EXP", "--device", "cpu", *arguments)
    there = (
        f"-e EXP: s3prl goes by the checkpoint, and passes over {words}; -o args.NAME=VALUE,,config.KEY=VALUE"
    )
    assert told.startswith(there) and told.count("\n") == 1 if words else told == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"total_steps": 30}, "runner.total_steps: 30; it has 20"),
        ({"total_steps": 30, "save_step": 5}, "runner.save_step: 5; it has 7, and 1 more"),
        ({"new": 1}, "runner.new: 1; it has none"),
        ({"total_steps": None}, "runner.total_steps: none; it has 20"),
        ({"new": None}, None),
    ],
)
def test_other_settings_are_told(said, changed, words):
    Path("c.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "runner": {**SETTINGS["runner"], "save_step": 7, **changed}})
    )
    told = said("-m", "evaluate", "-e", "EXP", "--device", "cpu", "-c", "c.yaml")
    assert f"passes over -c c.yaml ({words}); -o" in told if words else told == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["-e", "EXP", "-o", "config.optimizer.lr=0.5,,config.optimizer.decay=0.1"],
            "lr: 0.5 (it has 0.01), op",
        ),
        (["-e", "EXP", "-o", "config.optimizer.lr=0.01,,config.runner.total_steps=30"], None),
        ([*FIRST[2:], "-p", "NEW", "-i", "EXP/states-5.ckpt", "-c", "other.yaml"], "lr: 0.5 (it has 0.01)"),
        ([*FIRST[2:], "-p", "NEW", "-i", "EXP/states-5.ckpt"], None),
        ([*FIRST[2:], "-p", "NEW", "-i", "other.ckpt", "-c", "other.yaml"], None),
    ],
)
def test_settings_of_the_optimizer_are_those_of_its_state(said, arguments, words):
    Path("other.yaml").write_text(yaml.safe_dump({**SETTINGS, "optimizer": {"name": "Adam", "lr": 0.5}}))
    torch.save({"Downstream": 1}, "other.ckpt")  # without a state of the optimizer
    told = said("-m", "train", *arguments, "--device", "cpu")
    has = {"name": "Adam", "lr": 0.5 if "other.ckpt" in arguments else 0.01}
    assert said.settings[0]["optimizer"] == has
    argument = " ".join(arguments[:2]) if arguments[0] == "-e" else "-i EXP/states-5.ckpt"
    there = f"{argument}: s3prl goes on with the checkpoint's optimizer, and passes over optimizer."
    assert told.startswith(f"{there}{words}") and told.count("\n") == 1 if words else told == ""


def test_settings_that_the_file_lacks_are_told_but_those_that_a_task_puts_in(said):
    states = torch.load("EXP/states-5.ckpt", weights_only=False)
    states["Config"]["downstream_expert"]["put_in"] = 1
    torch.save(states, "EXP/states-5.ckpt")
    assert said(*FIRST, "-a") == ""
    runner = {**SETTINGS["runner"], "save_step": 7}
    del runner["total_steps"]
    Path("c.yaml").write_text(yaml.safe_dump({**SETTINGS, "runner": runner}))
    told = said("-m", "evaluate", "-e", "EXP", "--device", "cpu", "-c", "c.yaml")
    assert "passes over -c c.yaml (runner.total_steps: none; it has 20); -o" in told


def test_a_part_of_the_settings_that_one_lacks_is_told(said):
    Path("c.yaml").write_text(yaml.safe_dump({**SETTINGS, "specaug": {"p": 1}}))
    told = said(*FIRST, "-a")
    assert told.startswith("-a: s3prl goes by")
    assert "-c c.yaml (specaug: settings; it has none)" in told


PRETRAIN = {"upstream": "melhubert", "upstream_config": "g.yaml", "config": "c.yaml", "seed": 1}
PRETRAIN |= {"expdir": "EXP", "expname": None, "auto_resume": True, "past_exp": None, "override": None}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"override": "config.runner.total_steps=9"}, "-o config.runner.total_steps=9 (it has none)"),
        ({"config": "other.yaml"}, "-c other.yaml (runner.total_steps: 30; it has 20)"),
        ({"upstream_config": "other.yaml"}, "-g other.yaml (melhubert.encoder_layers: 3; it has 2)"),
    ],
)
def test_other_arguments_of_a_pre_training_are_told(changed, words, tmp_path, monkeypatch, capsys):
    finder.install()
    import s3prl.run_downstream  # noqa: F401 (it lets torch read a Namespace)

    monkeypatch.chdir(tmp_path)
    Path("EXP").mkdir()
    kept, config = Namespace(**PRETRAIN), {"runner": {"total_steps": 20}, "sets": [str(tmp_path / "set")]}
    upstream = {"melhubert": {"encoder_layers": 2, "encoder_embed_dim": 48}}
    states = {"Args": kept, "Config": config, "Upstream_Config": upstream, "Optimizer": {"state": {}}}
    torch.save(states, "EXP/states-5.ckpt")
    Path("c.yaml").write_text("runner: {total_steps: 20}\nsets: [set]\n")
    Path("g.yaml").write_text("melhubert: {encoder_layers: 2}\n")
    Path("other.yaml").write_text("runner: {total_steps: 30}\nsets: [set]\nmelhubert: {encoder_layers: 3}\n")
    if "config" in changed:
        config["melhubert"] = {"encoder_layers": 3}
    options = {
        "upstream": "-u",
        "upstream_config": "-g",
        "config": "-c",
        "override": "-o",
        "auto_resume": "-a",
    }
    line = PretrainLine(Namespace(**{**PRETRAIN, **changed}), options)
    line.check()
    kept.upstream_config = deepcopy(upstream)  # as s3prl notes it when it has gone on once
    line.tell_passed_over(kept, config)
    told = capsys.readouterr().out
    assert (
        f"-a: s3prl goes by the checkpoint, and passes over {words}; for a run" in told
        if words
        else told == ""
    )
