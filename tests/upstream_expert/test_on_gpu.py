"""The upstream and `melhubert extract` on a GPU. `pytest -m gpu` runs these tests alone.

Where there is none, they run on one in name only (`tests/pretended_gpu.py`).
"""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.upstream_expert import hubconf

pytestmark = pytest.mark.gpu(or_pretended=True)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.03)])
def test_extract_on_a_gpu_gives_what_a_cpu_gives(reference, tmp_path, precision, tolerance):
    random = np.random.default_rng(0)
    for number, samples in enumerate((300, 9_000, 16_000, 40_001)):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * random.standard_normal(samples), 16_000)
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.npz"
        options = ["--device", device, "--precision", precision if device == "cuda" else "fp32"]
        command = ["extract", "-c", str(reference / "tiny-20ms.ckpt"), "--stats", "librispeech-360h"]
        files = [str(tmp_path / f"{number}.wav") for number in range(4)]
        assert main([*command, *files, "--out", str(out), *options]) == 0
        found[device] = dict(np.load(out))
    for name, expected in found["cpu"].items():
        error = np.linalg.norm(found["cuda"][name] - expected) / np.linalg.norm(expected)
        assert error <= tolerance, name


def test_hidden_states_on_a_gpu_are_those_of_a_cpu_also_at_padding(reference):
    """s3prl takes a frame or two of the padding, too."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    expert = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", feature_stats="librispeech-360h").eval()
    waveforms = [0.3 * torch.randn(samples) for samples in (16_000, 9_123, 200)]
    with torch.no_grad():
        here = expert(waveforms)["hidden_states"]
        there = expert.cuda()([waveform.cuda() for waveform in waveforms])["hidden_states"]
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_half_precision_around_the_upstream_changes_nothing(reference, training):
    expert = hubconf.melhubert_local(reference / "tiny-20ms.ckpt", feature_stats="librispeech-360h").cuda()
    waveforms = [0.3 * torch.randn(samples, device="cuda") for samples in (9000, 5000)]
    alone = expert(waveforms)["hidden_states"]
    expert.train(training)
    for module in expert.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = module.attention_dropout = module.activation_dropout = 0.0
    with torch.autocast("cuda", torch.float16):
        inside = expert(waveforms)["hidden_states"]
    for a, b in zip(alone, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
