"""`melhubert compress --data`: stages of pruning and training, which survive a kill."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from s3prl_melhubert import MelHuBERT, MelHuBERTConfig, load_checkpoint, save_checkpoint
from s3prl_melhubert.config import layer_sizes

STEPS = 9


@pytest.fixture(scope="module")
def stats(prepared):
    from s3prl_melhubert.pretrain.data.description import read_prepared

    return read_prepared(prepared).info.stats


@pytest.fixture
def source(tmp_path, tiny_settings, stats):
    """A dense checkpoint with the statistics of the prepared set."""
    torch.manual_seed(0)
    model = MelHuBERT(MelHuBERTConfig(**tiny_settings))
    save_checkpoint(tmp_path / "dense.ckpt", model.config, model.state_dict(), stats, 100)
    return tmp_path / "dense.ckpt"


@pytest.fixture
def arguments(source, prepared, yamls):
    settings = yamls(runner={"total_steps": 1, "save_minutes": 0.00001})[2:]
    return [
        "compress", source, "--heads", 2, "--ffn", 20, "--data", prepared, "--steps", STEPS, "--stages", 3,
        "--device", "cpu", *settings,
    ]  # fmt: skip


def test_stages_are_trained_and_what_was_killed_ends_with_the_same_weights(
    arguments, melhubert, tmp_path, source
):
    whole = melhubert(*arguments, "--out", "whole.ckpt")
    assert whole.returncode == 0, whole.stderr
    for words in (
        "stage 1 of 3: 3 heads and 71 rows in each layer, 3 steps",
        "stage 3 of 3: 2 heads and 20 rows",
    ):
        assert words in whole.stdout
    made = load_checkpoint(tmp_path / "whole.ckpt")
    assert set(layer_sizes(made.config)) == {(2, 12, 20)}
    assert made.stats == load_checkpoint(source).stats
    assert made.step == 100 + STEPS
    assert made.rest["Compression"]["stages"] == 3
    left = sorted(path.name for path in (tmp_path / "whole.ckpt.stages").rglob("*.ckpt"))
    assert not left
    assert (tmp_path / "whole.ckpt.stages/stage-2/log.csv").is_file()

    command = [sys.executable, "-m", "s3prl_melhubert", *map(str, arguments), "--out", "killed.ckpt"]
    for stage in (1, 3):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (tmp_path / f"killed.ckpt.stages/stage-{stage}/last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not (tmp_path / "killed.ckpt").exists()
    again = melhubert(*arguments, "--out", "killed.ckpt")
    assert again.returncode == 0, again.stderr
    assert "stage 1 of 3" not in again.stdout
    assert load_checkpoint(tmp_path / "killed.ckpt").weights_digest() == made.weights_digest()


def test_what_does_not_go_together_is_told_in_one_line(
    arguments, melhubert, tmp_path, source, tiny_settings, make_prepared
):
    (tmp_path / "full.ckpt.stages").mkdir()
    (tmp_path / "full.ckpt.stages/other.txt").write_text("mine")
    full = melhubert(*arguments, "--out", "full.ckpt")
    assert full.returncode == 2
    assert "holds something else already" in full.stderr

    plan = tmp_path / "begun.ckpt.stages"
    plan.mkdir()
    (plan / "compression.yaml").write_text(
        f"checkpoint: {load_checkpoint(source).weights_digest()}\nheads: 3\n"
    )
    begun = melhubert(*arguments, "--out", "begun.ckpt")
    assert begun.returncode == 2
    assert "was begun with heads 3, now 2" in begun.stderr

    loaded = load_checkpoint(source)
    save_checkpoint(source, loaded.config, loaded.state, None)
    other = melhubert(*arguments, "--out", "other.ckpt", "--stats", "librispeech-960h")
    assert other.returncode == 2
    assert "normalized with other statistics" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    assert not (tmp_path / "other.ckpt.stages").exists()
