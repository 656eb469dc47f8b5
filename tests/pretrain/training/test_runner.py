"""`melhubert pretrain`: it learns, it is exact, and it says what is wrong."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
import torch
import yaml

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError, load_checkpoint, load_model
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training import metrics, micro_batches
from s3prl_melhubert.pretrain.training.optimization import (
    accumulate_gradients,
)
from s3prl_melhubert.pretrain.training.settings import (
    Settings,
    config_folder,
)

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}

PUBLISHED_RUNNER = """
runner:
  n_epochs: 200
  total_steps: -1
  gradient_clipping: 10.0
  gradient_accumulate_steps: 8

  log_step: 1000
  save_every_x_epochs: 50

optimizer:
  lr: 0.0001
  betas: [0.9, 0.999]
  eps: 1.0e-08
  weight_decay: 0

datarc:
  num_workers: 8
  train_batch_size: 4
  max_timestep: -320
  sequence_length: 750
  sets: [CSV]
"""


def test_a_run_learns_and_leaves_what_it_should(prepared, yamls, tmp_path, capsys, log):
    settings = yamls(
        runner={"total_steps": 120, "log_step": 40, "save_step": 40, "max_keep": 2},
        optimizer={"name": "AdamW", "lr": 5e-3},
        scheduler={"name": "linear", "warmup_steps": 10},
        datarc={"train_batch_size": 4},
    )
    exp = tmp_path / "exp"
    arguments = ["pretrain", "-f", "20", *settings, "-n", str(exp), "--data", str(prepared)]
    assert main([*arguments, "--valid", str(prepared), "--device", "cpu"]) == 0
    rows = log(exp)
    assert [(row["step"], row["epoch"]) for row in rows] == [("40", "14"), ("80", "27"), ("120", "40")]
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert float(rows[-1]["masked_accuracy"]) > 0.5
    assert float(rows[-1]["valid_masked_accuracy"]) > 0.5
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"])
    assert all(row[name] for row in rows for name in metrics.COLUMNS)
    assert {path.name for path in exp.glob("*.ckpt")} == {"last.ckpt", "step-80.ckpt", "step-120.ckpt"}
    assert (exp / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(exp.glob("events.out.tfevents.*"))

    checkpoint = load_checkpoint(exp / "step-120.ckpt")
    assert checkpoint.stats == read_prepared(prepared).info.stats
    assert (checkpoint.step, checkpoint.frame_period) == (120, 20)
    assert {"Optimizer", "Args", "Runner"} <= set(checkpoint.rest)
    model, frontend = load_model(exp / "last.ckpt")
    features, padding_mask = frontend([torch.randn(16000) / 10])
    assert model(features, padding_mask).last_hidden_state.shape == (1, 49, 48)
    assert "step 120/120" in capsys.readouterr().out


def test_a_10_ms_model_trains(prepared, yamls, tmp_path):
    settings = yamls(model={"feat_emb_dim": 40})
    exp = tmp_path / "exp"
    assert main(["pretrain", "-f", "10", *settings, "-n", str(exp), "--data", str(prepared)]) == 0
    assert load_checkpoint(exp / "last.ckpt").frame_period == 10


def test_published_settings_and_csv_work_as_they_are(make_published, tmp_path, capsys):
    csv_path = make_published([330, 340, 300, 400])
    runner_yaml, exp = tmp_path / "runner.yaml", tmp_path / "exp"
    published = PUBLISHED_RUNNER.replace("CSV", str(csv_path))
    runner_yaml.write_text(published)
    assert Settings.from_yaml(runner_yaml).runner.n_epochs == 200
    # As published but for the time it takes: fewer epochs, and a smaller model.
    runner_yaml.write_text(published.replace("n_epochs: 200", "n_epochs: 2"))
    model = yaml.safe_load((config_folder() / "config_model.yaml").read_text())
    model["melhubert"].update(
        encoder_layers=1, encoder_embed_dim=48, encoder_ffn_embed_dim=48, encoder_attention_heads=4
    )
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    settings = ["-f", "20", "-g", str(tmp_path / "model.yaml"), "-c", str(runner_yaml)]
    assert main(["pretrain", *settings, "-n", str(exp), "--seed", "1"]) == 0
    checkpoint = load_checkpoint(exp / "last.ckpt")
    assert (checkpoint.step, checkpoint.stats) == (2, None)
    assert "feature_stats" in capsys.readouterr().err

    with_stats = published.replace("n_epochs: 200", "n_epochs: 1") + "  feature_stats: librispeech-360h\n"
    runner_yaml.write_text(with_stats)
    assert main(["pretrain", *settings, "-n", f"{exp}2"]) == 0
    assert load_checkpoint(tmp_path / "exp2" / "last.ckpt").stats.name


@pytest.mark.parametrize("period", [10, 20])
def test_default_settings_are_the_published_ones(period):
    suffix = "" if period == 20 else "_10ms"
    config = MelHuBERTConfig.from_yaml(config_folder() / f"config_model{suffix}.yaml")
    assert config == MelHuBERTConfig(feat_emb_dim=4 * period)
    ours = Settings.from_yaml(config_folder() / f"config_runner{suffix}.yaml")
    published = Settings.from_mapping(yaml.safe_load(PUBLISHED_RUNNER), "published")
    assert ours.runner == published.runner
    assert dict(ours.optimizer.arguments) == dict(published.optimizer.arguments)
    assert ours.optimizer.name == published.optimizer.name == "Adam"
    assert ours.scheduler == published.scheduler
    assert ours.datarc.sequence_length == {10: 1500, 20: 750}[period]
    assert ours.datarc.max_timestep == -320


def test_training_goes_on_from_a_published_checkpoint(reference, prepared, yamls, tmp_path):
    published = torch.load(reference / "tiny-20ms.ckpt", weights_only=False)
    # An optimizer's state as the torch of those days wrote it: fewer settings, the step a plain number.
    names = list(published["model"])
    moments = {name: torch.full_like(published["model"][name], 1e-3) for name in names}
    group = {"lr": 1.0, "betas": (0.5, 0.5), "eps": 1e-8, "weight_decay": 0.5, "amsgrad": False}
    published["Optimizer"] = {
        "state": {
            i: {"step": 5, "exp_avg": moments[name], "exp_avg_sq": moments[name].clone()}
            for i, name in enumerate(names)
        },
        "param_groups": [{**group, "params": list(range(len(names)))}],
    }
    start = tmp_path / "published.ckpt"
    torch.save(published, start)
    settings = yamls(model=published["Upstream_Config"]["melhubert"], runner={"total_steps": 1})
    common = ["pretrain", *settings, "--data", str(prepared), "-i", str(start)]
    assert main([*common, "-n", str(tmp_path / "fresh")]) == 0
    assert main([*common, "-n", str(tmp_path / "exp"), "--init_optimizer_from_initial_weight"]) == 0
    fresh, after = (torch.load(tmp_path / n / "last.ckpt", weights_only=False) for n in ("fresh", "exp"))
    assert list(after["model"]) == names
    assert fresh["Optimizer"]["state"][0]["step"] == 1
    assert after["Optimizer"]["state"][0]["step"] == 6
    # Adam's first moment: 0.9 of what the file held, and the same gradient.
    fresh_moment, moment = (content["Optimizer"]["state"][0]["exp_avg"] for content in (fresh, after))
    assert (moment - fresh_moment).numpy() == pytest.approx(0.9e-3, rel=1e-3)
    assert after["Optimizer"]["param_groups"][0]["lr"] == 1e-3  # the settings' figures, not the file's
    assert after["Optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    for name in names:  # one step of at most 1e-3 away
        assert 0 < (after["model"][name] - published["model"][name]).abs().max() < 2e-3


def test_running_out_of_memory_changes_the_pieces_and_nothing_else(
    prepared, yamls, tmp_path, monkeypatch, log
):
    settings = yamls(model=NO_DROPOUT, datarc={"train_batch_size": 8})
    arguments = ["pretrain", *settings, "--data", str(prepared)]
    assert main([*arguments, "-n", str(tmp_path / "plain")]) == 0

    def small_memory(model, batches, *rest):
        batches = list(batches)
        if max(len(batch.lengths) for batch in batches) > 2:
            accumulate_gradients(model, batches[:1], *rest)  # what was done before must not stay
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return accumulate_gradients(model, batches, *rest)

    monkeypatch.setattr(micro_batches, "accumulate_gradients", small_memory)
    assert main([*arguments, "-n", str(tmp_path / "small")]) == 0
    for plain, small in zip(log(tmp_path / "plain"), log(tmp_path / "small"), strict=True):
        assert float(plain["loss"]) == pytest.approx(float(small["loss"]), abs=1e-5)

    def no_memory(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_batches, "accumulate_gradients", no_memory)
    assert main([*arguments, "-n", str(tmp_path / "none")]) == 2


def test_steps_that_are_not_finite_are_skipped_and_many_stop_the_run(
    make_prepared, yamls, tmp_path, capsys, log
):
    path = make_prepared(tmp_path / "set", [80] * 8)
    features = np.load(path / "features" / "0.npy")
    features[:80] = 1e38  # finite, and infinite after the first product
    np.save(path / "features" / "0.npy", features)
    settings = yamls(runner={"gradient_accumulate_steps": 1, "log_step": 8, "total_steps": 8})
    exp = tmp_path / "exp"
    assert main(["pretrain", *settings, "-n", str(exp), "--data", str(path)]) == 0
    assert log(exp)[-1]["skipped_steps"] == "2"  # two epochs of four steps
    assert np.isfinite(float(log(exp)[-1]["loss"]))
    assert all(tensor.isfinite().all() for tensor in load_checkpoint(exp / "last.ckpt").state.values())

    features[:] = 1e38
    np.save(path / "features" / "0.npy", features)
    settings = yamls(runner={"max_skipped_steps": 3})
    assert main(["pretrain", *settings, "-n", str(tmp_path / "exp2"), "--data", str(path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "3 steps in a row" in error
    assert "optimizer.lr" in error


def test_bfloat16_trains(prepared, yamls, tmp_path):
    settings = yamls(runner={"precision": "bf16"})
    exp = tmp_path / "exp"
    assert main(["pretrain", *settings, "-n", str(exp), "--data", str(prepared), "--device", "cpu"]) == 0
    assert {tensor.dtype for tensor in load_checkpoint(exp / "last.ckpt").state.values()} == {torch.float32}


@pytest.mark.slow
def test_compiled_model_trains_to_the_same_loss(prepared, yamls, tmp_path, log):
    losses = []
    for compiled in (False, True):
        settings = yamls(model=NO_DROPOUT, runner={"compile": compiled})
        exp = tmp_path / f"exp{compiled}"
        assert main(["pretrain", *settings, "-n", str(exp), "--data", str(prepared)]) == 0
        losses.append([float(row["loss"]) for row in log(exp)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert "encoder.layers.0.fc1.weight" in load_checkpoint(exp / "last.ckpt").state


def test_sigterm_saves_and_resume_goes_on(prepared, yamls, tmp_path, start, finish, log):
    settings = yamls(runner={"total_steps": 100_000}, datarc={"num_workers": 1})
    exp = tmp_path / "exp"
    arguments = ["pretrain", *settings, "-n", exp, "--data", prepared]
    process = start(*arguments)
    while not (exp / "log.csv").is_file() or len(log(exp)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 143)
    step = load_checkpoint(exp / "last.ckpt").step
    assert f"stopped by SIGTERM after step {step}" in output
    assert (exp / "curves.png").is_file()

    # The same settings and a nearer end.
    runner_yaml = yaml.safe_load((exp / "config_runner.yaml").read_text())
    runner_yaml["runner"]["total_steps"] = step + 2
    (exp / "config_runner.yaml").write_text(yaml.safe_dump(runner_yaml))
    assert main(["pretrain", "-n", str(exp), "--resume"]) == 0
    assert load_checkpoint(exp / "last.ckpt").step == step + 2


BAD = {
    "unknown key": (
        {"runner": {"gradient_cliping": 1}},
        [],
        "gradient_cliping (did you mean gradient_clipping?)",
    ),
    "unknown section": ({"optimiser": {}}, [], "optimiser (did you mean optimizer?)"),
    "learning rate": (
        {"optimizer": {"lr": "1e400"}},
        [],
        "section optimizer: lr: '1e400' found, expected a fin",
    ),
    "betas": (
        {"optimizer": {"betas": [0.9, float("inf")]}},
        [],
        "betas: inf found, expected a finite number",
    ),
    "huge step": ({"runner": {"log_step": 10**12}}, [], "expected at most 2147483647"),
    "bad value": ({"runner": {"log_step": 0}}, [], "log_step: 0 found"),
    "precision": ({"runner": {"precision": "fp8"}}, [], "expected fp32 or bf16 or fp16"),
    "two precisions": (
        {"runner": {"fp16": True, "precision": "fp32"}},
        [],
        "fp16: True and precision: 'fp32' found, which contradict each other",
    ),
    "fp16 on a CPU": ({"runner": {"precision": "fp16"}}, ["--device", "cpu"], "fp16 needs a GPU"),
    "optimizer": ({"optimizer": {"name": "Adan"}}, [], "did you mean Adam"),
    "optimizer's argument": ({"optimizer": {"beta": 1}}, [], "Adam takes no beta"),
    "optimizer's value": ({"optimizer": {"lr": -1.0}}, [], "Invalid learning rate"),
    "schedule": ({"scheduler": {"warmup_steps": 6}}, [], "warmup_steps: 6"),
    "schedule of epochs": (
        {"runner": {"total_steps": -1, "n_epochs": 1}, "scheduler": {"warmup_steps": 9}},
        [],
        "section scheduler: warmup_steps: 9 found, expected fewer than the run's",
    ),
    "no utterance left": (
        {"datarc": {"max_timestep": -999}},
        [],
        "section datarc: max_timestep: -999 leaves",
    ),
    "no room": ({"datarc": {"max_frames": 10}}, [], "section datarc: max_frames: 10 found"),
    "no data": ({}, ["--data", "/nowhere"], "/nowhere: no such file or folder"),
    "no data named": ({}, None, "--data DIR"),
    "frame period": ({}, ["-f", "10"], "feat_emb_dim 80"),
    "no checkpoint": ({}, ["-i", "/nowhere.ckpt"], "/nowhere.ckpt"),
    "optimizer of nothing": ({}, ["--init_optimizer_from_initial_weight"], "needs a checkpoint"),
    "seed below zero": ({}, ["--seed", "-1"], "--seed -1: expected 0 to 18446744073709551615"),
    "huge seed": ({}, ["--seed", "9" * 20], f"--seed {'9' * 20}: expected 0 to"),
    "no such device": ({}, ["--device", "gpu"], "device 'gpu'"),
    "clusters": ({"model": {"num_cluster": 10}}, [], "num_cluster 10"),
    "model's key": ({"model": {"encoder_layer": 2}}, [], "did you mean encoder_layers?"),
    "another model": ({"model": {"conv_pos": 8}}, ["-i", "REFERENCE"], "do not fit: conv_pos is 16 there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, prepared, reference, yamls, tmp_path, capsys):
    changes, extra, message = BAD[case]
    arguments = ["pretrain", *yamls(**changes), "-n", str(tmp_path / "exp")]
    if extra is not None:
        extra = [str(reference / "tiny-20ms.ckpt") if text == "REFERENCE" else text for text in extra]
        arguments += ["--data", str(prepared), *extra] if "--data" not in extra else extra
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("melhubert: ")
    assert error.count("\n") == 1
    if set(changes) & {"runner", "optimizer", "scheduler", "datarc"}:
        assert f"{tmp_path / 'runner0.yaml'}" in error


def test_a_used_folder_and_other_settings_are_refused(prepared, yamls, tmp_path, capsys):
    exp = tmp_path / "exp"
    arguments = ["pretrain", *yamls(), "-n", str(exp), "--data", str(prepared)]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "holds a run already" in capsys.readouterr().err
    changed = ["pretrain", *yamls(optimizer={"lr": 0.5}), "-n", str(exp), "--data", str(prepared)]
    assert main([*changed, "--resume"]) == 2
    assert "optimizer" in capsys.readouterr().err
    assert main(["pretrain", "-n", str(exp), "--resume", "--seed", "3"]) == 2
    assert "started with seed 1337, now 3" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0  # there is nothing left to do


def test_labels_of_other_clusters_are_no_validation_and_no_continuation(
    make_prepared, yamls, tmp_path, capsys
):
    lengths = [60, 80, 100, 120]
    data, others = (make_prepared(tmp_path / name, lengths) for name in ("data", "others"))
    for folder, scale in ((data, 1), (others, 2)):
        np.save(folder / "kmeans.npy", np.eye(16, 40, dtype=np.float32) * scale)
    exp = tmp_path / "exp"
    arguments = ["pretrain", *yamls(), "-n", str(exp)]
    assert main([*arguments, "--data", str(data), "--valid", str(others)]) == 2
    assert f"{others}: its labels are of other clusters" in capsys.readouterr().err
    assert main([*arguments, "--data", str(data), "--valid", str(data)]) == 0
    assert main([*arguments, "--data", str(others), "--resume"]) == 2
    assert "the run was started with clusters of the labels " in capsys.readouterr().err

    content = torch.load(exp / "last.ckpt", weights_only=False)
    del content["Progress"]["identity"]["clusters of the labels"]  # as an earlier version wrote it
    torch.save(content, exp / "last.ckpt")
    assert main([*arguments, "--data", str(data), "--resume"]) == 0


def test_a_published_csv_beside_a_prepared_folder_is_told_of(
    make_published, prepared, yamls, tmp_path, capsys
):
    csv_path = make_published([100] * 4)
    settings = ["pretrain", *yamls(), "-n", str(tmp_path / "exp")]
    assert main([*settings, "--data", str(prepared), "--data", str(csv_path)]) == 0
    assert "those of the prepared folders beside it are taken to be it" in " ".join(
        capsys.readouterr().out.split()
    )


def test_bad_labels_stop_a_run_in_one_line_also_from_a_reader(make_published, yamls, tmp_path, capsys):
    csv_path = make_published([100] * 4)
    np.save(tmp_path / "published" / "2.label.npy", np.full(100, 99))
    for workers in (0, 1):
        settings = yamls(datarc={"num_workers": workers, "feature_stats": "librispeech-100h"})
        exp = tmp_path / f"exp{workers}"
        assert main(["pretrain", *settings, "-n", str(exp), "--data", str(csv_path)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("melhubert: ")
        assert "2.label.npy: cluster id 99" in error


def test_settings_survive_their_own_yaml(tmp_path):
    settings = Settings.from_mapping(yaml.safe_load(PUBLISHED_RUNNER), "published")
    again = Settings.from_mapping(yaml.safe_load(yaml.safe_dump(settings.to_mapping())), "again")
    assert again == settings
    assert Settings.from_mapping({"runner": {"total_steps": 5}}, "").runner.n_epochs == -1
    assert Settings.from_mapping({"runner": {"fp16": True}}, "").runner.precision == "fp16"
    with pytest.raises(MelHuBERTError, match="n_epochs"):
        Settings.from_mapping({"runner": {"n_epochs": -1}}, "")
