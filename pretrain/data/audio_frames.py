"""The frames of a set that keeps none: log-Mel of its audio files, made when training asks for them.

A crop of some seconds is decoded by itself where the format allows that. A frame depends on its own 25 ms of
audio alone, so it is the same frame that `prepare` has labelled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s3prl_melhubert.audio import read_stretch
from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.fbank import FRAME_LENGTH, FRAME_SHIFT, fbank, frame_count
from s3prl_melhubert.statistics import FeatureStats


class AudioFrames:
    """(frames, 40) normalized log-Mel frames of an audio file, of which only what is asked for is made.

    It has a length, and gives rows for a slice, as the array of a features file does.

    Args:
        path: the audio file.
        length: how many frames of 10 ms it had when it was labelled.
        stats: what the frames are normalized with.
    """

    def __init__(self, path: Path, length: int, stats: FeatureStats):
        self.path, self.length, self.stats = path, length, stats

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows of a slice without a step: (n, 40) float32.

        Raises:
            MelHuBERTError: the file cannot be read, or it has another length than it had.
        """
        start, stop, step = rows.indices(self.length)
        if step != 1:
            raise ValueError("rows that follow each other, please")
        if stop <= start:
            return np.empty((0, N_MELS), np.float32)
        first, end = start * FRAME_SHIFT, (stop - 1) * FRAME_SHIFT + FRAME_LENGTH
        waveform, samples = read_stretch(self.path, first, end)
        if frame_count(samples) != self.length or len(waveform) < end - first:
            found = frame_count(samples) if len(waveform) == end - first else "fewer"
            raise MelHuBERTError(
                f"{self.path}: {found} frames of 10 ms found, but {self.length} were labelled; the audio has "
                "changed since: prepare the set again"
            )
        return (fbank(waveform) - self.stats.mean) / self.stats.std
