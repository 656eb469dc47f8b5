"""Experiments on a GPU; where there is none, on one in name only (`tests/pretended_gpu.py`)."""

from __future__ import annotations

import pytest
import torch

from s3prl_melhubert.cli import main

pytestmark = pytest.mark.gpu(or_pretended=True)


@pytest.mark.parametrize("task", ["sid", "asr"])
def test_rates_that_are_trained_on_a_gpu_learn_what_they_do_on_a_cpu(
    task, corpus, upstream, small, short, tmp_path
):
    """Also from the frame of padding that s3prl takes of an utterance that is not the longest."""
    changed = f"{small[task]},,config.runner.gradient_accumulate_steps=1,,config.runner.save_step=4"
    learned = []
    for device in ("cpu", "cuda"):
        arguments = [*corpus[task], *upstream, *short(4), "--lr", "1e-2,1e-3", "-o", changed]
        assert main(["superb", task, *arguments, "--device", device, "-p", str(tmp_path / device)]) == 0
        checkpoint = torch.load(tmp_path / device / "lr-0.01" / "states-4.ckpt", weights_only=True)
        learned.append({**checkpoint["Featurizer"], **checkpoint["Downstream"]})
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name].cpu(), value, atol=1e-3, rtol=0, msg=name)
