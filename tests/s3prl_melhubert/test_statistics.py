"""Statistics: the published figures, files of ours, and figures that cannot be right."""

import numpy as np
import pytest
import yaml

from s3prl_melhubert import FeatureStats, MelHuBERTError
from s3prl_melhubert.statistics import published_stats

GOOD = {"mean": [1.0] * 40, "std": [2.0] * 40}


def test_published_statistics_are_shipped():
    assert list(published_stats()) == ["librispeech-100h", "librispeech-360h", "librispeech-960h"]
    stats = FeatureStats.load("librispeech-360h")
    assert stats.mean[0] == pytest.approx(12.182704)
    assert stats.std[-1] == pytest.approx(3.347871)


def test_statistics_from_files_equal_the_named_ones(tmp_path):
    named = FeatureStats.load("librispeech-960h")
    np.save(tmp_path / "stats.npy", np.stack([named.mean, named.std]))
    (tmp_path / "stats.yaml").write_text(yaml.safe_dump(named.to_mapping()))
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump({"mine": named.to_mapping()}))
    for source in (tmp_path / "stats.npy", str(tmp_path / "stats.yaml"), tmp_path / "nested.yaml", named):
        assert FeatureStats.load(source) == named
    assert FeatureStats.load(named.to_mapping()) == named
    assert FeatureStats.load("librispeech-100h") != named


def test_statistics_are_the_same_where_all_figures_are():
    mean, std = np.zeros(40), np.ones(40)
    assert FeatureStats(mean, std) == FeatureStats(mean, std, "of another name")
    assert FeatureStats(mean, std) != FeatureStats(mean + 1, std)
    assert FeatureStats(mean, std) != FeatureStats(mean, std + 1)


def test_the_digest_is_that_in_the_files_of_earlier_versions():
    digest = FeatureStats.load("librispeech-360h").digest()
    assert digest == "f6cdbd0e25f971863bb67767c5955f2cfd922f169c845356e731f1100804be3c"


def test_rescaled_frames_are_those_normalized_with_the_other_statistics():
    one, other = FeatureStats.load("librispeech-100h"), FeatureStats(np.full(40, 3.0), np.full(40, 2.0))
    frames = np.linspace(-5, 15, 200).reshape(5, 40)
    scale, shift = one.rescaling(other)
    rescaled = (frames - one.mean) / one.std * scale + shift
    np.testing.assert_allclose(rescaled, (frames - other.mean) / other.std, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**GOOD, "mean": [1.0] * 39}, ["mean has 39 figures", "expected 40"]),
        ({**GOOD, "std": [2.0] * 39 + [0.0]}, ["std of bin 39 is 0", "above zero"]),
        ({**GOOD, "std": [2.0] * 39 + [-1.0]}, ["std of bin 39 is -1"]),
        ({**GOOD, "mean": [float("nan")] + [1.0] * 39}, ["mean of bin 0 is nan"]),
        ({**GOOD, "mean": ["x"] * 40}, ["mean is not a list of numbers"]),
        ({**GOOD, "mean": [True] * 40}, ["mean is not a list of numbers"]),
        ({"mean": [1.0] * 40}, ["no std found"]),
    ],
    ids=str,
)
def test_bad_figures_are_named(tmp_path, content, words):
    file = tmp_path / "stats.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(MelHuBERTError) as error:
        FeatureStats.load(file)
    for word in [str(file), *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(MelHuBERTError, match=r"librispeech-361h.*librispeech-360h.*\.npy"):
        FeatureStats.load("librispeech-361h")
    with pytest.raises(MelHuBERTError, match=r"nowhere\.npy.*cannot be read"):
        FeatureStats.load(tmp_path / "nowhere.npy")
    np.save(tmp_path / "flat.npy", np.zeros(80))
    with pytest.raises(MelHuBERTError, match=r"\(80,\) found, expected \(2, 40\)"):
        FeatureStats.load(tmp_path / "flat.npy")
    np.save(tmp_path / "three.npy", np.ones((3, 40)))
    with pytest.raises(MelHuBERTError, match=r"\(3, 40\) found, expected \(2, 40\)"):
        FeatureStats.load(tmp_path / "three.npy")
    with pytest.raises(MelHuBERTError, match="int found"):
        FeatureStats.load(7)


def test_published_figures_cannot_be_changed_for_the_process():
    with pytest.raises(ValueError, match="read-only"):
        FeatureStats.load("librispeech-360h").mean[:] = 0
    mean = np.zeros(40, np.float32)
    stats = FeatureStats(mean, np.ones(40))
    mean[:] = 5
    assert not stats.mean.any()
    assert stats.std.dtype == np.float32


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (np.zeros(40), np.zeros(40), "std of bin 0 is 0"),
        (np.zeros(1), np.ones(1), "mean has 1 figures, expected 40"),
    ],
)
def test_figures_are_checked_however_they_are_given(mean, std, words):
    with pytest.raises(MelHuBERTError, match=words):
        FeatureStats(mean, std)
