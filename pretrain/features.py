"""Audio files to log-Mel frames, and frames to statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.frontend import FRAME_LENGTH, FRAME_SHIFT, frame_count, log_mel
from s3prl_melhubert.statistics import FeatureStats

# Frames worked on at a time: 5 s. Fits the cache (2 to 3 times faster than 12 s or more at once on one
# core), and bounds the memory of an hour-long file.
LOG_MEL_BLOCK = 500


class Rejected(Exception):
    """A file that is left out of the set; the message is the reason."""


def file_log_mel(path: Path) -> np.ndarray:
    """(F, 40) float32 log-Mel frames of an audio file, not normalized.

    Raises:
        Rejected: unreadable, empty, NaN or infinite, or shorter than one 25 ms frame.
    """
    try:
        waveform = torch.from_numpy(read_audio(path).waveform)
    except MelHuBERTError as error:
        # The reason alone: the file stands beside it in rejected.csv.
        raise Rejected(" ".join(str(error).removeprefix(f"{path}: ").split())) from None
    if len(waveform) < FRAME_LENGTH:
        raise Rejected(
            f"too short: {len(waveform)} samples at 16 kHz, expected {FRAME_LENGTH} or more (25 ms)"
        )
    return blockwise_log_mel(waveform).numpy()


def blockwise_log_mel(waveform: Tensor) -> Tensor:
    """`log_mel` of one long waveform, a few seconds at a time: (n,) with n >= 400 -> (F, 40)."""
    frames = frame_count(len(waveform))
    starts = range(0, frames, LOG_MEL_BLOCK)
    ends = [min(start + LOG_MEL_BLOCK, frames) for start in starts]
    return torch.cat(
        [
            log_mel(waveform[start * FRAME_SHIFT : (end - 1) * FRAME_SHIFT + FRAME_LENGTH])
            for start, end in zip(starts, ends, strict=True)
        ]
    )


@dataclass(frozen=True)
class FeatureSums:
    """Sums over frames, in float64; two of them add up."""

    frames: int
    sum: np.ndarray  # (40,)
    squares: np.ndarray  # (40,)

    @classmethod
    def zero(cls) -> FeatureSums:
        return cls(0, np.zeros(N_MELS), np.zeros(N_MELS))

    @classmethod
    def of(cls, features: np.ndarray) -> FeatureSums:
        """Of (F, 40) frames."""
        wide = features.astype(np.float64)
        return cls(len(wide), wide.sum(0), np.square(wide).sum(0))

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.frames + other.frames, self.sum + other.sum, self.squares + other.squares)

    def to_stats(self, name: str) -> FeatureStats:
        """Mean and standard deviation (of the population, as Kaldi has it).

        Raises:
            MelHuBERTError: no frames, or a bin that never changes.
        """
        if self.frames == 0:
            raise MelHuBERTError(f"statistics {name}: no frames to compute them from")
        mean = self.sum / self.frames
        variance = np.maximum(self.squares / self.frames - np.square(mean), 0)
        return FeatureStats.from_arrays(mean, np.sqrt(variance), name)
