"""An .onnx file gives the hidden states of the checkpoint that it was made from."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from s3prl_melhubert import load_checkpoint, load_model, log_mel
from s3prl_melhubert.cli import main
from s3prl_melhubert.export import onnx as onnx_file
from s3prl_melhubert.export.waveform_model import WaveformModel

STATS = "librispeech-360h"
LENGTHS = (100, 400, 559, 560, 719, 720, 1_200, 5_001, 16_000, 48_123)  # samples, on both sides of a frame


def waveform(samples: int) -> torch.Tensor:
    """Noise over a tone, with a silent middle: energies of every size."""
    time = torch.arange(samples) / 16_000
    x = 0.3 * torch.sin(2 * torch.pi * 440 * time)
    x += 0.05 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    x[samples // 3 : samples // 2] = 0
    return x


@pytest.fixture(scope="module", params=["20", pytest.param("10", marks=pytest.mark.slow)])
def exported(request, reference, tmp_path_factory):
    """A session of the file, the model, and its frontend."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    source = reference / f"tiny-{request.param}ms.ckpt"
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert main(["convert", str(source), str(path), "--stats", STATS]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session, *load_model(source, feature_stats=STATS)


def test_hidden_states_of_ten_lengths_are_those_of_the_model(exported):
    session, model, frontend = exported
    for samples in LENGTHS:
        x = waveform(samples)
        given = np.zeros((1, max(samples, 400)), np.float32)  # the least that a graph takes
        given[0, :samples] = x
        states, last, frames = session.run(None, {"waveforms": given, "lengths": np.array([samples])})
        with torch.inference_mode():
            expected = model(*frontend([x]))
        assert frames.tolist() == [states.shape[2]] == [frontend.frame_count(samples)]
        np.testing.assert_allclose(states, torch.stack(expected.hidden_states), atol=1e-4, rtol=0)
        np.testing.assert_allclose(last, expected.last_hidden_state, atol=1e-4, rtol=0)


def test_a_padded_batch_is_what_its_utterances_are_alone(exported):
    session, model, frontend = exported
    waveforms = [waveform(samples) for samples in (16_000, 400, 9_001, 320, 31_999)]
    # What stands after an utterance must not count, whatever it is.
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=7.0).numpy()
    lengths = np.array([len(x) for x in waveforms])
    states, last, frames = session.run(None, {"waveforms": batch, "lengths": lengths})
    assert np.isfinite(states).all()
    for i, x in enumerate(waveforms):
        with torch.inference_mode():
            expected = model(*frontend([x]))
        count = int(frames[i])
        assert count == expected.last_hidden_state.shape[1]
        alone = torch.stack(expected.hidden_states)[:, 0]
        np.testing.assert_allclose(states[:, i, :count], alone, atol=1e-4, rtol=0)
        np.testing.assert_allclose(last[i, :count], expected.last_hidden_state[0], atol=1e-4, rtol=0)


def test_no_utterance_is_longer_than_its_batch(exported):
    session, _, frontend = exported
    given = waveform(16_000)[None].numpy()
    states, _, frames = session.run(None, {"waveforms": given, "lengths": np.array([17_000])})
    expected, *_ = session.run(None, {"waveforms": given, "lengths": np.array([16_000])})
    assert frames.tolist() == [states.shape[2]] == [frontend.frame_count(16_000)]
    np.testing.assert_array_equal(states, expected)


def test_the_file_says_opset_and_frame_period(exported):
    session, _, frontend = exported
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["frame_period_ms"] == str(frontend.frame_period)
    assert facts["layers"] == "[0, 1, 2]"
    assert [each.name for each in session.get_outputs()] == ["hidden_states", "last_hidden_state", "frames"]


@pytest.mark.slow
def test_chosen_layers_leave_out_those_above(reference, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path, source = tmp_path / "one.onnx", reference / "tiny-20ms.ckpt"
    assert main(["convert", str(source), str(path), "--stats", STATS, "--layers", "1"]) == 0
    printed = capsys.readouterr()
    assert "ONNX opset 18, waveforms at 16 kHz to layer 1, a frame every 20 ms" in printed.out
    assert "takes up to a minute" in printed.err
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["hidden_states", "frames"]
    x = waveform(16_000)
    states, _ = session.run(None, {"waveforms": x[None].numpy(), "lengths": np.array([16_000])})
    model, frontend = load_model(source, feature_stats=STATS)
    with torch.inference_mode():
        expected = model(*frontend([x])).hidden_states[1]
    np.testing.assert_allclose(states[0], expected, atol=1e-4, rtol=0)
    weights = sum(tensor.numel() for tensor in load_checkpoint(source).state.values())
    assert path.stat().st_size < 4 * weights + 1_500_000  # its Fourier transform takes 0.8 MB


@pytest.mark.parametrize("period", ["10", "20"])
def test_plain_operations_make_the_hidden_states_of_the_model(period, reference):
    # The same without a runtime, and so also where none is installed.
    checkpoint = reference / f"tiny-{period}ms.ckpt"
    model, frontend = load_model(checkpoint, feature_stats=STATS)
    short, _ = load_model(checkpoint, feature_stats=STATS)
    waveforms = [waveform(samples) for samples in (4_000, 320, 723, 16_241)]  # of 23, 1, 3 and 100 frames
    with torch.inference_mode():
        expected = model(*frontend(waveforms))
        batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=7.0)
        lengths = torch.tensor([len(x) for x in waveforms])
        module = WaveformModel(model, frontend, [0, 2])
        states, last, frames = module(batch, lengths)
        mel = module.log_mel(waveforms[0][None], lengths[:1])[0]
        below, _ = WaveformModel(short, frontend, [1])(batch, lengths)
    torch.testing.assert_close(mel, log_mel(waveforms[0]), atol=2e-3, rtol=0)  # of energies down to silence
    assert torch.isfinite(below).all()
    for i, count in enumerate(frames.tolist()):
        wanted = expected.hidden_states[1][i, :count]
        torch.testing.assert_close(below[0, i, :count], wanted, atol=1e-4, rtol=0)
        for layer, found in zip((0, 2), states, strict=True):
            wanted = expected.hidden_states[layer][i, :count]
            torch.testing.assert_close(found[i, :count], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(last[i, :count], expected.last_hidden_state[i, :count], atol=1e-4, rtol=0)


def test_what_cannot_be_written_is_one_clear_line(reference, tmp_path, capsys, monkeypatch):
    def refused(*arguments) -> str:
        assert main(["convert", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        return printed.err

    source, onnx = reference / "tiny-20ms.ckpt", tmp_path / "a.onnx"
    assert "only NAME.onnx can hold some" in refused(source, tmp_path / "a.ckpt", "--layers", "1")
    assert "cannot hold one" in refused(source, onnx, "--quantizer", "set")
    if find_spec("onnxscript") is not None:
        monkeypatch.setattr(onnx_file, "MAX_BYTES", 200_000)  # of 52.8 k weights
        assert "one file of ONNX holds 2 GB; take fewer" in refused(source, onnx, "--stats", STATS)
        with monkeypatch.context() as older:
            older.setattr(torch.onnx, "export", lambda model, args, f, dynamic_axes=None: None)  # torch 2.4's
            assert "install a newer torch" in refused(source, onnx, "--stats", STATS)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 's3prl-melhubert[onnx]'" in refused(source, onnx, "--stats", STATS)
    assert list(tmp_path.iterdir()) == []
