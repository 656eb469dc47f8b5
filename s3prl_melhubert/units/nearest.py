"""Centroids in a file, and the nearest of them for every frame.

What works on a CPU is numpy alone: the processes of `prepare` label frames, and do not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.arrays import open_npy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# One matrix product takes so many frames. Its (512, clusters) result stays in the cache until its minima are
# found.
ASSIGN_FRAMES = {"cpu": 512, "cuda": 65_536}


class NearestCentroid:
    """Finds the nearest centroid of each frame x: the c of the smallest |c|^2 - 2 x.c, by a matrix product.

    Args:
        centroids: (clusters, dim) float32.
        device: where it computes.
    """

    def __init__(self, centroids: np.ndarray, device: str | torch.device = "cpu"):
        matrix = np.array(centroids, dtype=np.float32)
        self.dtype = label_dtype(len(matrix))
        self._weight = np.ascontiguousarray(-2 * matrix.T)  # (dim, clusters)
        self._squares = np.square(matrix).sum(1)  # (clusters,)
        self._on_device = None if str(device) == "cpu" else _OnDevice(self._weight, self._squares, device)

    def __call__(self, frames: np.ndarray | Tensor) -> np.ndarray:
        """(n, dim) frames -> (n,) cluster ids, in the smallest of int16 and int32 that holds them.

        Raises:
            MelHuBERTError: a frame is not finite. It would be given an id, too, that of the first centroid.
        """
        if self._on_device is not None:
            return self._on_device(frames).astype(self.dtype)
        labels = np.empty(len(frames), dtype=self.dtype)
        step = ASSIGN_FRAMES["cpu"]
        room = np.empty((min(step, len(frames)), len(self._squares)), np.float32)
        for start in range(0, len(frames), step):
            block = np.asarray(frames[start : start + step], np.float32)
            with np.errstate(invalid="ignore"):  # What is not finite is refused below.
                distances = np.dot(block, self._weight, out=room[: len(block)])  # (B, clusters)
            distances += self._squares
            found = distances.argmin(1)
            _check_finite(np.isfinite(distances[np.arange(len(block)), found]).all())
            labels[start : start + step] = found
        return labels


class _OnDevice:
    """The same on a device of torch's."""

    def __init__(self, weight: np.ndarray, squares: np.ndarray, device: str | torch.device):
        import torch

        self._torch, self._device = torch, torch.device(device)
        self._weight = torch.from_numpy(weight).to(device)
        self._squares = torch.from_numpy(squares).to(device)

    def __call__(self, frames: np.ndarray | Tensor) -> np.ndarray:
        step = ASSIGN_FRAMES["cuda"]
        found = [np.empty(0, np.int64)]
        for start in range(0, len(frames), step):
            block = self._torch.as_tensor(frames[start : start + step])
            block = block.to(self._device, self._torch.float32)
            least, ids = self._torch.addmm(self._squares, block, self._weight).min(1)
            _check_finite(bool(least.isfinite().all()))
            found.append(ids.cpu().numpy())
        return np.concatenate(found)


def _check_finite(is_finite: bool) -> None:
    """Raise a MelHuBERTError where the distance to the nearest centroid is no number."""
    if not is_finite:
        raise MelHuBERTError(
            "frames with NaN or infinite figures found, to which no centroid is near; expected finite ones"
        )


def label_dtype(clusters: int) -> np.dtype:
    """The type of a file of labels or units: the smallest of int16 and int32 that holds all ids."""
    return np.dtype(np.int16 if clusters <= np.iinfo(np.int16).max + 1 else np.int32)


def read_centroids(path: str | Path, dim: int | None = None) -> np.ndarray:
    """Read the (clusters, dim) float32 centroids of a .npy file.

    Raises:
        MelHuBERTError: the file is not there, or is no matrix of finite numbers with `dim` columns, or of no
            row.
    """
    path = Path(path).expanduser()
    array = open_npy(path)
    wanted = "columns" if dim is None else f"{dim} columns"
    if array.ndim != 2 or 0 in array.shape or (dim is not None and array.shape[1] != dim):
        raise MelHuBERTError(f"{path}: shape {array.shape} found, expected a row per cluster and {wanted}")
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is refused.
            centroids = np.ascontiguousarray(array, dtype=np.float32)
        if np.isfinite(centroids).all():
            return centroids
    raise MelHuBERTError(f"{path}: centroids that are not finite floating-point numbers")
