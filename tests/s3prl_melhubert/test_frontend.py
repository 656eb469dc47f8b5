"""Log-Mel features: parity with the published ones and with torchaudio, and what is refused."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchaudio

from s3prl_melhubert import FeatureStats, Frontend, MelHuBERTError, log_mel
from s3prl_melhubert.fbank import fbank, frame_count
from s3prl_melhubert.frontend import stack_frames


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(FeatureStats.load("librispeech-360h"), 20)


def kaldi_fbank(waveform):
    return torchaudio.compliance.kaldi.fbank(
        waveform[None] * 2**15, num_mel_bins=40, sample_frequency=16000, window_type="hamming", dither=0.0
    )


def test_log_mel_matches_published_implementation(published):
    for i in range(3):
        frames = log_mel(torch.from_numpy(published[f"wav_{i}"]))
        torch.testing.assert_close(frames, torch.from_numpy(published[f"log_mel_{i}"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 54321])
def test_log_mel_equals_torchaudios_to_the_last_bit(samples):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    assert torch.equal(log_mel(waveform), kaldi_fbank(waveform))


def test_log_mel_without_torch_matches_published_implementation(published):
    for i in range(3):
        np.testing.assert_allclose(fbank(published[f"wav_{i}"]), published[f"log_mel_{i}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 399, 400, 559, 560, 16000, 154321])
def test_log_mel_without_torch_is_that_of_the_frontend(samples):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    np.testing.assert_allclose(fbank(waveform.numpy()), log_mel(waveform).numpy(), atol=1e-4, rtol=0)
    assert (fbank(np.zeros(samples, np.float32)) == log_mel(torch.zeros(samples)).numpy()).all()


def test_silence_with_an_offset_of_16_bits_is_silence_in_both_forms():
    offsets = torch.arange(-32_768, 32_768, 97) / 32_768
    waveforms = offsets[:, None].expand(-1, 400)
    silence = log_mel(torch.zeros(400))
    assert torch.equal(log_mel(waveforms), silence.expand(len(offsets), 1, 40))
    for waveform in waveforms.numpy():
        assert np.array_equal(fbank(np.ascontiguousarray(waveform)), silence.numpy())


def test_batched_log_mel_equals_one_by_one():
    waveforms = torch.randn(3, 20000) * 0.1
    torch.testing.assert_close(log_mel(waveforms), torch.stack([log_mel(w) for w in waveforms]))


def test_model_input_matches_published_implementation(published):
    frontend = Frontend(FeatureStats.load(published["stats"]), int(published["frame_period"]))
    features, padding_mask = frontend([torch.from_numpy(published[f"wav_{i}"]) for i in range(3)])
    for i in range(3):
        expected = torch.from_numpy(published[f"input_{i}"])
        torch.testing.assert_close(features[i, : len(expected)], expected, atol=1e-4, rtol=0)
        assert (~padding_mask[i]).sum() == len(expected)
        assert not features[i, len(expected) :].any()


@pytest.mark.parametrize("period", [10, 20])
def test_way_for_gpus_equals_way_for_cpus(period):
    frontend = Frontend(FeatureStats.load("librispeech-360h"), period)
    waveforms = [torch.randn(n) * 0.1 for n in (16000, 100, 20130, 9999)]
    torch.testing.assert_close(frontend._batched(waveforms), frontend._on_cpu(waveforms), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 399, 400, 559, 560, 561, 719, 720, 16000])
def test_frame_counts(frontend, samples):
    frames = 1 + max(0, samples - 400) // 160
    assert frame_count(samples) == frames == log_mel(torch.randn(samples)).shape[0]
    features, padding_mask = frontend([torch.randn(samples)])
    assert features.shape == (1, -(-frames // 2), 80)
    assert padding_mask is None
    assert frontend.frame_count(samples) == features.shape[1]


def test_odd_end_is_padded_with_a_zero_frame_after_normalization(frontend):
    features, _ = frontend([torch.randn(400)])  # one frame
    assert features[0, 0, :40].any()
    assert not features[0, 0, 40:].any()
    stacked = stack_frames(torch.arange(1.0, 6.0)[:, None])
    assert stacked.tolist() == [[1, 2], [3, 4], [5, 0]]


def test_a_tensor_is_taken_as_a_batch(frontend):
    batch = torch.randn(2, 16000) * 0.1
    assert torch.equal(frontend(batch)[0], frontend(list(batch))[0])


def test_silence_is_finite(frontend):
    features, _ = frontend([torch.zeros(8000)])
    assert features.isfinite().all()


def test_gradients_reach_the_waveform(frontend):
    waveforms = [torch.randn(4000, requires_grad=True), torch.zeros(3000, requires_grad=True)]
    with torch.autograd.set_detect_anomaly(True):
        frontend(waveforms)[0].square().sum().backward()
    assert waveforms[0].grad.isfinite().all()
    assert waveforms[0].grad.any()
    assert waveforms[1].grad.isfinite().all()


@pytest.mark.parametrize(
    ("waveform", "words"),
    [
        (torch.randn(2, 1000), ["(2, 1000)", "one dimension", "mix channels down"]),
        (torch.ones(1000, dtype=torch.int16), ["torch.int16", "float", "32768"]),
        (torch.randn(0), ["empty"]),
        (torch.tensor([0.0, float("nan")] * 500), ["NaN"]),
        (torch.tensor([0.0, float("inf")] * 500), ["infinite"]),
        (torch.randn(1000, device="meta"), ["on meta", "model is on cpu", ".to("]),
        (np.zeros(1000, dtype=np.float32), ["ndarray", "torch.from_numpy"]),
    ],
    ids=["2-D", "integer", "empty", "NaN", "infinite", "other device", "not a tensor"],
)
def test_bad_waveforms_are_named(frontend, waveform, words):
    with pytest.raises(MelHuBERTError) as error:
        frontend([torch.randn(1000), waveform])
    for word in ["waveform 1", *words]:
        assert word in str(error.value)


def test_nan_in_the_last_samples_is_found_too(frontend):
    waveform = torch.randn(559)  # frames end at sample 400
    waveform[-1] = float("nan")
    with pytest.raises(MelHuBERTError, match="waveform 0: NaN"):
        frontend([waveform])


def test_empty_batch_is_refused(frontend):
    with pytest.raises(MelHuBERTError, match="empty batch"):
        frontend([])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_mel_is_float32_inside_autocast(dtype):
    waveform = 0.3 * torch.randn(16_000)
    with torch.autocast("cpu", dtype=dtype):
        inside = log_mel(waveform)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, log_mel(waveform))


def test_inference_mode_of_one_caller_leaves_gradients_to_the_next():
    code = (
        "import torch; from s3prl_melhubert import log_mel\n"
        "with torch.inference_mode(): log_mel(torch.randn(800))\n"
        "x = torch.randn(800, requires_grad=True); log_mel(x).sum().backward(); print(x.grad.norm() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "tensor(True)", done.stderr


@pytest.mark.parametrize("value", [1e4, 1e20, 1e38, -1e38, float("inf"), float("nan")])
def test_absurd_samples_are_refused(frontend, value):
    waveform = torch.zeros(4000)
    waveform[7:9] = value
    with pytest.raises(MelHuBERTError, match=r"waveform 1: .*expected values in"):
        frontend([torch.zeros(500), waveform])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_are_the_same_in_a_frontend_of_another_type(frontend, dtype):
    waveforms = [0.1 * torch.randn(4000), 0.1 * torch.randn(900)]
    expected, _ = frontend(waveforms)
    found, _ = copy.deepcopy(frontend).to(dtype)(waveforms)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_log_mel_of_integers_is_refused():
    with pytest.raises(MelHuBERTError, match=r"int16 samples found.*divide"):
        log_mel(torch.zeros(1000, dtype=torch.int16))


def test_what_is_no_list_or_no_statistics_is_named(frontend):
    for given in (None, (torch.zeros(1000) for _ in range(2))):
        with pytest.raises(MelHuBERTError, match="expected a list of waveforms"):
            frontend(given)
    with pytest.raises(MelHuBERTError, match=r"librispeech-360h.*FeatureStats\.load"):
        Frontend("librispeech-360h", 20)


@pytest.mark.parametrize(
    ("samples", "found"),
    [(np.zeros(500), "ndarray"), ([0.0] * 500, "list"), (torch.tensor(0.5), "a single number")],
)
def test_log_mel_of_what_is_no_tensor_of_samples_is_refused(samples, found):
    with pytest.raises(MelHuBERTError, match=f"waveform: {found} found, expected a float tensor of samples"):
        log_mel(samples)
