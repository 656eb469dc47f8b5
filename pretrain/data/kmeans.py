"""K-means in one place: its arguments, the sample it sees, its centroids.

`prepare` clusters log-Mel frames and `relabel` clusters hidden states. Each knows how to draw a sample of its
frames; everything else about K-means is the same for both and stands here. The nearest centroid of a frame is
`units.nearest`'s business, because models have centroids, too.

It is numpy alone. scikit-learn's MiniBatchKMeans, which ends at the same distances, takes twice as long, its
import longer still, and its centroids change with the number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import cpu_count
from threadpoolctl import threadpool_limits

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import KMEANS
from s3prl_melhubert.pretrain.data.unfinished import Unfinished
from s3prl_melhubert.units.nearest import NearestCentroid, read_centroids

CLUSTERS = 512  # as many as the published models predict
# K-means sees so many frames: 590 for each of 512 clusters. More of them move the centroids no further than
# another seed does, and the sample is what bounds the memory of `prepare`.
SAMPLE_FRAMES = 300_000
BATCH_FRAMES = 10_000  # frames of a step of K-means
PART_FRAMES = 2_500  # of a batch, for one thread
# K-means ends when the average distance has not fallen for so many steps. With twice as many, it takes half
# as long again and ends 0.2 % nearer, which is as far apart as two seeds are.
PATIENCE = 10
MAX_PASSES = 100  # over the sample, if the distance falls for ever


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise a MelHuBERTError that names an argument whose value is too small."""
    if value < least:
        raise MelHuBERTError(f"{name} {value}: expected at least {least}")


def check_arguments(*, clusters: int | None, sample_frames: int, seed: int = 0) -> None:
    """Refuse, before any work, arguments that K-means could not use.

    Raises:
        MelHuBERTError: fewer than one cluster, a sample smaller than the clusters, or a seed below zero.
    """
    check_at_least("--seed", seed, 0)
    check_at_least("--sample-frames", sample_frames, 1)
    if clusters is not None:
        check_at_least("--clusters", clusters, 1)
    wanted = CLUSTERS if clusters is None else clusters
    if sample_frames < wanted:
        raise MelHuBERTError(
            f"--sample-frames {sample_frames}: expected at least as many as --clusters ({wanted})"
        )


@dataclass(frozen=True)
class Clustering:
    """Which centroids a set gets: those of another set, or those of a sample of its own frames."""

    clusters: int
    seed: int  # of the sample and of K-means
    sample_frames: int  # how many frames K-means sees at the most
    dim: int  # width of the frames
    given: np.ndarray | None  # (clusters, dim) float32 centroids of another set

    @classmethod
    def from_arguments(
        cls, *, clusters: int | None, kmeans: str | Path | None, seed: int, sample_frames: int, dim: int
    ) -> Clustering:
        """What the arguments `--clusters`, `--kmeans`, `--seed` and `--sample-frames` ask for.

        Args:
            clusters: how many; without it, as many as `kmeans` has, or 512.
            kmeans: a prepared folder or a `.npy` file whose centroids are to be used.
            seed: of the sample and of K-means.
            sample_frames: how many frames K-means sees at the most.
            dim: width of the frames.

        Raises:
            MelHuBERTError: an impossible number, centroids that cannot be used, or another number of them
                than `clusters`.
        """
        if kmeans is None:
            check_arguments(clusters=clusters, sample_frames=sample_frames, seed=seed)
            return cls(clusters or CLUSTERS, seed, sample_frames, dim, None)
        check_arguments(clusters=1, sample_frames=sample_frames, seed=seed)  # nothing is drawn
        given = load_centroids(kmeans, dim)
        if clusters is not None and clusters != len(given):
            raise MelHuBERTError(
                f"--clusters {clusters}: but --kmeans {kmeans} has {len(given)}; leave one out"
            )
        return cls(len(given), seed, sample_frames, dim, given)

    def centroids(self, work: Unfinished, draw_sample: Callable[[], np.ndarray]) -> np.ndarray:
        """The (clusters, dim) float32 centroids of a set, which stand in its folder afterwards.

        A continued command finds those of its interrupted predecessor there and uses them.

        Args:
            work: the set that is being made.
            draw_sample: draws (n, dim) float32 frames of the set; only called if they are needed.

        Raises:
            MelHuBERTError: the sample has fewer frames than there are to be clusters.
        """
        path = work.out / KMEANS
        if path.is_file():
            return load_centroids(path, self.dim)
        centroids = self.given
        if centroids is None:
            sample = draw_sample()
            print(f"K-means: {self.clusters} clusters of {len(sample)} frames ...", file=sys.stderr)
            centroids = fit_kmeans(sample, self.clusters, self.seed)
        work.publish_array(KMEANS, centroids)
        return centroids


def sample_rows(counts: Sequence[int], size: int, seed: int) -> Iterator[np.ndarray]:
    """Draw rows from each shard so that all of them together are an even sample.

    Args:
        counts: how many rows each shard has.
        size: how many rows are wanted; all are taken where there are fewer.
        seed: of the draw.

    Yields:
        For each shard, sorted row numbers without repetition, as many as its size is a share of the whole.
    """
    total = sum(counts)
    size = min(size, total)
    before = 0
    for index, count in enumerate(counts):
        # The running total is rounded, not each share, so that the shares add up to `size` exactly.
        quota = size * (before + count) // max(total, 1) - size * before // max(total, 1)
        # No rows are kept in memory, whatever the size of the corpus, and none is drawn twice.
        draw = np.random.default_rng([seed, index]).permutation(count)[:quota]
        yield np.sort(draw)
        before += count


def fit_kmeans(sample: np.ndarray, clusters: int, seed: int, threads: int | None = None) -> np.ndarray:
    """Find the centroids of a sample by mini-batch K-means (Sculley 2010), begun by greedy k-means++.

    The centroids repeat exactly, however many threads there are.

    Args:
        sample: (n, dim) float32 frames.
        clusters: how many centroids are wanted.
        seed: of the initial draw and of the batches.
        threads: how many work at a time; None is as many as there are processors, and parts of a batch.

    Returns:
        (clusters, dim) float32 centroids.

    Raises:
        MelHuBERTError: the sample has fewer frames than there are to be clusters.
    """
    if len(sample) < clusters:
        raise MelHuBERTError(
            f"K-means: {len(sample)} frames found for {clusters} clusters, expected as many at the least; "
            "give more audio or fewer --clusters"
        )
    random = np.random.default_rng(seed)
    size = min(len(sample), max(BATCH_FRAMES, 3 * clusters))
    # A product of matrices that were shared among threads may round otherwise, so each has one of its own.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads or cpu_count()) as pool:
        centroids = _plus_plus(sample[random.choice(len(sample), size, replace=False)], clusters, random)
        counts = np.zeros(clusters, np.int64)
        # The distance to the centroids goes up and down with the batches. Its average over about as many
        # batches as the sample has tells whether it still falls.
        average, least, without_gain = None, np.inf, 0
        share = min(1.0, 2 * BATCH_FRAMES / (len(sample) + 1))
        for _ in range(max(1, MAX_PASSES * len(sample) // BATCH_FRAMES)):
            batch = sample[random.integers(len(sample), size=min(BATCH_FRAMES, len(sample)))]
            sums, hits, distance = _nearest_sums(batch, centroids, pool)
            counts += hits
            # Each centroid moves to the mean of all frames that have ever been nearest to it.
            moved = np.flatnonzero(hits)
            gap = sums[moved] - hits[moved, None] * centroids[moved]
            centroids[moved] += gap / counts[moved, None]
            average = distance if average is None else average + share * (distance - average)
            without_gain = 0 if average < least else without_gain + 1
            least = min(least, average)
            if without_gain == PATIENCE:
                break
    return centroids.astype(np.float32)


def _plus_plus(frames: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """(clusters, dim) float64 frames that lie far apart: greedy k-means++ (Arthur and Vassilvitskii 2007).

    A frame is drawn with the probability of its squared distance to the nearest one chosen before. Of a few
    that are drawn so, the one is taken that leaves the smallest sum of these distances.
    """
    tries = 2 + int(np.log(clusters))
    squares = np.square(frames).sum(1)  # (n,)
    chosen = [int(random.integers(len(frames)))]
    nearest = np.full(len(frames), np.inf, np.float32)  # squared distance to the nearest chosen frame
    candidates = np.array(chosen)
    while True:
        distances = (-2 * frames[candidates]) @ frames.T  # (tries, n)
        distances += squares
        distances += squares[candidates, None]
        np.clip(distances, 0, nearest, out=distances)
        best = int(distances.sum(1, dtype=np.float64).argmin())
        nearest = distances[best]
        chosen[-1] = int(candidates[best])
        if len(chosen) == clusters:
            return frames[chosen].astype(np.float64)
        sums = np.cumsum(nearest, dtype=np.float64)
        candidates = np.searchsorted(sums, random.random(tries) * sums[-1]).clip(max=len(frames) - 1)
        chosen.append(-1)


def _nearest_sums(
    batch: np.ndarray, centroids: np.ndarray, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the frames nearest to each centroid: (clusters, dim) sums and (clusters,) counts; the mean distance.

    The batch is cut into parts of one size, and these are added up in their order, so that no figure depends
    on how many threads there are.
    """
    nearest = NearestCentroid(centroids)
    clusters, dim = centroids.shape

    def part(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        labels, distances = nearest.with_distances(frames)
        places = (labels.astype(np.int64)[:, None] * dim + np.arange(dim)).reshape(-1)
        sums = np.bincount(places, weights=frames.reshape(-1), minlength=clusters * dim)
        total = distances.sum(dtype=np.float64) + np.square(frames).sum(dtype=np.float64)
        return sums.reshape(clusters, dim), np.bincount(labels, minlength=clusters), float(total)

    parts = list(pool.map(part, [batch[i : i + PART_FRAMES] for i in range(0, len(batch), PART_FRAMES)]))
    sums, hits, totals = zip(*parts, strict=True)
    return sum(sums[1:], sums[0]), sum(hits[1:], hits[0]), sum(totals) / len(batch)


def load_centroids(source: str | Path, dim: int | None = None) -> np.ndarray:
    """Load the (clusters, dim) float32 centroids of a .npy file, or of a prepared folder.

    Raises:
        MelHuBERTError: the file is not there, or is no matrix of finite numbers with `dim` columns.
    """
    path = Path(source).expanduser()
    return read_centroids(path / KMEANS if path.is_dir() else path, dim)
