"""An utterance of a prepared set: its name, and where its frames and labels lie on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.audio_frames import AudioFrames
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.arrays import open_npy
from s3prl_melhubert.support.files import suffix_of

FRAME_SHIFT_MS = 10
LABEL_PERIODS_MS = (10, 20)
# Lengths in the published CSVs are sometimes off by one frame.
LENGTH_TOLERANCE = 1  # frames
# Each mapped file keeps a file descriptor, of which a process may have 1024 by default.
OPEN_FILES = 256


def is_audio(path: Path) -> bool:
    """Whether a file, named as one of features, is of audio, because its set keeps no features."""
    return suffix_of(path) != ".npy"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest."""

    id: str  # the utterance's name, or where the manifest has no column for it, the feature file's
    # A .npy file of (rows, 40) float32 or float16 normalized log-Mel at 10 ms; or an audio file.
    features: Path
    labels: Path  # a .npy file of cluster ids
    length: int  # how many frames of 10 ms it has
    start: int | None = None  # its first row in `features`; None if the file is this utterance's alone
    label_start: int | None = None  # its first entry in `labels`; None if that file is its alone

    @property
    def is_audio(self) -> bool:
        """Whether its frames are made of an audio file, because the set keeps none."""
        return is_audio(self.features)


def label_count(frames: int, label_period_ms: int) -> int:
    """How many labels an utterance of n frames of 10 ms has: n at 10 ms, ceil(n / 2) at 20 ms."""
    return frames if label_period_ms == FRAME_SHIFT_MS else (frames + 1) // 2


def label_counts(frames: np.ndarray, label_period_ms: int) -> np.ndarray:
    """The same of many utterances at once."""
    return frames if label_period_ms == FRAME_SHIFT_MS else (frames + 1) // 2


@lru_cache(maxsize=OPEN_FILES)
def open_array(path: Path) -> np.ndarray:
    """Open a `.npy` file, memory-mapped and read-only; the last few hundred of them stay open.

    Raises:
        MelHuBERTError: the file is not there, or holds no array.
    """
    return open_npy(path)


def utterance_features(utterance: Utterance, stats: FeatureStats | None = None) -> np.ndarray | AudioFrames:
    """(frames, 40) normalized log-Mel frames of an utterance: slices of it are read, and nothing is yet.

    Args:
        utterance: a row of a manifest.
        stats: what frames that are made of audio are normalized with, which is what they were labelled with.

    Returns:
        A read-only view of the file's array, or what makes the frames of an audio file.

    Raises:
        MelHuBERTError: the file has another shape, or the utterance's length differs from the manifest's
            by more than one frame, or there are no statistics for audio.
    """
    if utterance.is_audio:
        if stats is None:
            raise MelHuBERTError(
                f"{utterance.features}: neither a .npy file nor the audio of a prepared set, whose "
                "dataset.yaml would say what its frames are normalized with"
            )
        return AudioFrames(utterance.features, utterance.length, stats)
    array = open_array(utterance.features)
    if array.ndim != 2 or array.shape[1] != N_MELS:
        raise MelHuBERTError(
            f"{utterance.features}: shape {array.shape} found, expected (frames, {N_MELS}) log-Mel frames"
        )
    return _slice(array, utterance.start, utterance.length, utterance, utterance.features, "frames")


def utterance_labels(utterance: Utterance, label_period_ms: int | None = None) -> np.ndarray:
    """(labels,) cluster ids of an utterance, as a read-only view: nothing is read yet.

    Args:
        utterance: a row of a manifest.
        label_period_ms: 10 or 20; with None, the number of labels tells, if the file is this utterance's
            alone; in a file of many it is 10.

    Raises:
        MelHuBERTError: the file holds no vector of integers, or the number of labels differs from the one
            that fits the utterance's length by more than one.
    """
    array = open_array(utterance.labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise MelHuBERTError(
            f"{utterance.labels}: {array.dtype} of shape {array.shape} found, expected a vector of whole "
            "numbers, one cluster id per frame"
        )
    if label_period_ms is None:
        label_period_ms = told_label_period(utterance, len(array))
    count = label_count(utterance.length, label_period_ms)
    return _slice(array, utterance.label_start, count, utterance, utterance.labels, "labels")


def told_label_period(utterance: Utterance, labels: int) -> int:
    """10 or 20 ms, whichever fits so many labels better to the utterance's frames."""
    if utterance.label_start is not None:
        return FRAME_SHIFT_MS
    return min(LABEL_PERIODS_MS, key=lambda period: abs(label_count(utterance.length, period) - labels))


def _slice(
    array: np.ndarray, start: int | None, count: int, utterance: Utterance, path: Path, what: str
) -> np.ndarray:
    found = len(array) if start is None else len(array) - start
    if found < count - LENGTH_TOLERANCE or (start is None and found > count + LENGTH_TOLERANCE):
        raise MelHuBERTError(
            f"{path}: {max(0, found)} {what} found for utterance {utterance.id}"
            f"{'' if start is None else f' from row {start}'}, expected {count} (length "
            f"{utterance.length} in the manifest)"
        )
    first = start or 0
    return array[first : first + count]
