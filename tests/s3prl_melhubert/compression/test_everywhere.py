"""Compressed models wherever a checkpoint is used: files, the Hub's folders, transformers, ONNX."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_melhubert import load_checkpoint, load_model
from s3prl_melhubert.cli import main
from s3prl_melhubert.export.waveform_model import WaveformModel

STATS = "librispeech-960h"
KINDS = ("weights", "heads", "rows", "uneven", "distilled")


@pytest.fixture(scope="module")
def converted(compressed, tmp_path_factory):
    """`converted(kind)`: the same in this package's format, with statistics."""
    folder = tmp_path_factory.mktemp("converted")

    def convert(kind: str) -> Path:
        path = folder / f"{kind}.safetensors"
        if not path.is_file():
            assert main(["convert", str(compressed(kind).path), str(path), "--stats", STATS]) == 0
        return path

    return convert


@pytest.fixture(scope="module")
def waveforms() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=random) for samples in (16_000, 9_000)]


@pytest.fixture(scope="module")
def exported(converted, tmp_path_factory) -> Path:
    """A folder for the Hub of the uneven model."""
    folder = tmp_path_factory.mktemp("hub") / "uneven"
    assert main(["hub", str(converted("uneven")), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def ours(converted, waveforms):
    """Hidden states of the uneven model, and the mask of padding."""
    model, frontend = load_model(converted("uneven"))
    features, padding_mask = frontend(waveforms)
    with torch.inference_mode():
        return model(features, padding_mask).hidden_states, padding_mask


def same(found, ours) -> None:
    hidden_states, padding_mask = ours
    assert len(found) == len(hidden_states)
    for a, b in zip(found, hidden_states, strict=True):
        torch.testing.assert_close(a[~padding_mask], b[~padding_mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_keeps_what_is_computed(kind, compressed, converted, waveforms):
    outputs = []
    for path in (compressed(kind).path, converted(kind)):
        model, frontend = load_model(path, STATS)
        with torch.inference_mode():
            outputs.append(model(*frontend(waveforms)).hidden_states)
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)


def test_extract_and_info_take_a_pruned_checkpoint_as_it_is(compressed, waveforms, tmp_path, capsys):
    import soundfile

    soundfile.write(tmp_path / "a.wav", waveforms[0].numpy(), 16_000, subtype="FLOAT")
    source, out = str(compressed("uneven").path), tmp_path / "out.npz"
    assert main(["extract", "-c", source, str(tmp_path / "a.wav"), "--out", str(out), "--stats", STATS]) == 0
    model, frontend = load_model(source, STATS)
    with torch.inference_mode():
        expected = torch.stack(model(*frontend(waveforms[:1])).hidden_states)[:, 0]
    np.testing.assert_allclose(np.load(out)["a"], expected, atol=1e-4, rtol=0)
    assert main(["info", source]) == 0
    printed = capsys.readouterr().out
    for words in (
        "2, 0, 1 in the layers, 12 wide",
        "90, 1, 0 in the layers",
        "3 layers, 4 heads, 96 MLP rows",
    ):
        assert words in printed
    assert main(["info", str(compressed("weights").path)]) == 0
    assert "60." in capsys.readouterr().out.partition("sparsity")[2]


def test_the_expert_of_a_hub_folder_agrees(exported, waveforms, ours, monkeypatch):
    spec = importlib.util.spec_from_file_location("expert_of_uneven", exported / "expert.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with torch.inference_mode():
        found = module.UpstreamExpert(ckpt=str(exported / "model.pt"))(waveforms)["hidden_states"]
    frames = ours[0][0].shape[1]
    same([hidden[:, :frames] for hidden in found], ours)


def test_a_hub_folder_is_a_checkpoint(exported, converted):
    again, source = load_checkpoint(exported), load_checkpoint(converted("uneven"))
    assert again.config == source.config
    assert again.weights_digest() == source.weights_digest()


@pytest.mark.slow
def test_transformers_alone_agrees(exported, waveforms, ours, tmp_path):
    pytest.importorskip("transformers")
    np.savez(tmp_path / "waveforms.npz", *[waveform.numpy() for waveform in waveforms])
    script = Path(__file__).parents[1] / "hub" / "in_transformers.py"
    done = subprocess.run(
        [sys.executable, script, "waveforms.npz", exported],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    arrays = np.load(tmp_path / "uneven.npz")
    same([torch.from_numpy(arrays[f"hidden_{i}"]) for i in range(4)], ours)
    # What transformers saved is read again, with the sizes of its layers.
    assert load_checkpoint(tmp_path / "uneven").config == load_checkpoint(exported).config


def test_plain_operations_agree(converted, waveforms, ours):
    model, frontend = load_model(converted("uneven"))
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        lengths = torch.tensor([len(x) for x in waveforms])
        states, _, _ = WaveformModel(model, frontend, [0, 1, 2, 3])(batch, lengths)
    hidden_states, padding_mask = ours
    for a, b in zip(states, hidden_states, strict=True):
        torch.testing.assert_close(a[~padding_mask], b[~padding_mask], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_onnx_agrees(converted, waveforms, ours, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "uneven.onnx"
    assert main(["convert", str(converted("uneven")), str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).numpy()
    lengths = np.array([len(x) for x in waveforms])
    states, _, _ = session.run(None, {"waveforms": batch, "lengths": lengths})
    hidden_states, padding_mask = ours
    for a, b in zip(states, hidden_states, strict=True):
        valid = ~padding_mask.numpy()
        np.testing.assert_allclose(a[valid], b.numpy()[valid], atol=1e-4, rtol=0)
