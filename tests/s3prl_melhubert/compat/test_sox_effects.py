"""SoX effects without SoX: what each does to a waveform."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile
import torch

from s3prl_melhubert.compat import sox_effects


def tone(seconds: float, rate: int = 16000, level: float = 0.5, hertz: float = 440.0) -> torch.Tensor:
    """A sine of shape (1, time)."""
    return level * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def apply(waveform: torch.Tensor, *effects: list[str], rate: int = 16000) -> torch.Tensor:
    return sox_effects.apply_effects_tensor(waveform, rate, effects)[0]


def test_gain_is_in_decibels():
    torch.testing.assert_close(apply(tone(0.1), ["gain", "-3.0"]), tone(0.1) * 10 ** (-3 / 20))


def test_gain_clips_at_full_scale():
    assert apply(tone(0.1), ["gain", "12"]).abs().max() == 1.0


def test_norm_brings_the_peak_of_all_channels_to_full_scale():
    stereo = torch.cat([tone(0.1, level=0.2), tone(0.1, level=0.1)])
    normalized = apply(stereo, ["norm"])
    torch.testing.assert_close(normalized.abs().amax(dim=1), torch.tensor([1.0, 0.5]), atol=1e-3, rtol=0)
    assert apply(stereo, ["norm", "-6"]).abs().max() == pytest.approx(10 ** (-6 / 20))
    assert torch.equal(apply(stereo, ["gain", "-n", "-6"]), apply(stereo, ["norm", "-6"]))
    assert apply(torch.zeros(1, 10), ["norm"]).abs().max() == 0


def test_channels_averages_or_repeats():
    stereo = torch.tensor([[0.2, 0.4], [0.4, -0.4]])
    torch.testing.assert_close(apply(stereo, ["channels", "1"]), torch.tensor([[0.3, 0.0]]))
    torch.testing.assert_close(apply(stereo[:1], ["channels", "2"]), stereo[[0, 0]])
    four = torch.tensor([[0.1], [0.2], [0.3], [0.6]])
    torch.testing.assert_close(apply(four, ["channels", "2"]), torch.tensor([[0.2], [0.4]]))
    torch.testing.assert_close(apply(stereo, ["channels", "3"]), stereo[[0, 1, 0]])


@pytest.mark.parametrize("given", [8000, 44100])
def test_rate_resamples_without_moving_a_tone(given):
    result, rate = sox_effects.apply_effects_tensor(tone(0.5, given), given, [["rate", "16000"]])
    assert (rate, result.shape) == (16000, (1, 8000))
    torch.testing.assert_close(result[:, 800:-800], tone(0.5)[:, 800:-800], atol=1e-3, rtol=0)


def test_pad_and_trim_count_in_seconds():
    padded = apply(tone(0.1), ["pad", "0.5", "0.25"])
    assert padded.shape == (1, 8000 + 1600 + 4000)
    assert padded[:, :8000].abs().max() == padded[:, 9600:].abs().max() == 0
    torch.testing.assert_close(apply(padded, ["trim", "0.5", "0.1"]), tone(0.1))
    torch.testing.assert_close(apply(padded, ["trim", "8000s", "=9600s"]), tone(0.1))
    assert apply(tone(0.1), ["trim", "0.05"]).shape == (1, 800)


def test_times_and_rates_may_be_in_each_of_soxs_notations():
    assert apply(tone(0.1), ["pad", "0:00.5", "4000s"]).shape == (1, 8000 + 1600 + 4000)
    assert apply(tone(0.1), ["pad", "0:01:01", "1t"]).shape == (1, 61 * 16000 + 1600 + 16000)
    torch.testing.assert_close(apply(tone(0.1), ["trim", "0:00.05", "+0.02"]), tone(0.1)[:, 800:1120])
    for rate in (["8k"], ["-v", "8000"], ["-q", "8k"]):
        result, hertz = sox_effects.apply_effects_tensor(tone(0.1), 16000, [["rate", *rate]])
        assert (hertz, result.shape) == (8000, (1, 800))
    silence = torch.cat([tone(0.2), 0.002 * tone(0.2), tone(0.2)], dim=1)
    in_percent, in_decibels = (apply(silence, ["silence", "1", "0", level]) for level in ("0.1%", "-60d"))
    assert torch.equal(in_percent, in_decibels)
    # As a product of floats, 32.05 times 1000 is less than 32050.
    assert sox_effects.apply_effects_tensor(tone(0.1), 16000, [["rate", "32.05k"]])[1] == 32050


def test_reverse_turns_time_around():
    torch.testing.assert_close(apply(tone(0.1), ["reverse"]), tone(0.1).flip(1))


SILENCE = ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]  # as s3prl's speaker verification has it


def test_silence_drops_silence_at_the_ends_and_long_pauses():
    quiet, short = torch.zeros(1, 16000), torch.zeros(1, 1000)
    waveform = torch.cat([quiet, tone(0.5), short, tone(0.5), quiet, tone(0.3), quiet], dim=1)
    result = apply(waveform, SILENCE)
    # What stays: the sounds, the pause shorter than 0.1 s, and up to 20 ms after a sound, the window in
    # which the level is measured.
    assert 0 <= result.shape[1] - (8000 + 1000 + 8000 + 4800) <= 2 * 320 + 10
    assert result[:, :8].abs().max() > 0.1
    assert apply(waveform[:, :24000], SILENCE[:4]).shape[1] == pytest.approx(8000, abs=10)


def test_silence_may_end_at_the_first_pause_and_counts_whole_numbers_in_samples():
    waveform = torch.cat([torch.zeros(1, 8000), tone(0.5), torch.zeros(1, 8000), tone(0.3)], dim=1)
    first = apply(waveform, ["silence", "1", "0.1", "0.1%", "1", "0.1", "0.1%"])
    assert 8000 - 10 <= first.shape[1] <= 8000 + 320
    for length in ("1600", "1600s", "0:00.1", "0.1t"):
        same = apply(waveform, ["silence", "1", length, "0.1%", "1", length, "0.1%"])
        assert torch.equal(same, first)
    # The level lags 20 ms behind, so that a pause of 8000 samples is silent for less than 8000.
    assert apply(waveform, ["silence", "1", "1600", "0.1%", "1", "8000", "0.1%"]).shape[1] > 20000


def test_silence_cuts_at_the_sample_at_which_sound_begins():
    waveform = torch.zeros(1, 16000)
    waveform[:, 5000:] = 0.5
    assert torch.equal(apply(waveform, ["silence", "1", "0", "0.1%"]), waveform[:, 5000:])
    assert torch.equal(apply(waveform[:, 5000:], SILENCE), waveform[:, 5000:])
    waveform[:, 8000:] = 0  # which is not above 0 %, either
    ends = apply(waveform, ["silence", "1", "0", "0%", "1", "0.1", "0%"])
    assert torch.equal(ends, waveform[:, 5000 : 8000 + 319])  # the level is that of 320 samples


def test_silence_leaves_nothing_of_silence():
    assert apply(torch.zeros(1, 16000), SILENCE).shape == (1, 0)
    assert apply(1e-4 * torch.randn(1, 16000), SILENCE).shape == (1, 0)


def test_silence_ignores_bursts_shorter_than_its_duration():
    click = torch.zeros(1, 16000)
    click[:, 5000:5400] = tone(0.025)
    assert apply(torch.cat([click, tone(0.5)], dim=1), SILENCE).shape[1] == pytest.approx(8000, abs=10)


def test_effects_agree_with_sox():
    """Lengths and sums that SoX 14.4.2 gives for this signal: s3prl's effects for speaker verification."""
    rng = np.random.default_rng(7)
    parts = []
    for pause, sound in [(0.3, 0.4), (0.05, 0.6), (0.25, 0.3), (0.5, 0.2)]:
        parts += [rng.normal(0, 3e-5, int(pause * 44100)), rng.normal(0, 0.2, int(sound * 44100))]
    mono = np.concatenate([*parts, rng.normal(0, 3e-5, 8000)]).clip(-1, 1)
    stereo = torch.from_numpy(np.stack([mono, 0.5 * mono]).astype(np.float32))
    effects = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"], SILENCE]
    result, rate = sox_effects.apply_effects_tensor(stereo, 44100, effects)
    assert (rate, result.shape) == (16000, (1, 25774))
    assert result.abs().sum().item() == pytest.approx(1190.96, rel=1e-3)


def test_vad_drops_what_comes_before_speech():
    rng = torch.Generator().manual_seed(0)
    voice = sum(tone(1.0, level=0.3 / k, hertz=150.0 * k) for k in range(1, 15))
    waveform = torch.cat([torch.zeros(1, 32000), voice.clamp(-1, 1), torch.zeros(1, 16000)], dim=1)
    waveform = waveform + 1e-4 * torch.randn(waveform.shape, generator=rng)
    trimmed = apply(waveform, ["vad", "-T", "0.25", "-p", "0.1"])
    assert 32000 <= trimmed.shape[1] <= 32000 + 0.5 * 16000
    torch.testing.assert_close(trimmed, waveform[:, -trimmed.shape[1] :])
    assert apply(1e-4 * torch.randn(1, 16000, generator=rng), ["vad", "-p", "0.1"]).shape == (1, 0)
    assert apply(torch.zeros(1, 0), ["vad"]).shape == (1, 0)


def test_effects_keep_the_number_type():
    integers = (tone(0.1) * 32767).to(torch.int16)
    halved = apply(integers, ["gain", "-6.0206"])
    assert halved.dtype == torch.int16
    torch.testing.assert_close(halved.float(), integers.float() / 2, atol=1.0, rtol=0)
    unsigned = torch.tensor([[128, 192, 64, 0]], dtype=torch.uint8)  # of which 128 is silence
    assert apply(unsigned, ["gain", "-6.0206"]).tolist() == [[128, 160, 96, 64]]
    assert apply(unsigned, ["gain", "12"]).tolist() == [[128, 255, 0, 0]]
    turned = sox_effects.apply_effects_tensor(unsigned.T, 16000, [["reverse"]], channels_first=False)[0]
    assert turned.tolist() == [[0], [64], [192], [128]]


def test_effects_apply_to_files(tmp_path):
    soundfile.write(tmp_path / "a.flac", torch.cat([tone(0.1, 8000)] * 2).T.numpy(), 8000)
    effects = [["channels", "1"], ["rate", "16000"], ["norm"]]
    for path in (tmp_path / "a.flac", str(tmp_path / "a.flac")):
        waveform, rate = sox_effects.apply_effects_file(path, effects)
        assert (waveform.dtype, tuple(waveform.shape), rate) == (torch.float32, (1, 1600), 16000)
        assert waveform.abs().max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (["reverb", "50"], "'reverb'"),
        (["silence", "-l", "1", "0.1", "1%"], "silence -l"),
        (["gain", "-e", "3"], "gain -e"),
        (["trim", "-1"], "trim -1"),
        (["pad", "1@2"], "pad 1@2"),
        (["vad", "-x", "3"], "vad -x"),
        (["channels", "0"], "channels 0"),
        (["rate", "-z", "8000"], "rate -z"),
        (["norm", "1", "2"], "norm 1 2"),
        (["reverse", "1"], "reverse 1"),
        (["silence", "1", "0.1", "1%", "2", "0.1", "1%"], "silence 1 0.1 1% 2"),
    ],
)
def test_unknown_effects_are_named(effect, message):
    with pytest.raises(NotImplementedError, match=message):
        apply(tone(0.1), effect)


def test_effects_in_datasets_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(sox_effects.apply_effects_file)) is sox_effects.apply_effects_file
