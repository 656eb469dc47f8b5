"""K-means in one place: its arguments, the sample it sees, its centroids.

`prepare` clusters log-Mel frames and `relabel` clusters hidden states. Each knows how to draw a sample of its
frames; everything else about K-means is the same for both and stands here. The nearest centroid of a frame is
`units.nearest`'s business, because models have centroids, too.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import KMEANS
from s3prl_melhubert.pretrain.data.unfinished import Unfinished
from s3prl_melhubert.support.settings import check_seed
from s3prl_melhubert.units.nearest import read_centroids

CLUSTERS = 512  # as many as the published models predict
# K-means sees so many frames: 590 for each of 512 clusters. More of them move the centroids no further than
# another seed does, and the sample is what bounds the memory of `prepare`.
SAMPLE_FRAMES = 300_000
BATCH_FRAMES = 10_000  # frames of a step of K-means
# Threads of a fit that has to repeat to the last bit. Those of scikit-learn (OpenMP) share out the frames of
# a batch, work on each as if it were alone, and then add up their sums of distances. Two of them may add in
# either order, which gives the same; more than two would give another sum each time.
EXACT_THREADS = {"blas": 1, "openmp": 2}


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise a MelHuBERTError that names an argument whose value is too small."""
    if value < least:
        raise MelHuBERTError(f"{name} {value}: expected at least {least}")


def check_arguments(*, clusters: int | None, sample_frames: int, seed: int) -> None:
    """Refuse, before any work, arguments that K-means could not use.

    Raises:
        MelHuBERTError: fewer than one cluster, a sample smaller than the clusters, or a seed
            that cannot be one.
    """
    check_seed(seed)
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

    def get_ready(self, work: Unfinished) -> None:
        """Import scikit-learn, where it will be needed, in a thread while other processes make the frames."""
        if self.given is None and not (work.out / KMEANS).is_file():
            Thread(target=import_module, args=("sklearn.cluster",)).start()

    def centroids(
        self, work: Unfinished, draw_sample: Callable[[], np.ndarray], exact: bool = True
    ) -> np.ndarray:
        """The (clusters, dim) float32 centroids of a set, which stand in its folder afterwards.

        A continued command finds those of its interrupted predecessor there and uses them.

        Args:
            work: the set that is being made.
            draw_sample: draws (n, dim) float32 frames of the set; only called if they are needed.
            exact: as for `fit_kmeans`.

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
            centroids = fit_kmeans(sample, self.clusters, self.seed, exact)
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


def fit_kmeans(sample: np.ndarray, clusters: int, seed: int, exact: bool = True) -> np.ndarray:
    """Find the centroids of a sample with scikit-learn's MiniBatchKMeans.

    Args:
        sample: (n, dim) float32 frames.
        clusters: how many centroids are wanted.
        seed: of the initial draw and of the order of the batches.
        exact: whether the centroids have to repeat to the last bit, which two threads can; without, as many
            compute as there are cores.

    Returns:
        (clusters, dim) float32 centroids.

    Raises:
        MelHuBERTError: the sample has fewer frames than there are to be clusters, or one that is not finite.
    """
    if len(sample) < clusters:
        raise MelHuBERTError(
            f"K-means: {len(sample)} frames found for {clusters} clusters, expected as many at the least; "
            "give more audio or fewer --clusters"
        )
    if not np.isfinite(sample).all():
        raise MelHuBERTError(
            "K-means: frames with NaN or infinite figures found, expected finite ones; give --stats that fit "
            "this audio"
        )
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    # Three initializations and 100 batches without improvement take four times as long, and end within
    # 0.6 % of the same inertia on log-Mel frames, about as far apart as two seeds do. An initialization on
    # three batches, scikit-learn's own choice, takes two thirds longer in all and ends within 0.2 %.
    model = MiniBatchKMeans(
        n_clusters=clusters,
        init="k-means++",
        n_init=1,
        batch_size=BATCH_FRAMES,
        init_size=max(BATCH_FRAMES, 3 * clusters),
        max_iter=100,
        tol=0.0,
        max_no_improvement=20,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=_Draws(zlib.crc32(str(seed).encode())),  # scikit-learn takes seeds of 32 bits only
    )
    with threadpool_limits(limits=EXACT_THREADS if exact else None):
        model.fit(sample)
    return np.ascontiguousarray(model.cluster_centers_, dtype=np.float32)


class _Draws(np.random.RandomState):
    """numpy's random numbers, which keep what they add up of weights.

    scikit-learn draws each batch by the same weights. numpy adds up all of them each time, which took as long
    as everything else in a fit.
    """

    def __init__(self, seed: int):
        super().__init__(seed)
        self._weights: np.ndarray | None = None
        self._sums = np.empty(0)

    def choice(self, a: Any, size: Any = None, replace: Any = True, p: Any = None) -> Any:
        if p is None or not isinstance(size, int) or not replace or np.ndim(a):
            return super().choice(a, size, replace, p)
        if p is not self._weights:
            self._weights, self._sums = p, np.cumsum(p, dtype=np.float64)
            self._sums /= self._sums[-1]
        draws = self.random_sample(size)
        order = draws.argsort()  # Neighbours are found near each other in memory.
        found = np.empty(len(draws), np.int64)
        found[order] = self._sums.searchsorted(draws[order], side="right")
        return found


def load_centroids(source: str | Path, dim: int | None = None) -> np.ndarray:
    """Load the (clusters, dim) float32 centroids of a .npy file, or of a prepared folder.

    Raises:
        MelHuBERTError: the file is not there, or is no matrix of finite numbers with `dim` columns.
    """
    path = Path(source).expanduser()
    return read_centroids(path / KMEANS if path.is_dir() else path, dim)
