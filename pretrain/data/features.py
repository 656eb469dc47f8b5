"""Audio files become log-Mel frames, and frames add up to statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s3prl_melhubert.audio import Audio, read_audio
from s3prl_melhubert.config import N_MELS, SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.fbank import FRAME_LENGTH, fbank
from s3prl_melhubert.statistics import FeatureStats

# A bin whose deviation is not larger than this part of its mean is the same in all frames: that of speech is
# a tenth of the mean, and that of float32's rounding 1e-7 of it.
LEAST_DEVIATION = 1e-5


class Rejected(Exception):
    """A file is left out of the set; the message is the reason."""


def file_log_mel(path: Path) -> tuple[np.ndarray, list[str]]:
    """(F, 40) float32 log-Mel frames of an audio file, not normalized, and what was done to the audio.

    Raises:
        Rejected: the file is unreadable, empty or shorter than one frame (25 ms), or holds NaN or infinity.
    """
    try:
        audio = read_audio(path)
    except MelHuBERTError as error:
        # The reason alone is kept, because the file stands beside it in rejected.csv.
        raise Rejected(" ".join(str(error).removeprefix(f"{path}: ").split())) from None
    if len(audio.waveform) < FRAME_LENGTH:
        raise Rejected(
            f"too short: {len(audio.waveform)} samples at 16 kHz, expected {FRAME_LENGTH} or more (25 ms)"
        )
    features = fbank(audio.waveform)
    if not np.isfinite(features).all():
        raise Rejected("NaN or infinite log-Mel features")
    return features, audio_changes(audio)


def audio_changes(audio: Audio) -> list[str]:
    """What reading did to the audio of a file, in the words that are counted over a corpus."""
    changes = []
    if audio.original_rate != SAMPLE_RATE:
        changes.append("resampled to 16 kHz")
    if audio.original_rate < SAMPLE_RATE:
        changes.append("were narrow-band (under 16 kHz): their upper mel bins are empty, which a model hears")
    if audio.original_channels > 1:
        changes.append("mixed down to one channel")
    return changes


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """Sums over frames, in float64; the sums of two sets of frames add up."""

    frames: int  # how many frames were summed
    sum: np.ndarray  # (40,)
    squares: np.ndarray  # (40,) sums of the squares

    @classmethod
    def zero(cls) -> FeatureSums:
        return cls(0, np.zeros(N_MELS), np.zeros(N_MELS))

    @classmethod
    def of(cls, features: np.ndarray) -> FeatureSums:
        """The sums of (F, 40) frames."""
        wide = features.astype(np.float64)
        return cls(len(wide), wide.sum(0), np.square(wide).sum(0))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FeatureSums)
            and self.frames == other.frames
            and np.array_equal(self.sum, other.sum)
            and np.array_equal(self.squares, other.squares)
        )

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.frames + other.frames, self.sum + other.sum, self.squares + other.squares)

    def to_stats(self, name: str) -> FeatureStats:
        """The mean and the standard deviation (that of the population, as Kaldi computes it).

        Raises:
            MelHuBERTError: there are no frames, or a bin never changes.
        """
        if self.frames == 0:
            raise MelHuBERTError(f"statistics {name}: no frames to compute them from")
        with np.errstate(over="ignore", invalid="ignore"):  # What is not finite is refused by the statistics.
            mean = self.sum / self.frames
            variance = self.squares / self.frames - np.square(mean)
            # Of a bin that never changes, this difference is the rounding errors of two large sums.
            is_constant = variance <= np.square(LEAST_DEVIATION * mean)
        return FeatureStats.from_arrays(mean, np.sqrt(np.where(is_constant, 0, variance)), name)
