"""Compressed checkpoints are upstreams of s3prl like any other, without -g once they hold statistics."""

from __future__ import annotations

import pytest
import torch
import yaml

from s3prl_melhubert import load_model
from s3prl_melhubert.cli import main
from s3prl_melhubert.upstream_expert.hubconf import melhubert_local

STATS = "librispeech-960h"
KINDS = ("weights", "heads", "rows", "uneven", "distilled")


@pytest.fixture
def converted(compressed, tmp_path):
    """`converted(kind)`: the checkpoint with statistics."""

    def convert(kind: str):
        path = tmp_path / f"{kind}.ckpt"
        assert main(["convert", str(compressed(kind).path), str(path), "--stats", STATS]) == 0
        return path

    return convert


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_of_the_upstream_are_those_of_the_model(kind, compressed, converted):
    waveform = 0.1 * torch.randn(16_000)
    model, frontend = load_model(compressed(kind).path, STATS)
    upstreams = melhubert_local(converted(kind)), melhubert_local(compressed(kind).path, feature_stats=STATS)
    with torch.inference_mode():
        expected = model(*frontend([waveform])).hidden_states
        for upstream in upstreams:
            found = upstream.eval()([waveform])["hidden_states"]
            assert len(found) == len(expected)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a[:, : b.shape[1]], b, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uneven", *KINDS[:3]])
def test_the_unmodified_runner_trains_on_it_without_g(kind, converted, run_python, s3prl_checkout, tmp_path):
    runner = {"gradient_clipping": 1, "gradient_accumulate_steps": 1, "log_step": 2, "max_keep": 1}
    example = {
        "runner": {
            **runner, "total_steps": 2, "eval_step": 2, "save_step": 2, "eval_dataloaders": ["dev"],
            "evaluate_ratio": 0.02,
        },
        "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-2},
        "downstream_expert": {
            "datarc": {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0},
            "modelrc": {"input_dim": 8},
        },
    }  # fmt: skip
    (tmp_path / "example.yaml").write_text(yaml.safe_dump(example))
    done = run_python(
        "run_downstream.py", "-m", "train", "-u", "melhubert_local", "-k", converted(kind), "-d", "example",
        "-c", tmp_path / "example.yaml", "-p", tmp_path / "exp", "--device", "cpu",
        cwd=s3prl_checkout, PYTHONPATH=str(s3prl_checkout.parent),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [saved] = (tmp_path / "exp").glob("states-2.ckpt")
    states = torch.load(saved, weights_only=False)
    assert states["Featurizer"]["weights"].shape == (4,)
