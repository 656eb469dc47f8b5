"""A run that was killed and resumed is the run that was not."""

from __future__ import annotations

import random
import time

import pytest

from s3prl_melhubert.cli import main

SAME = ("step", "epoch", "loss", "masked_accuracy", "unmasked_loss", "unmasked_accuracy", "learning_rate")


def same_columns(rows):
    return [{name: row[name] for name in SAME} for row in rows]


@pytest.mark.slow  # test_a_run_on_rows_that_was_killed_... is the quicker one
def test_five_kills_and_resumes_end_with_the_same_bits(
    prepared, yamls, tmp_path, start, finish, same_training, log
):
    settings = yamls(
        model={"encoder_layerdrop": 0.1},
        runner={"total_steps": 200, "log_step": 10, "save_step": 4, "max_keep": 2},
        optimizer={"name": "AdamW"},
        scheduler={"name": "cosine", "warmup_steps": 20},
        datarc={"num_workers": 1},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["pretrain", *settings, "--data", prepared, "--resume"]
    uninterrupted = start(*arguments, "-n", whole)

    moments = random.Random(0)
    kills, steps = 0, []
    last = killed / "last.ckpt"
    while kills < 5:
        before = last.stat().st_mtime_ns if last.is_file() else 0
        process = start(*arguments, "-n", killed)
        while (last.stat().st_mtime_ns if last.is_file() else 0) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, "ended before it was killed: " + process.communicate()[0]
        process.kill()
        process.communicate()
        kills += 1
        steps.append(last.stat().st_mtime_ns)
    assert len(set(steps)) == 5
    output = finish(start(*arguments, "-n", killed))
    assert "continuing after step" in output
    finish(uninterrupted)
    same_training(whole, killed)
    assert same_columns(log(whole)) == same_columns(log(killed))


def test_a_run_that_has_more_steps_than_are_asked_for_says_so(prepared, yamls, tmp_path, capsys):
    arguments = ["pretrain", "-n", str(tmp_path / "exp"), "--data", str(prepared), "--resume"]
    assert main([*arguments, *yamls(runner={"total_steps": 3})]) == 0
    assert main([*arguments, *yamls(runner={"total_steps": 2})]) == 0
    said = capsys.readouterr().out
    assert "step 3 is done already; nothing is left to train" in said
    assert "continuing" not in said


@pytest.mark.slow
def test_resume_is_exact_from_the_middle_of_a_line_of_the_log(
    prepared, yamls, tmp_path, start, finish, same_training, log
):
    """Killed at once after each of several checkpoints, two of them between lines of the log."""
    settings = yamls(
        runner={"total_steps": 60, "log_step": 25, "save_step": 7},
        datarc={"max_frames": 200, "num_workers": 2},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["pretrain", *settings, "--data", prepared, "--resume"]
    finish(start(*arguments, "-n", whole))
    for _ in range(3):
        last = killed / "last.ckpt"
        before = last.stat().st_mtime_ns if last.is_file() else 0
        process = start(*arguments, "-n", killed)
        while (last.stat().st_mtime_ns if last.is_file() else 0) == before:
            time.sleep(0.005)
        process.kill()
        process.communicate()
    finish(start(*arguments, "-n", killed))
    same_training(whole, killed)
    assert same_columns(log(whole)) == same_columns(log(killed))
