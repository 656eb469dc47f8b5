"""Checkpoints are written while the training goes on, and nothing is lost by it."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time

import pytest
import torch

from s3prl_melhubert import MelHuBERTError, load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training import checkpointing, micro_batches, runner
from s3prl_melhubert.pretrain.training.optimization import accumulate_gradients
from s3prl_melhubert.pretrain.training.settings import RunnerSettings
from s3prl_melhubert.support.files import remove_abandoned

STEPS, EVERY = 16, 4
SECONDS = 200.0  # after which a test that waits for something fails


@pytest.fixture
def arguments(prepared, yamls):
    settings = yamls(runner={"total_steps": STEPS, "save_step": EVERY, "log_step": 1})
    return ["pretrain", *settings, "--data", str(prepared), "--device", "cpu"]


@pytest.fixture
def done(monkeypatch) -> list[int]:
    """The steps that a training has done."""
    steps: list[int] = []
    take = runner.Pretraining._step

    def step(training, batches):
        take(training, batches)
        steps.append(training.progress.step)

    monkeypatch.setattr(runner.Pretraining, "_step", step)
    return steps


@pytest.fixture
def before_writing(monkeypatch):
    """`before_writing(job)`: a slow disk: `job(step)` is done before a checkpoint is written."""

    def delay(job):
        def write(path, config, state, stats, step, *rest):
            job(step)
            save_checkpoint(path, config, state, stats, step, *rest)

        monkeypatch.setattr(checkpointing, "save_checkpoint", write)

    return delay


def wait_until(reached) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, "the training waits for the writing"
        time.sleep(0.002)


def steps_of(folder) -> dict[str, int | None]:
    return {path.name: load_checkpoint(path).step for path in folder.glob("[!.]*.ckpt")}


def test_training_goes_on_while_the_state_of_its_step_is_written(
    arguments, tmp_path, done, before_writing, same_training
):
    assert main([*arguments, "-n", str(tmp_path / "plain")]) == 0
    done.clear()
    before_writing(lambda step: wait_until(lambda: done[-1] >= min(STEPS, step + EVERY - 1)))
    assert main([*arguments, "-n", str(tmp_path / "slow")]) == 0
    for name in ("last.ckpt", *(f"step-{step}.ckpt" for step in range(EVERY, STEPS + 1, EVERY))):
        same_training(tmp_path / "plain", tmp_path / "slow", name)


def test_a_training_that_fails_or_is_stopped_waits_for_what_is_being_written(
    arguments, tmp_path, done, before_writing, monkeypatch, capsys
):
    before_writing(lambda step: (wait_until(lambda: done[-1] > EVERY), time.sleep(0.3)))

    def fail(*others):
        if done[-1:] == [EVERY + 1]:
            raise MelHuBERTError("the step failed")
        return accumulate_gradients(*others)

    def stop(*others):
        if done[-1:] == [EVERY]:
            os.kill(os.getpid(), signal.SIGTERM)
        return accumulate_gradients(*others)

    monkeypatch.setattr(micro_batches, "accumulate_gradients", fail)
    assert main([*arguments, "-n", str(tmp_path / "failed")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "melhubert: the step failed"
    assert steps_of(tmp_path / "failed") == {"step-4.ckpt": EVERY, "last.ckpt": EVERY}

    done.clear()
    monkeypatch.setattr(micro_batches, "accumulate_gradients", stop)
    assert main([*arguments, "-n", str(tmp_path / "stopped")]) == 128 + signal.SIGTERM
    assert steps_of(tmp_path / "stopped") == {"step-4.ckpt": EVERY, "last.ckpt": EVERY + 1}


def test_a_full_disk_stops_the_training_at_once_and_loses_no_older_checkpoint(
    arguments, tmp_path, done, before_writing, monkeypatch, capsys, same_training
):
    """A limit of the size of files fails the second write as a full disk does, with another number."""
    assert main([*arguments, "-n", str(tmp_path / "whole")]) == 0
    done.clear()
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)

    in_step = threading.Event()  # the second step after the one that is written has begun
    written = []  # what each write came to, or will come to

    def fill(step):
        if step == 2 * EVERY:
            assert in_step.wait(SECONDS), "the training waits for the writing"
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, sizes[1]))

    def take(*others):  # The write fails within this step, which is the last.
        if done[-1:] == [2 * EVERY + 1]:
            in_step.set()
            wait_until(written[-1].done)
        return accumulate_gradients(*others)

    def save(checkpoints, *others):
        begin(checkpoints, *others)
        written.append(checkpoints._writing)

    begin = checkpointing.Checkpoints.save
    monkeypatch.setattr(checkpointing.Checkpoints, "save", save)
    before_writing(fill)
    monkeypatch.setattr(micro_batches, "accumulate_gradients", take)
    exp = tmp_path / "exp"
    try:
        assert main([*arguments, "-n", str(exp)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the checkpoint of step 8 cannot be written (File too large); earlier ones are intact" in line
    assert done[-1] == 2 * EVERY + 2
    assert steps_of(exp) == {"step-4.ckpt": EVERY, "last.ckpt": EVERY}
    monkeypatch.undo()
    assert main([*arguments, "-n", str(exp), "--resume"]) == 0
    same_training(tmp_path / "whole", exp)


def test_both_faults_are_told_where_the_writing_fails_and_the_training_too(
    arguments, tmp_path, done, before_writing, monkeypatch, capsys
):
    failed = threading.Event()

    def no_disk(step):
        assert failed.wait(SECONDS), "the training waits for the writing"
        raise OSError(28, "No space left on device")

    def fail(*others):
        if done[-1:] == [EVERY + 1]:
            failed.set()
            raise MelHuBERTError("the step failed")
        return accumulate_gradients(*others)

    before_writing(no_disk)
    monkeypatch.setattr(micro_batches, "accumulate_gradients", fail)
    assert main([*arguments, "-n", str(tmp_path / "exp")]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "checkpoint of step 4 cannot be written (No space left on device)" in first
    assert second == "melhubert: the step failed"


# The second checkpoint is half written when the process dies.
KILLED_WRITING = """
import os, signal, sys, torch
from s3prl_melhubert.cli import main

save, calls = torch.save, []

def half(content, file, *others, **options):
    save(content, file, *others, **options)
    calls.append(file.name)
    if len(calls) == 2:
        file.truncate(file.tell() // 2)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
sys.exit(main(sys.argv[sys.argv.index("s3prl_melhubert") + 1 :]))
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_checkpoint_before(
    prepared, yamls, tmp_path, start, finish, same_training, log
):
    settings = yamls(
        model={"encoder_embed_dim": 256, "encoder_ffn_embed_dim": 1024},  # some megabytes to write
        runner={"total_steps": 16, "save_step": 4, "log_step": 3},
    )
    arguments = ["pretrain", *settings, "--data", prepared, "--device", "cpu", "--resume"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(*arguments, "-n", whole))

    finish(start(*arguments, "-n", killed, launcher=("-c", KILLED_WRITING)), -signal.SIGKILL)
    assert [path.stat().st_size > 100_000 for path in killed.glob(".step-8.*.ckpt")] == [True]
    assert steps_of(killed) == {"step-4.ckpt": 4, "last.ckpt": 4}
    output = finish(start(*arguments, "-n", killed))
    assert "continuing after step 4" in output
    assert not list(killed.glob(".*.ckpt"))
    same_training(whole, killed)
    columns = ("step", "loss", "gradient_norm")
    assert [[row[c] for c in columns] for row in log(whole)] == [
        [row[c] for c in columns] for row in log(killed)
    ]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_of_a_checkpoint_is_not_taken_for_what_a_killed_process_left(
    tmp_path, monkeypatch, links
):
    (tmp_path / "step-1.ckpt").write_text("weights")

    def no_links(source, target):
        raise OSError("this file system has no links")

    if not links:
        monkeypatch.setattr("os.link", no_links)
    swept = []
    monkeypatch.setattr("os.fsync", lambda handle: swept.append(remove_abandoned(tmp_path)))
    checkpointing._link(tmp_path / "step-1.ckpt", tmp_path / "last.ckpt")
    assert swept
    assert (tmp_path / "last.ckpt").read_text() == "weights"
    assert {path.name for path in tmp_path.iterdir()} == {"step-1.ckpt", "last.ckpt"}


def test_checkpoints_of_steps_and_of_epochs_are_kept_and_gone_on_from_in_the_order_of_their_steps(
    tmp_path, tiny_model
):
    """An epoch has ten steps here, so that epoch-1 is newer than step-8, and older than step-12."""
    settings, model = RunnerSettings(save_step=4, save_every_x_epochs=1), tiny_model()
    names = {step: checkpointing.numbered_names(step, settings, 10) for step in range(1, 21)}
    kept = {step: [name.removesuffix(".ckpt") for name in some] for step, some in names.items() if some}
    steps = {4: ["step-4"], 8: ["step-8"], 10: ["epoch-1"], 12: ["step-12"], 16: ["step-16"]}
    assert kept == {**steps, 20: ["step-20", "epoch-2"]}
    seldom = RunnerSettings(save_every_x_epochs=2)
    assert [step for step in range(1, 50) if checkpointing.numbered_names(step, seldom, 10)] == [20, 40]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rest = {"stats": None, "steps_per_epoch": 10, "rest": {}, "identity": {}}
    with checkpointing.Checkpoints(tmp_path, max_keep=3, **rest) as checkpoints:
        for step in range(1, 14):
            if names[step]:
                checkpoints.save(names[step], model, optimizer, checkpointing.Progress(step))
    assert steps_of(tmp_path) == {"step-8.ckpt": 8, "epoch-1.ckpt": 10, "step-12.ckpt": 12, "last.ckpt": 12}

    for step, name in ((12, "last"), (12, "step-12"), (10, "epoch-1"), (8, "step-8")):
        found, _ = checkpointing.newest_intact(tmp_path, 10)
        assert (found.path.stem, found.step) == (name, step)
        found.path.unlink()
    assert checkpointing.newest_intact(tmp_path, 10) is None
