"""Several processes train as one."""

from __future__ import annotations

import signal
import time

import pytest

from s3prl_melhubert import load_checkpoint

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_with_half_the_batch_each_lose_as_one(prepared, yamls, tmp_path, start, finish, log):
    run = {"total_steps": 20, "log_step": 1}
    one = yamls(model=NO_DROPOUT, runner=run, datarc={"train_batch_size": 4})
    two = yamls(model=NO_DROPOUT, runner=run, datarc={"train_batch_size": 2})
    common = ["--data", prepared, "--valid", prepared, "--device", "cpu"]
    alone = start("pretrain", *one, "-n", tmp_path / "one", *common)
    finish(start("pretrain", *two, "-n", tmp_path / "two", *common, launcher=TORCHRUN))
    finish(alone)
    rows = list(zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True))
    assert len(rows) == 20
    for name in ("loss", "unmasked_loss", "gradient_norm", "masked_accuracy"):
        for a, b in rows:
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4), (name, a["step"])
    for name in ("valid_loss", "valid_masked_accuracy"):
        assert float(rows[-1][0][name]) == pytest.approx(float(rows[-1][1][name]), abs=1e-4)


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(
    prepared, yamls, tmp_path, start, finish, same_training
):
    settings = yamls(runner={"total_steps": 80, "log_step": 10, "save_step": 5})
    arguments = ["pretrain", *settings, "--data", prepared, "--device", "cpu", "--resume"]
    finish(start(*arguments, "-n", tmp_path / "whole", launcher=TORCHRUN))
    exp = tmp_path / "stopped"
    process = start(*arguments, "-n", exp, launcher=TORCHRUN)
    while not (exp / "last.ckpt").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0
    assert load_checkpoint(exp / "last.ckpt").step < 80
    finish(start(*arguments, "-n", exp, launcher=TORCHRUN))
    same_training(tmp_path / "whole", exp)


@pytest.mark.slow
def test_accelerate_launch_starts_a_run(prepared, yamls, tmp_path, start, finish):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    exp = tmp_path / "exp"
    process = start("pretrain", *yamls(), "-n", exp, "--data", prepared, "--device", "cpu", launcher=launcher)
    finish(process)
    assert load_checkpoint(exp / "last.ckpt").step == 6
