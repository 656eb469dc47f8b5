"""K-means: a bounded sample of frames, centroids of it, and the nearest centroid of every frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.kernels import product
from s3prl_melhubert.pretrain.layout import KMEANS

# Frames that K-means sees: 590 for each of 512 clusters. More moves the centroids no further than another
# seed does, and the sample is what the memory of `prepare` is bounded by.
SAMPLE_FRAMES = 300_000
BATCH_FRAMES = 10_000
# Frames of one matrix product. Its (512, clusters) result stays in the cache until its minima are found.
ASSIGN_FRAMES = {"cpu": 512, "cuda": 65_536}


def sample_rows(counts: Sequence[int], size: int, seed: int) -> Iterator[np.ndarray]:
    """Which rows of each shard to look at, so that all of them together are an even sample.

    Args:
        counts: rows of each shard.
        size: rows wanted; all are taken where there are fewer.
        seed: of the draw.

    Yields:
        For each shard, sorted row numbers without repetition, in proportion to its size.
    """
    total = sum(counts)
    size = min(size, total)
    before = 0
    for index, count in enumerate(counts):
        # Rounding the running total, not each share, makes them add up to `size` exactly.
        quota = size * (before + count) // max(total, 1) - size * before // max(total, 1)
        # No rows are kept in memory and none are drawn twice, whatever the corpus's size.
        draw = np.random.default_rng([seed, index]).permutation(count)[:quota]
        yield np.sort(draw)
        before += count


def fit_kmeans(sample: np.ndarray, clusters: int, seed: int, threads: int | None = 1) -> np.ndarray:
    """Centroids of a sample, by scikit-learn's MiniBatchKMeans.

    Args:
        sample: (n, dim) float32 frames.
        clusters: how many centroids.
        seed: of the initial draw and the order of the batches.
        threads: for matrix products; one makes the centroids repeat exactly, None is all there are.

    Returns:
        (clusters, dim) float32 centroids.

    Raises:
        MelHuBERTError: fewer frames than clusters.
    """
    if len(sample) < clusters:
        raise MelHuBERTError(
            f"K-means: {len(sample)} frames found for {clusters} clusters, expected as many at the least; "
            "give more audio or fewer --clusters"
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
        random_state=zlib.crc32(str(seed).encode()),  # any whole number is a seed; scikit-learn wants 32 bits
    )
    with threadpool_limits(limits=threads):
        model.fit(sample)
    return np.ascontiguousarray(model.cluster_centers_, dtype=np.float32)


class NearestCentroid:
    """Frames to cluster ids: argmin over centroids c of |c|^2 - 2 x.c, one matrix product.

    Args:
        centroids: (clusters, dim) float32.
        device: where to compute.
    """

    def __init__(self, centroids: np.ndarray, device: str | torch.device = "cpu"):
        matrix = torch.from_numpy(np.array(centroids, dtype=np.float32)).to(device)
        self._squares = matrix.square().sum(1)  # (clusters,)
        self._weight = -2 * matrix  # (clusters, dim)
        self.dtype = label_dtype(len(matrix))

    def __call__(self, frames: np.ndarray | Tensor) -> np.ndarray:
        """(n, dim) frames -> (n,) cluster ids, in the smallest of int16 and int32 that holds them."""
        device = self._weight.device
        labels = np.empty(len(frames), dtype=self.dtype)
        step = ASSIGN_FRAMES["cpu" if device.type == "cpu" else "cuda"]
        for start in range(0, len(frames), step):
            # A copy, because torch's memory is aligned: sums may round otherwise where memory is not.
            block = torch.as_tensor(frames[start : start + step]).clone().to(device, torch.float32)
            if device.type == "cpu":
                distances = product(block, self._weight, self._squares)
                nearest = distances.numpy().argmin(1)  # twice as fast as torch's
            else:
                distances = torch.addmm(self._squares, block, self._weight.T)
                nearest = distances.argmin(1).cpu().numpy()
            labels[start : start + step] = nearest
        return labels


def label_dtype(clusters: int) -> np.dtype:
    """The type of a label file."""
    return np.dtype(np.int16 if clusters <= np.iinfo(np.int16).max + 1 else np.int32)


def load_centroids(source: str | Path, dim: int | None = None) -> np.ndarray:
    """(clusters, dim) float32 centroids of a .npy file, or of a prepared folder.

    Raises:
        MelHuBERTError: no such file, or not a matrix of finite numbers with `dim` columns.
    """
    path = Path(source).expanduser()
    path = path / KMEANS if path.is_dir() else path
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise MelHuBERTError(f"{path}: cannot be read as a .npy file of centroids ({reason})") from None
    wanted = "columns" if dim is None else f"{dim} columns"
    if array.ndim != 2 or (dim is not None and array.shape[1] != dim):
        raise MelHuBERTError(f"{path}: shape {array.shape} found, expected a row per cluster and {wanted}")
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise MelHuBERTError(f"{path}: centroids that are not finite floating-point numbers")
    return np.ascontiguousarray(array, dtype=np.float32)
