"""The sample, the centroids and the nearest of them."""

import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data import kmeans
from s3prl_melhubert.pretrain.data.kmeans import (
    fit_kmeans,
    load_centroids,
    sample_rows,
)
from s3prl_melhubert.units.nearest import NearestCentroid, label_dtype


def test_sample_is_even_exact_in_size_and_repeats():
    counts = [1000, 10, 0, 500, 3]
    rows = list(sample_rows(counts, 300, seed=1))
    assert sum(map(len, rows)) == 300
    assert [len(part) for part in rows] == pytest.approx([198, 2, 0, 99, 1], abs=1)
    for part, count in zip(rows, counts, strict=True):
        assert len(np.unique(part)) == len(part)
        assert (part < count).all()
        assert (np.diff(part) > 0).all()
    again, other = list(sample_rows(counts, 300, seed=1)), list(sample_rows(counts, 300, seed=2))
    assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))
    assert not np.array_equal(rows[0], other[0])


def test_a_small_corpus_is_sampled_whole():
    assert [len(part) for part in sample_rows([4, 6], 300, seed=0)] == [4, 6]
    assert [len(part) for part in sample_rows([0, 1], 300, seed=0)] == [0, 1]


def test_kmeans_finds_separate_groups_and_repeats_exactly():
    random = np.random.default_rng(0)
    centres = np.eye(40, dtype=np.float32)[:5] * 10
    sample = (centres[random.integers(0, 5, 3000)] + random.normal(0, 0.1, (3000, 40))).astype(np.float32)
    found = fit_kmeans(sample, 5, seed=3)
    distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
    assert sorted(distances.argmin(1)) == [0, 1, 2, 3, 4]
    assert distances.min(1).max() < 0.05
    assert np.array_equal(found, fit_kmeans(sample, 5, seed=3))


def test_centroids_do_not_depend_on_how_threads_share_the_frames(monkeypatch):
    random = np.random.default_rng(0)
    sample = random.normal(0, 1, (30_000, 40)).astype(np.float32)
    found = [fit_kmeans(sample, 50, seed=1) for _ in range(3)]
    monkeypatch.setattr(kmeans, "EXACT_THREADS", {"blas": 1, "openmp": 1})
    found.append(fit_kmeans(sample, 50, seed=1))
    assert all(np.array_equal(each, found[0]) for each in found)


def test_batches_are_drawn_as_numpy_draws_them():
    random = np.random.default_rng(0)
    some, others = random.random((2, 1000)).astype(np.float32)
    ours, numpys = kmeans._Draws(3), np.random.RandomState(3)
    for weights, size in [(some, 50), (some, 70), (others, 50), (some, None), (some, (2, 3)), (None, 9)]:
        p = None if weights is None else weights / weights.sum()
        for _ in range(2):
            assert np.array_equal(ours.choice(1000, size, p=p), numpys.choice(1000, size, p=p))
    p = some / some.sum()
    assert np.array_equal(ours.choice(1000, 9, False, p), numpys.choice(1000, 9, False, p))


def test_the_centroids_are_those_of_scikit_learn_alone(monkeypatch):
    sample = np.random.default_rng(0).normal(0, 1, (20_000, 40)).astype(np.float32)
    found = fit_kmeans(sample, 50, seed=1)
    monkeypatch.setattr(kmeans, "_Draws", np.random.RandomState)
    assert np.array_equal(found, fit_kmeans(sample, 50, seed=1))


def test_too_few_frames_for_the_clusters_is_an_error():
    with pytest.raises(MelHuBERTError, match="3 frames found for 5 clusters"):
        fit_kmeans(np.ones((3, 40), np.float32), 5, seed=0)


def test_frames_that_are_not_finite_have_no_centroids():
    sample = np.ones((30, 40), np.float32)
    for sample[3, 4] in (np.nan, -np.inf):
        with pytest.raises(MelHuBERTError, match=r"NaN or infinite figures found, .* give --stats that fit"):
            fit_kmeans(sample, 5, seed=0)


def test_labels_are_the_nearest_centroids():
    random = np.random.default_rng(0)
    centroids = random.normal(size=(100, 40)).astype(np.float32)
    frames = random.normal(size=(1300, 40)).astype(np.float32)  # more than two blocks
    labels = NearestCentroid(centroids)(frames)
    exact = np.square(frames[:, None].astype(np.float64) - centroids[None]).sum(2)
    assert labels.dtype == np.int16
    assert np.array_equal(labels, exact.argmin(1))
    assert len(NearestCentroid(centroids)(frames[:0])) == 0


def test_label_files_are_as_small_as_the_ids_allow():
    assert label_dtype(512) == np.int16
    assert label_dtype(32_768) == np.int16
    assert label_dtype(32_769) == np.int32


def test_centroids_that_cannot_be_used_are_errors(tmp_path):
    np.save(tmp_path / "kmeans.npy", np.ones((5, 40)))
    assert load_centroids(tmp_path, 40).dtype == np.float32
    with pytest.raises(MelHuBERTError, match=r"shape \(5, 40\) found, expected a row per cluster and 768"):
        load_centroids(tmp_path / "kmeans.npy", 768)
    with pytest.raises(MelHuBERTError, match="cannot be read"):
        load_centroids(tmp_path / "other.npy")
    np.save(tmp_path / "bad.npy", np.ones((0, 40)))
    with pytest.raises(MelHuBERTError, match=r"shape \(0, 40\) found, expected a row per cluster"):
        load_centroids(tmp_path / "bad.npy", 40)
    for figure in (np.nan, 1e39, 1):  # The second is none of float32's.
        np.save(tmp_path / "bad.npy", np.full((5, 40), figure))
        with pytest.raises(MelHuBERTError, match="finite"):
            load_centroids(tmp_path / "bad.npy")
