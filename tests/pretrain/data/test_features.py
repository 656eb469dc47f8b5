"""Statistics in one pass: those of all frames at once, and none of a bin that never changes."""

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.features import FeatureSums, Rejected, file_log_mel


def sums_of(frames: np.ndarray, parts: int) -> FeatureSums:
    return sum(map(FeatureSums.of, np.array_split(frames, parts)), FeatureSums.zero())


def test_sums_of_parts_make_the_statistics_of_the_whole():
    frames = (np.random.default_rng(0).normal(size=(5000, 40)) * 3 + 12).astype(np.float32)
    stats = sums_of(frames, 7).to_stats("of this")
    wide = frames.astype(np.float64)
    np.testing.assert_allclose(stats.mean, wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats.std, wide.std(0), rtol=1e-6)


@pytest.mark.parametrize("value", [-15.942385, 0.1, 3.3, 0.0])
@pytest.mark.parametrize("frames", [1, 100, 12_345])
def test_a_bin_that_never_changes_has_no_deviation_of_rounding_errors(value, frames):
    """The difference of two large sums was 1e-13, and frames were to be divided by its root."""
    features = np.random.default_rng(0).normal(size=(frames, 40)).astype(np.float32)
    features[:, 5] = value
    with pytest.raises(MelHuBERTError, match=r"std of bin \d is 0, expected above zero"):
        sums_of(features, min(frames, 5)).to_stats("of this")


def test_a_bin_that_hardly_changes_keeps_its_deviation():
    features = np.random.default_rng(0).normal(size=(5000, 40)) * 1e-3 + 16
    np.testing.assert_allclose(sums_of(features, 5).to_stats("of this").std, features.std(0), rtol=1e-4)


def test_a_file_of_a_single_frame_is_kept_and_a_shorter_one_is_rejected(tmp_path):
    for samples in (399, 400):
        noise = np.random.default_rng(0).normal(0, 0.1, samples)
        soundfile.write(tmp_path / f"{samples}.wav", noise, 16_000)
    assert file_log_mel(tmp_path / "400.wav")[0].shape == (1, 40)
    with pytest.raises(Rejected, match="too short: 399 samples at 16 kHz, expected 400 or more"):
        file_log_mel(tmp_path / "399.wav")
