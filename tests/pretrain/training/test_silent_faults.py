"""Runs that would go wrong without a word: each is refused, resumed from what is whole, or says so."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.model import parameter_count
from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert
from s3prl_melhubert.support.locks import only_writer

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def pretrain(settings, data, exp, *more) -> int:
    return main(["pretrain", *settings, "-n", str(exp), "--data", str(data), "--device", "cpu", *more])


def last_line(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_says_what_it_trains_on_and_what_is_left_out(prepared, yamls, tmp_path, capsys):
    assert pretrain(yamls(datarc={"max_timestep": -100}), prepared, tmp_path / "exp") == 0
    said = capsys.readouterr().out
    kept = [30 + (37 * i) % 171 > 100 for i in range(20)].count(True)
    for words in (
        f"data: {kept} utterances",
        f"left out: {20 - kept} utterances",
        "not over 100 frames (1 s)",
    ):
        assert words in said
    for words in (" k parameters", "on cpu in fp32", "steps: 6", "log.csv"):
        assert words in said


def test_a_run_says_which_set_it_reads_more_than_once(make_prepared, yamls, tmp_path, capsys):
    data, other = (make_prepared(tmp_path / name, [80] * 8) for name in ("set", "other"))
    (tmp_path / "link").symlink_to(data)
    again = ["--data", str(tmp_path / "link"), "--data", str(other), "--valid", str(data)]
    assert pretrain(yamls(), data, tmp_path / "exp", *again) == 0
    said = capsys.readouterr().out
    assert f"data: {data} is named 2 times; each of its utterances counts 2 times" in said
    assert f"{other} is named" not in said
    assert f"validation: {data} is trained on, too" in said


def test_features_that_are_no_numbers_are_refused(make_prepared, yamls, tmp_path, capsys):
    data = make_prepared(tmp_path / "set", [80] * 8)
    features = np.load(data / "features" / "0.npy")
    features[100] = np.nan
    np.save(data / "features" / "0.npy", features)
    assert pretrain(yamls(), data, tmp_path / "exp") == 2
    assert "NaN or infinite features" in last_line(capsys)


def test_weights_that_are_no_numbers_are_not_written(make_prepared, yamls, tmp_path, capsys):
    data = make_prepared(tmp_path / "set", [80] * 8)
    settings = yamls(optimizer={"name": "SGD", "lr": 1e20, "weight_decay": 1e30}, runner={"total_steps": 1})
    assert pretrain(settings, data, tmp_path / "exp") == 2
    assert "is not finite after step 1: the training has diverged" in last_line(capsys)
    assert not list((tmp_path / "exp").glob("*.ckpt"))


def test_training_whose_steps_were_mostly_skipped_is_no_success(make_prepared, yamls, tmp_path, capsys):
    data = make_prepared(tmp_path / "set", [80] * 8)
    features = np.load(data / "features" / "0.npy")
    features[:400] = 1e38
    np.save(data / "features" / "0.npy", features)
    settings = yamls(runner={"gradient_accumulate_steps": 1, "total_steps": 20, "max_skipped_steps": 100})
    assert pretrain(settings, data, tmp_path / "exp") == 2
    assert "steps were skipped" in last_line(capsys)


def test_second_run_in_a_folder_is_refused(prepared, yamls, tmp_path, capsys, start):
    (tmp_path / "exp").mkdir()
    with only_writer(tmp_path / "exp"):
        process = start("pretrain", *yamls(), "-n", tmp_path / "exp", "--data", prepared, "--device", "cpu")
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "another process is at work" in output.splitlines()[-1]
    assert pretrain(yamls(), prepared, tmp_path / "exp") == 0


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_resume_goes_on_from_the_newest_whole_checkpoint(
    damage, prepared, yamls, tmp_path, capsys, same_training
):
    settings = yamls(runner={"save_step": 2, "total_steps": 6})
    assert pretrain(settings, prepared, tmp_path / "whole") == 0
    assert pretrain(settings, prepared, tmp_path / "exp") == 0
    last, newest = tmp_path / "exp" / "last.ckpt", tmp_path / "exp" / "step-6.ckpt"
    newest.unlink()
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:5000])
    capsys.readouterr()
    assert pretrain(settings, prepared, tmp_path / "exp", "--resume") == 0
    said = capsys.readouterr()
    assert "last.ckpt" in said.err
    assert "resuming from step-4.ckpt" in said.err
    assert "continuing after step 4" in said.out
    same_training(tmp_path / "whole", tmp_path / "exp")


def test_resume_with_nothing_whole_starts_nothing_anew(prepared, yamls, tmp_path, capsys):
    settings = yamls()
    assert pretrain(settings, prepared, tmp_path / "exp") == 0
    for path in (tmp_path / "exp").glob("*.ckpt"):
        path.write_bytes(b"PK\x03\x04 not whole")
    assert pretrain(settings, prepared, tmp_path / "exp", "--resume") == 2
    assert "none of its checkpoints can be read" in last_line(capsys)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"datarc": {"train_batch_size": 2**31 - 1}}, "utterances in a step"),
        ({"model": {"encoder_embed_dim": 2**24}}, "of memory are available"),
        ({"model": {"encoder_layers": 10**6}}, "of memory are available"),
        ({"model": {"encoder_layers": 2**31 - 1}}, "encoder_layers: 2147483647 found, expected at most"),
        ({"optimizer": {"lr": float("inf")}}, "lr"),
        ({"model": {"pred_masked_weight": float("inf")}}, "pred_masked_weight"),
        ({"model": {"skip_masked": True, "skip_nomask": True}}, "skip_masked"),
        ({"model": {"mask_prob": 0.0}}, "mask_prob: 0 found, with which no frame is masked"),
    ],
)
def test_settings_that_no_machine_can_follow_get_one_line(sections, words, prepared, yamls, tmp_path, capsys):
    assert pretrain(yamls(**sections), prepared, tmp_path / "exp") == 2
    assert words in last_line(capsys)


def test_a_model_without_masks_learns_from_unmasked_frames(prepared, yamls, tmp_path):
    model = {"mask_prob": 0.0, "skip_nomask": False, "pred_nomask_weight": 1.0}
    assert pretrain(yamls(model=model, runner={"total_steps": 1}), prepared, tmp_path / "exp") == 0


@pytest.mark.parametrize(("length", "warns"), [(40, True), (39, False)])
def test_a_mask_that_hides_every_frame_is_told(length, warns, prepared, yamls, tmp_path, capsys):
    settings = yamls(model={"mask_length": length}, runner={"total_steps": 1})  # crops of 40 frames
    assert pretrain(settings, prepared, tmp_path / "exp") == 0
    assert ("mask_length: 40 masks every frame" in capsys.readouterr().err) == warns


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "gpu"])
def test_device_that_is_not_supported_is_refused(device, prepared, yamls, tmp_path, capsys):
    assert (
        main(["pretrain", *yamls(), "-n", str(tmp_path / "exp"), "--data", str(prepared), "--device", device])
        == 2
    )
    assert device in last_line(capsys)


def test_parameters_are_counted_as_they_are():
    for settings in (
        {},
        {"learnable_mask_emb": True},
        {"mask_before_proj": False, "learnable_mask_emb": True},
    ):
        config = MelHuBERTConfig(
            encoder_layers=2, encoder_embed_dim=48, encoder_attention_heads=4, **settings
        )
        assert parameter_count(config) == sum(p.numel() for p in MelHuBERT(config).parameters())


def test_s3prls_order_does_not_depend_on_the_number_of_workers(prepared, yamls):
    def batches(workers: int) -> list[torch.Tensor]:
        torch.manual_seed(3)
        datarc = {"sets": [str(prepared)], "train_batch_size": 4, "sequence_length": 40, "max_timestep": 0}
        expert = UpstreamPretrainExpert({**datarc, "num_workers": workers}, yamls()[1], device="cpu")
        loader = expert.get_train_dataloader()
        found = [batch.labels for _ in range(3) for batch in loader]
        assert expert.epochs.epoch == 3
        return found

    for a, b in zip(batches(0), batches(2), strict=True):
        assert torch.equal(a, b)


def test_layerdrop_is_the_same_in_one_process_and_in_two(prepared, yamls, tmp_path, start, finish):
    model = {**NO_DROPOUT, "encoder_layerdrop": 0.6}
    runner = {"total_steps": 8, "gradient_accumulate_steps": 2}
    one = yamls(model=model, runner=runner)
    two = yamls(model=model, runner={**runner, "gradient_accumulate_steps": 1})
    finish(start("pretrain", *one, "-n", tmp_path / "one", "--data", prepared, "--device", "cpu"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    arguments = ("pretrain", *two, "-n", tmp_path / "two", "--data", prepared, "--device", "cpu")
    finish(start(*arguments, launcher=launcher))
    a, b = (load_checkpoint(tmp_path / name / "last.ckpt").state for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-4)


def test_full_disk_gets_one_line_and_leaves_the_checkpoints(prepared, yamls, tmp_path):
    """A limit of the size of files fails a write as a full disk does, with another number."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    command = [sys.executable, "-m", "s3prl_melhubert", "pretrain", *yamls(), "-n", str(tmp_path / "exp")]
    command += ["--data", str(prepared), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "cannot be written (File too large); earlier ones are intact" in line
    assert "--resume" in line
    assert "Traceback" not in done.stderr
