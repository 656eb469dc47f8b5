"""From audio to a stage-2 model, as a user types it, and on into s3prl."""

import numpy as np
import pytest
import soundfile
import yaml

from s3prl_melhubert import load_checkpoint
from s3prl_melhubert.cli import main


@pytest.fixture
def audio(tmp_path):
    """LibriSpeech's layout: hums that glide, so that frames differ."""
    random = np.random.default_rng(0)
    for split, count in (("train-clean-100", 12), ("dev-clean", 3)):
        folder = tmp_path / "LibriSpeech" / split / "1" / "2"
        folder.mkdir(parents=True)
        for i in range(count):
            time = np.arange(16000 + 800 * i) / 16000
            pitch = 120 + 100 * random.random() + 200 * time * random.random()
            samples = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000)
            samples += 0.02 * random.standard_normal(len(time))
            soundfile.write(folder / f"1-2-{i:04d}.flac", samples, 16000)
    return tmp_path / "LibriSpeech"


@pytest.mark.slow
@pytest.mark.parametrize("period", [20, 10])
def test_two_stages_from_audio_to_s3prl(run_python, tmp_path, tiny_settings, audio, period, capsys):
    runner = {
        "runner": {"total_steps": 12, "gradient_accumulate_steps": 1, "log_step": 4, "save_step": 12},
        "optimizer": {"name": "AdamW", "lr": 1e-3},
        "scheduler": {"name": "linear", "warmup_steps": 2},
        "datarc": {"train_batch_size": 4, "max_timestep": 0, "sequence_length": 60, "num_workers": 0},
    }
    (tmp_path / "runner.yaml").write_text(yaml.safe_dump(runner))
    model = {**tiny_settings, "feat_emb_dim": 4 * period, "num_cluster": 8}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"melhubert": model}))

    def melhubert(command: str) -> str:
        result = run_python("-m", "s3prl_melhubert", *command.split())
        assert result.returncode == 0, result.stderr
        return result.stdout

    train = f"pretrain -f {period} -g model.yaml -c runner.yaml --device cpu"
    melhubert(f"prepare --audio {audio} --subset train-clean-100 --clusters 8 --jobs 1 --out train")
    melhubert(f"prepare --audio {audio} --subset dev-clean --kmeans train --jobs 1 --out dev")
    melhubert(f"{train} --data train --valid dev -n stage1")
    relabel = "relabel --checkpoint stage1/last.ckpt --layer 1 --device cpu"
    melhubert(f"{relabel} --data train --clusters 8 --out train2")
    melhubert(f"{relabel} --data dev --kmeans train2 --out dev2")
    assert f"{period} ms labels" in melhubert(f"{relabel} --data train --clusters 8 --out train2")
    melhubert(f"{train} --data train2 --valid dev2 -n stage2")

    for stage in ("stage1", "stage2"):
        names = {path.name for path in (tmp_path / stage).iterdir()}
        assert {"last.ckpt", "step-12.ckpt", "log.csv", "curves.png"} <= names
        checkpoint = load_checkpoint(tmp_path / stage / "last.ckpt")
        assert checkpoint.step == 12
        assert checkpoint.stats is not None  # so that nobody has to name them
        # What the labels stand for: log-Mel frames, then a layer of the first stage's model.
        quantizer = checkpoint.quantizer
        assert (quantizer.source, quantizer.layer) == {"stage1": ("log-Mel", 0), "stage2": ("teacher", 1)}[
            stage
        ]
        data = "train" if stage == "stage1" else "train2"
        np.testing.assert_array_equal(quantizer.centroids, np.load(tmp_path / data / "kmeans.npy"))
    assert main(["units", "-c", str(tmp_path / "stage2/last.ckpt"), str(audio), "--out", "u.txt"]) == 2
    refused = capsys.readouterr().err
    assert "layer 1 of the model that labelled its training data, stage1/last.ckpt" in refused

    code = """
import sys, torch, s3prl.hub as hub
upstream = hub.melhubert_local(ckpt="stage2/last.ckpt").eval()
assert upstream.get_downsample_rates("hidden_states") == 16 * int(sys.argv[1])
assert len(upstream([torch.randn(16000)])["hidden_states"]) == 3
"""
    result = run_python("-c", code, period)
    assert result.returncode == 0, result.stderr
