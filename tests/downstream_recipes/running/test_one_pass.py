"""Several learning rates in one pass: each gives what s3prl gives with it alone, killed or not."""

from __future__ import annotations

import builtins
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from s3prl_melhubert.cli import main
from s3prl_melhubert.commands.superb.arguments import learning_rates
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate

# Steps between records, evaluations and checkpoints do not coincide, and an epoch is a few batches.
RUNNER = "config.runner.log_step=7,,config.runner.eval_step=10,,config.runner.save_step=6"
FEW = "config.runner.eval_step=2,,config.runner.save_step=2"
TASKS = {
    # At 1e30 the gradients become NaN; crops are cut at random.
    "sid": ("voxceleb1", "1e-2,1e30", "config.downstream_expert.datarc.max_timestep=3000"),
    "pr": (
        "ctc",
        "1e-1,1e-3",
        "config.downstream_expert.corpus.batch_size=2,,"
        "config.scheduler={'name':'linear_schedule_with_warmup','num_warmup_steps':5}",
    ),
    # SpecAugment and dropout draw random numbers in each rate's turn.
    "asr": ("asr", "1e-2,1e-4", "config.downstream_expert.datarc.batch_size=2"),
}
SPLITS = {"sid": "test", "pr": "test", "asr": "test-clean"}
STAMPED = ("args_", "config_", "g_", "events", "log.txt", "training.json")  # with times, or ours


@pytest.fixture
def command(corpus, upstream, short, small) -> Callable[..., list[str]]:
    """`command(task, folder)`: the arguments of a sweep of 30 steps."""

    def make(task: str, folder: Path, *more: str, runner: str = RUNNER) -> list[str]:
        _, rates, settings = TASKS[task]
        start = ["superb", task, *corpus[task], *upstream, "-p", str(folder), *short(30), "--lr", rates]
        return [*start, "-o", f"{runner},,{settings},,{small[task]}", *more]

    return make


@pytest.fixture
def s3prl_alone(monkeypatch, tmp_path, upstream) -> Callable[..., None]:
    """`s3prl_alone(task, folder)` trains one learning rate with s3prl's program as it is, and tests it.

    With a checkpoint, it only tests that.
    """
    import s3prl.downstream.voxceleb1.dataset as voxceleb1

    def run(task: str, folder: Path, checkpoint: Path | None = None) -> None:
        # The cache would be in s3prl's own folder.
        monkeypatch.setattr(voxceleb1, "CACHE_PATH", str(tmp_path / "cache/"))
        config = ["-c", str(folder / "config.yaml"), "-p", str(folder)]
        if checkpoint is None:
            s3prl("-m", "train", *upstream, "-d", TASKS[task][0], *config)
        s3prl("-m", "evaluate", "-t", SPLITS[task], "-e", str(checkpoint or best_or_last(folder)))

    def s3prl(*arguments: str) -> None:
        # As from a command line, the word is an object of its own: a pickle writes what is one object once.
        device = "".join(["c", "pu"])
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "isinstance", isinstance)  # s3prl replaces it
            patch.setattr(sys, "argv", ["run_downstream.py", *arguments, "--device", device])
            runpy.run_module("s3prl.run_downstream", run_name="__main__")

    return run


def best_or_last(folder: Path) -> Path:
    return next(iter([*folder.glob("dev*-best.ckpt"), *sorted(folder.glob("states-*.ckpt"))[-1:]]))


def files(folder: Path) -> dict[str, bytes]:
    """What s3prl has written there that has no time in it."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(STAMPED)
    }


def content(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint without the number of workers, which s3prl's `ctc` takes out of its settings."""
    found = torch.load(checkpoint, weights_only=True)
    found["Config"]["downstream_expert"].get("corpus", {}).pop("num_workers", None)
    return found


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for name in ours:
            assert_equal(ours[name], theirs[name], f"{where}/{name}")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert ours.numpy().tobytes() == theirs.numpy().tobytes(), where
    else:
        assert repr(ours) == repr(theirs), where  # NaN is not equal to itself


class Killed(BaseException):
    """As if the process ended."""


@pytest.mark.parametrize("task", ["sid", "asr", pytest.param("pr", marks=pytest.mark.slow)])
def test_each_rate_of_a_sweep_equals_s3prls_own_run_with_it_alone(
    task, command, s3prl_alone, tmp_path, monkeypatch, capsys
):
    """The sweep is killed in the turn of its second rate, in the middle of an epoch, and goes on."""
    experiment = tmp_path / "EXP"
    update = Rate.update

    def killed_at_15(rate: Rate, step: int) -> None:
        if step == 15 and rate.config["optimizer"]["lr"] == float(TASKS[task][1].split(",")[1]):
            raise Killed
        update(rate, step)

    with monkeypatch.context() as patch:
        patch.setattr(Rate, "update", killed_at_15)
        with pytest.raises(Killed):
            main(command(task, experiment))
    assert main(command(task, experiment)) == 0
    assert capsys.readouterr().out.count("continuing from states-12.ckpt") == 2
    ours = experiment.rename(tmp_path / "ours")
    folders = sorted(ours.glob("lr-*"))
    assert len(folders) == 2
    assert ("is NaN" in (folders[-1] / "log.txt").read_text()) == (task == "sid")
    for folder in folders:
        alone = experiment / folder.name
        alone.mkdir(parents=True)
        for name in ("lexicon.txt", "len_for_bucket"):
            if (ours / name).is_dir():
                shutil.copytree(ours / name, experiment / name, dirs_exist_ok=True)
            elif (ours / name).exists():
                shutil.copy(ours / name, experiment / name)
        shutil.copy(folder / "config.yaml", alone / "config.yaml")
        s3prl_alone(task, alone)
        expected, found = files(alone), files(folder)
        assert set(found) == set(expected)
        assert {"states-24.ckpt", "states-30.ckpt"} <= set(found)
        for name in found:
            if task == "pr" and name.endswith(".ckpt"):
                assert_equal(content(folder / name), content(alone / name), name)
            else:
                assert found[name] == expected[name], name
        if task == "sid":  # s3prl's program tests our checkpoint, in the folder that it names
            (alone / "test_predict.txt").unlink()
            s3prl_alone(task, alone, best_or_last(folder))
            assert (alone / "test_predict.txt").read_bytes() == found["test_predict.txt"]


def test_one_rate_in_half_precision_on_a_part_of_the_splits_equals_s3prls_own_run(
    command, s3prl_alone, tmp_path
):
    """On a CPU torch turns half precision off, and with it s3prl's check of NaN.

    Of three batches s3prl hears two, one more than their third.
    """
    experiment = tmp_path / "EXP"
    once = ["--lr", "1e-2", "--steps", "4"]
    runner = f"config.runner.fp16=True,,config.runner.evaluate_ratio=0.33,,{FEW}"
    assert main(command("sid", experiment, *once, runner=runner)) == 0
    assert len((experiment / "test_predict.txt").read_text().splitlines()) == 2
    ours = experiment.rename(tmp_path / "ours")
    experiment.mkdir()
    shutil.copy(ours / "config.yaml", experiment / "config.yaml")
    assert yaml.safe_load((ours / "config.yaml").read_text())["runner"]["fp16"] is True
    s3prl_alone("sid", experiment)
    of_the_experiment = {"experiment.json", "labels.json", "results.json", "test_utterances.txt"}
    found = {name: content for name, content in files(ours).items() if name not in of_the_experiment}
    expected = files(experiment)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_rates_that_do_not_fit_into_memory_together_go_on_in_groups(command, tmp_path, monkeypatch, capsys):
    """They go on from where they were, also when the process is killed, and end with the same bytes.

    A group is halved once more when the checkpoints of the first time are gone.
    """
    experiment = tmp_path / "EXP"
    three = command("sid", experiment, "--lr", "1e-2,1e-3,1e30")
    assert main(three) == 0
    whole = experiment.rename(tmp_path / "whole")
    update = Rate.update

    def short_of_memory(rate: Rate, step: int) -> None:
        update(rate, step)
        if not rate.alone and step == short_at[0]:
            short_at.pop(0)
            raise RuntimeError("CUDA out of memory")
        if step == 21 and rate.alone and not killed:
            killed.append(rate)
            raise Killed

    killed: list[Rate] = []
    short_at = [9, 27]
    monkeypatch.setattr(Rate, "update", short_of_memory)
    with pytest.raises(Killed):
        main(three)
    assert "not enough memory for 3 learning rates at once; goes on with 1, then 2" in capsys.readouterr().out
    assert main(three) == 0
    printed = capsys.readouterr().out
    assert "not enough memory for 2 learning rates at once; goes on with 1, then 1" in printed
    assert printed.count("continuing from states-18.ckpt") == 1  # the killed one
    assert printed.count("continuing from states-6.ckpt") == 2  # the group
    assert printed.count("continuing from states-24.ckpt") == 2  # its halves
    for folder in whole.glob("lr-*"):
        assert files(experiment / folder.name) == files(folder)
    assert not [*experiment.rglob("position.pt"), *experiment.rglob("groups.json")]


def test_a_result_tells_of_batches_that_did_not_fit_into_memory(command, tmp_path, monkeypatch, capsys):
    """A rate alone leaves them out, as s3prl does; the score is of fewer batches, perhaps of no long ones."""
    experiment = tmp_path / "EXP"
    backward = Rate.backward
    short = [True]

    def short_of_memory(rate: Rate, *arguments: Any) -> None:
        if short:
            short.clear()
            raise RuntimeError("CUDA out of memory")
        backward(rate, *arguments)

    monkeypatch.setattr(Rate, "backward", short_of_memory)
    once = command("sid", experiment, "--lr", "1e-2", "--steps", "2", runner=FEW)
    assert main(once) == 0
    note = "training left out batches for which the GPU had too little memory; log.txt tells at which steps"
    assert note in read_result(experiment).notes
    assert f"\n{note}\n" in capsys.readouterr().out
    assert "step 1: not enough memory on the GPU" in (experiment / "log.txt").read_text()


def test_sweep_is_superbs_range_by_decades():
    assert learning_rates("sweep") == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def test_precision_of_the_upstream_is_in_its_settings_and_told(command, tmp_path):
    experiment = tmp_path / "EXP"
    assert main(command("sid", experiment, "--precision", "bf16", "--steps", "2", runner=FEW)) == 0
    settings = yaml.safe_load((experiment / "upstream.yaml").read_text())
    assert settings == {"feature_stats": "librispeech-360h", "precision": "bf16"}
    arguments = torch.load(experiment / "lr-0.01/states-2.ckpt", weights_only=True)["Args"]
    assert arguments.upstream_model_config == str(experiment / "upstream.yaml")
    assert "precision of the upstream" in {each.setting for each in read_result(experiment).differences}


def test_precision_that_the_upstreams_settings_ask_for_is_told_too(command, tmp_path, capsys):
    (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\nprecision: bf16\n")
    assert main(command("sid", tmp_path / "EXP", "--stage", "check")) == 0
    assert "  precision of the upstream bf16 (SUPERB: fp32)\n" in capsys.readouterr().out
    assert main(command("sid", tmp_path / "EXP", "--stage", "check", "--precision", "fp32")) == 0
    assert "precision of the upstream" not in capsys.readouterr().out
