"""Damaged files of an experiment, and disks without room: a line, with the file and what to do."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.experiment_files import read_identity
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result, write_result
from s3prl_melhubert.downstream_recipes.running.experiments.experiment import Experiment
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import Log, failures_in_a_line
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import read_checkpoint
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError


@pytest.fixture
def training(tmp_path) -> Training:
    """A training in speaker identification, of which nothing was done yet."""
    task = all_tasks()["sid"]
    folder = tmp_path / "EXP"
    return Training(
        task,
        RunOptions(upstream="fbank", expdir=folder, task_options=TaskOptions()),
        device="cpu",
        settings=task.superb_settings(),
        folder=folder,
        shared=folder,
    )


@pytest.mark.parametrize(
    "text", ['{"seconds": 1', "[]", "{}", '{"seconds": "x", "started": 0.0, "ended": true}']
)
def test_damaged_times_of_a_training_are_named(training, text):
    (training.folder / "training.json").write_text(text)
    with pytest.raises(MelHuBERTError, match=r"^\S+training\.json: .*; remove it, and give the same command"):
        training.must_have_ended()


def test_a_cut_checkpoint_is_named(tmp_path):
    path = tmp_path / "dev-best.ckpt"
    write_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(MelHuBERTError, match=r"^\S+dev-best\.ckpt: cannot be read as .*put a whole copy"):
        read_checkpoint(path)


def test_checkpoint_with_another_byte_is_named(tmp_path, change_a_byte):
    """Its length is that of the whole one, and torch makes other weights of it without a word."""
    path = tmp_path / "dev-best.ckpt"
    write_checkpoint(path, {"weights": torch.zeros(1000)})
    read_checkpoint(path)
    change_a_byte(path)
    words = r"^\S+dev-best\.ckpt: cannot be read as .*the checksum of dev-best/data/0 .*put a whole copy"
    with pytest.raises(MelHuBERTError, match=words):
        read_checkpoint(path)
    read_checkpoint(path, mapped=True)  # the settings, which are beside the weights


@pytest.mark.slow
def test_experiment_goes_on_from_no_damaged_checkpoint(corpus, short, tmp_path, change_a_byte, capsys):
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short(4)]
    assert main([*command, "--stage", "train"]) == 0
    for path in (tmp_path / "EXP").glob("*.ckpt"):
        change_a_byte(path)
    assert main([*command, "--stage", "test"]) == 2
    assert (
        "ckpt: cannot be read as s3prl's checkpoint (ValueError: the checksum of" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["states-4.ckpt", "best-states-dev.ckpt", "position.pt"])
def test_the_next_checkpoint_removes_what_a_killed_process_was_writing(name, tmp_path, run_python):
    killed = (
        "import os, sys, pathlib\n"
        "from s3prl_melhubert.compat.experiments.saving import write_checkpoint\n"
        "class Kill:\n"
        "    def __reduce__(self): os._exit(9)\n"
        "write_checkpoint(pathlib.Path(sys.argv[1]), {'steps': [1], 'then': Kill()})"
    )
    assert run_python("-c", killed, tmp_path / name).returncode == 9
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]
    write_checkpoint(tmp_path / "states-6.ckpt", {"steps": [2]})
    assert [path.name for path in tmp_path.iterdir()] == ["states-6.ckpt"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"value": "abc"}, "value is 'abc', expected float"),
        ({"dev": [1]}, r"dev is \[1\], expected float \| None"),
        ({"hours": {"train": None}}, "hours is None, expected float"),
        ({"layer_weights": ["a"]}, "layer_weights is 'a', expected float"),
        ({"with_language_model": {"value": None}}, "with_language_model.value is None"),
        ({"search": [{"learning_rate": 1, "dev": "x", "folder": "a"}]}, "dev is 'x'"),
    ],
)
def test_a_value_that_a_result_cannot_have_is_named(changed, said, result: Callable[..., Result], tmp_path):
    path = write_result(tmp_path, result("sid", 50.0))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(MelHuBERTError, match=rf"results\.json: .*{said}.*; if it is damaged, remove it"):
        read_result(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_result_that_is_none_is_named_with_what_to_do(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(MelHuBERTError, match=r"results\.json: .*if it is damaged, remove it, and give"):
        read_result(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_identity_that_is_none_is_named_with_what_to_do(text, tmp_path):
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(MelHuBERTError, match=r"experiment\.json: .*remove it, and give the experiment's own"):
        read_identity(tmp_path)


def test_an_experiment_that_has_ended_asks_for_no_room(result, tmp_path, monkeypatch, capsys):
    corpus = TaskOptions({"fluent-commands": "fluent"})
    options = RunOptions(upstream="fbank", expdir=tmp_path, task_options=corpus)
    experiment = Experiment(all_tasks()["ic"], options)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=0))
    for step in (experiment.check, experiment.run):
        with pytest.raises(MelHuBERTError, match=r"0 MB free on this disk, [0-9]+ MB are needed"):
            step()
    write_result(tmp_path, result("ic", 50.0))
    experiment.check()
    experiment.run()
    assert "this experiment has ended" in capsys.readouterr().out


def test_a_disk_without_room_for_a_checkpoint_is_named(tmp_path):
    """The limit is above what is written to find out why a writer failed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(MelHuBERTError, match=r"states-2\.ckpt: cannot be written \(File too large\)"):
            write_checkpoint(tmp_path / "states-2.ckpt", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_log() -> Path:
    """A file on a disk without room."""
    path = Path("/dev/full")
    if not path.exists():
        pytest.skip("this system has no /dev/full")
    return path


@pytest.mark.parametrize("write", [lambda log: log.note("a"), lambda log: log.write("a\n")])
def test_a_disk_without_room_for_the_log_is_named(full_log, write):
    with (
        pytest.raises(MelHuBERTError, match=r"/dev/full: cannot be written .*; make space"),
        Log(full_log) as log,
    ):
        write(log)


def test_a_full_disk_in_s3prls_program_is_named_with_the_folder(tmp_path):
    full = OSError(28, "No space left on device")
    said = rf"^{tmp_path}: cannot be written \(No space left on device\); make space, and give the same"
    with (
        Log(tmp_path / "log.txt") as log,
        pytest.raises(MelHuBERTError, match=said),
        failures_in_a_line("s3prl's program", log),
    ):
        raise full


def test_full_disk_of_tensorboards_thread_is_one_line(run_with_full_event_files, corpus, short, tmp_path):
    command = ["superb", "sid", *corpus["sid"], "-u", "fbank", "-p", tmp_path / "EXP", *short(20)]
    result = run_with_full_event_files(*command, "-o", "config.runner.log_step=1", "--lr", "1e-2,1e-3")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"melhubert: {tmp_path}/EXP/lr-0.01/events.out.tfevents.")
    assert line.endswith(
        ": cannot be written (No space left on device); make space, and give the same command again"
    )


def test_going_on_with_s3prls_own_program_says_that_the_bits_differ(training, monkeypatch, capsys):
    (training.folder / "states-2.ckpt").touch()
    monkeypatch.setattr(Training, "run_program", lambda self, arguments: [])
    training.run()
    said = capsys.readouterr().out
    assert "s3prl's own program goes on" in said
    assert said.index("continuing from states-2.ckpt") < said.index("not, bit for bit")


def test_training_that_begins_anew_for_want_of_a_checkpoint_says_so(training, monkeypatch, capsys):
    monkeypatch.setattr(Training, "run_program", lambda self, arguments: [])
    training.begin(None)
    training.begin(None)  # by the same process, with fewer learning rates in a pass
    assert "begun before" not in capsys.readouterr().out
    again = Training(
        training.task,
        training.options,
        device="cpu",
        settings=training.settings,
        folder=training.folder,
        shared=training.folder,
    )
    again.run()
    assert "EXP: was begun before, but holds no checkpoint; training begins anew" in capsys.readouterr().out
