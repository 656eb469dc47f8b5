"""From the settings to batches: the sizes that they name, and statistics that contradict the data."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_melhubert import FeatureStats, MelHuBERTConfig, MelHuBERTError
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.loading import (
    batches_in_order,
    build_dataset,
    build_plan,
    feature_stats,
    settle_stats,
)
from s3prl_melhubert.pretrain.training.sampler import MicroBatch
from s3prl_melhubert.pretrain.training.settings import DataSettings


@pytest.fixture
def dataset_of(make_prepared, tmp_path):
    """`dataset_of(settings)`: 24 utterances of 50 frames of the model, with the statistics of LibriSpeech."""
    folder = make_prepared(tmp_path / "set", [100] * 24, stats=FeatureStats.load("librispeech-360h"))

    def read(settings: DataSettings) -> PretrainingDataset:
        return build_dataset([str(folder)], MelHuBERTConfig(num_cluster=16), settings, seed=0, valid=True)

    return read


@pytest.mark.parametrize(
    ("settings", "batch", "step"),
    [
        ({"train_batch_size": 3}, 150, 300),
        ({"max_frames": 100}, 100, 200),
        ({"max_frames": 100, "frames_per_batch": 400}, 100, 400),
        ({"rows": True, "sequence_length": 100, "train_batch_size": 2}, 200, None),
    ],
)
def test_batches_have_the_frames_that_the_settings_name(settings, batch, step, dataset_of):
    """So does a validation, whose memory is that of a micro-batch."""
    datarc = DataSettings(**settings)
    dataset = dataset_of(datarc)
    assert {50 * len(each.utterances) for each in batches_in_order(dataset, datarc)} == {batch}
    plan = build_plan(dataset, datarc, 2, 1, 0)
    if step is not None:
        found = [[50 * len(each.utterances) for each in parts] for parts in plan.epoch(0)]
        assert {size for parts in found for size in parts} == {batch}
        assert set(map(sum, found)) == {step}


def test_statistics_that_contradict_the_data_are_refused(dataset_of):
    stats = FeatureStats.load("librispeech-360h")
    for given, words in (
        (None, None),
        ("librispeech-360h", None),
        ("librispeech-100h", "here: feature_stats: librispeech-100h are other statistics than the data was"),
    ):
        settings = DataSettings(feature_stats=given)
        dataset = dataset_of(settings)
        if words is None:
            assert feature_stats(dataset, settings, "here") == stats
        else:
            with pytest.raises(MelHuBERTError, match=words):
                feature_stats(dataset, settings, "here")


@pytest.mark.parametrize("model", [None, "librispeech-100h", "librispeech-960h"])
def test_all_data_is_read_as_if_normalized_with_the_statistics_of_the_model(model, make_prepared, tmp_path):
    """Those of a new model are the training data's, not the validation's; one that goes on keeps its own."""
    own = [FeatureStats.load(f"librispeech-{name}") for name in ("100h", "360h")]
    folders = [str(make_prepared(tmp_path / stats.name, [40], stats=stats)) for stats in own]

    def read() -> list[PretrainingDataset]:
        config = MelHuBERTConfig(num_cluster=16)
        return [build_dataset([each], config, DataSettings(), seed=0, valid=True) for each in folders]

    def log_mel(dataset: PretrainingDataset, stats: FeatureStats) -> np.ndarray:
        [frames] = dataset[MicroBatch(0, places=(0,), utterances=(0,))].features
        return frames.reshape(-1, 40).numpy() * stats.std + stats.mean

    before = [log_mel(dataset, stats) for dataset, stats in zip(read(), own, strict=True)]
    known = None if model is None else FeatureStats.load(model)
    settled, lines = settle_stats(after := read(), own[0], known, "old.ckpt")
    assert settled == (known or own[0])
    assert len(lines) == 1
    for dataset, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(log_mel(dataset, settled), expected, atol=1e-3)


def test_features_of_a_published_csv_are_taken_to_be_normalized_as_the_models_were(make_published):
    published = PretrainingDataset([read_prepared(make_published([100]))], MelHuBERTConfig(num_cluster=16))
    own = FeatureStats.load("librispeech-360h")
    stats, [line] = settle_stats([published, None], None, own, "old.ckpt")
    assert stats == own
    assert line.startswith("statistics: those of old.ckpt; a published CSV does not say")
