"""The sample, the centroids and the nearest of them."""

import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
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


def test_kmeans_finds_separate_groups_and_repeats_exactly():
    random = np.random.default_rng(0)
    centres = np.eye(40, dtype=np.float32)[:5] * 10
    sample = (centres[random.integers(0, 5, 3000)] + random.normal(0, 0.1, (3000, 40))).astype(np.float32)
    found = fit_kmeans(sample, 5, seed=3)
    distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
    assert sorted(distances.argmin(1)) == [0, 1, 2, 3, 4]
    assert distances.min(1).max() < 0.05
    assert np.array_equal(found, fit_kmeans(sample, 5, seed=3))


def test_kmeans_does_not_depend_on_the_number_of_threads():
    sample = np.random.default_rng(0).normal(size=(12_345, 40)).astype(np.float32)
    found = [fit_kmeans(sample, 60, seed=3, threads=threads) for threads in (1, 2, 3)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("clusters", [4, 60])
def test_kmeans_ends_as_near_as_scikit_learns(clusters):
    cluster = pytest.importorskip("sklearn.cluster")  # It comes with librosa.
    random = np.random.default_rng(0)
    sample = random.normal(size=(20_000, 40)) @ random.normal(size=(40, 40)) / 6
    sample = sample.astype(np.float32)

    def distance(centroids):
        labels = NearestCentroid(centroids)(sample)
        return np.square(sample - centroids[labels]).sum(1).mean()

    theirs = cluster.MiniBatchKMeans(clusters, batch_size=10_000, n_init=1, random_state=0).fit(sample)
    expected = distance(theirs.cluster_centers_.astype(np.float32))
    assert distance(fit_kmeans(sample, clusters, seed=0)) < 1.01 * expected


def test_kmeans_of_frames_that_are_all_the_same():
    found = fit_kmeans(np.ones((50, 40), np.float32), 5, seed=0)
    assert np.array_equal(found, np.ones((5, 40)))


def test_too_few_frames_for_the_clusters_is_an_error():
    with pytest.raises(MelHuBERTError, match="3 frames found for 5 clusters"):
        fit_kmeans(np.ones((3, 40), np.float32), 5, seed=0)


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
    np.save(tmp_path / "bad.npy", np.full((5, 40), np.nan))
    with pytest.raises(MelHuBERTError, match="finite"):
        load_centroids(tmp_path / "bad.npy")
