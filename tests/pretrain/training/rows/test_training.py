"""Training on rows: exact where a run goes on, the same on several processes, and only where it is wanted."""

from __future__ import annotations

import signal

import pytest
import torch
import yaml

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training.beginning.folder import RUNNER_YAML, settle_rows
from s3prl_melhubert.pretrain.training.beginning.identity import run_identity
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.settings import Settings

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_a_run_on_rows_that_was_killed_ends_as_if_it_had_not_been(
    prepared, yamls, tmp_path, start, killed_after, finish, same_training
):
    settings = yamls(
        model={"encoder_layerdrop": 0.1},
        runner={"total_steps": 20, "log_step": 10, "save_step": 3},
        datarc={"rows": True, "num_workers": 1},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["pretrain", *settings, "--data", prepared, "--device", "cpu", "--resume"]
    uninterrupted = start(*arguments, "-n", whole)
    # The checkpoint of step 3 is on the disk when that of step 6 is begun.
    finish(start(*arguments, "-n", killed, launcher=killed_after(7)), -signal.SIGKILL)
    # The run itself notes that it is one on rows.
    again = start("pretrain", "-n", killed, "--resume", "--data", prepared, "--device", "cpu")
    output = finish(again)
    assert "continuing after step" in output
    assert "rows: crops end to end in rows of 40 frames" in output
    finish(uninterrupted)
    same_training(whole, killed)


@pytest.mark.slow
def test_two_processes_train_on_the_rows_of_one(prepared, yamls, tmp_path, start, finish, log):
    run = {"total_steps": 12, "log_step": 1}
    one = yamls(model=NO_DROPOUT, runner=run, datarc={"rows": True, "train_batch_size": 4})
    two = yamls(model=NO_DROPOUT, runner=run, datarc={"rows": True, "train_batch_size": 2})
    common = ["--data", prepared, "--valid", prepared, "--device", "cpu"]
    alone = start("pretrain", *one, "-n", tmp_path / "one", *common)
    finish(start("pretrain", *two, "-n", tmp_path / "two", *common, launcher=TORCHRUN))
    finish(alone)
    rows = list(zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True))
    assert len(rows) == 12
    for name in ("loss", "gradient_norm", "masked_accuracy"):
        for a, b in rows:
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4), (name, a["step"])
    assert float(rows[-1][0]["valid_loss"]) == pytest.approx(float(rows[-1][1]["valid_loss"]), abs=1e-4)


def settled(device, resumed=None, **datarc):
    settings = Settings.from_mapping({"datarc": datarc}, "runner.yaml")
    return settle_rows(settings, torch.device(device), resumed).datarc.rows


def test_rows_are_for_who_asks_for_them_and_auto_means_gpus():
    assert settled("cuda") is False  # the published recipe cuts no crop in two
    assert settled("cpu", rows="auto") is False
    assert settled("cuda", rows="auto") is True
    assert settled("cuda", rows="auto", sequence_length=-1) is False  # whole utterances have no common length
    assert settled("cpu", rows=True) is True


@pytest.mark.parametrize(
    ("noted", "expected"), [({}, False), ({"rows": True}, True), ({"rows": False}, False)]
)
def test_a_run_that_goes_on_stays_on_what_it_began_with(tmp_path, noted, expected):
    (tmp_path / RUNNER_YAML).write_text(yaml.safe_dump({"datarc": noted}))
    for device in ("cpu", "cuda"):
        assert settled(device, tmp_path, rows="auto") is expected


def test_a_run_does_not_change_to_rows_in_the_middle(tiny_model, prepared):
    steps = []
    dataset = PretrainingDataset([read_prepared(prepared)], tiny_model().config)
    for rows in (False, True):
        settings = Settings.from_mapping({"datarc": {"rows": rows}}, "runner.yaml")
        steps.append(run_identity(dataset.config, settings, dataset, 0, 2)["batch of a step"])
    assert steps == ["64 utterances", "64 rows of 750 frames"]


def test_the_runner_of_s3prl_has_no_rows(prepared, tmp_path, tiny_settings):
    from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert

    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"melhubert": tiny_settings}))
    datarc = {"sets": [str(prepared)], "rows": True}
    with pytest.raises(MelHuBERTError, match="rows: True found"):
        UpstreamPretrainExpert(datarc, model, device="cpu")
