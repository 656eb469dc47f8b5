"""Runs of one unit, and how many units and bits there are in a second of speech."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from s3prl_melhubert.config import SAMPLE_RATE


def collapse(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put each run of one unit into one.

    Args:
        units: (T,) integers.

    Returns:
        The (n,) units, no two neighbours of which are the same, and the (n,) int32 frames that each lasts.
    """
    begins = np.flatnonzero(np.diff(units, prepend=units[:1] - 1))
    return units[begins], np.diff(begins, append=len(units)).astype(np.int32)


@dataclass
class UnitFigures:
    """How much a set of unit sequences says, added up over utterances."""

    clusters: int  # how many units there are to choose from
    utterances: int = 0
    samples: int = 0  # of audio, at 16 kHz
    counts: np.ndarray = field(init=False)  # (clusters,) how often each

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.clusters, np.int64)

    def add(self, units: np.ndarray, samples: int) -> None:
        """Count an utterance: its (n,) units, as they are written, and its samples at 16 kHz."""
        self.utterances += 1
        self.samples += samples
        self.counts += np.bincount(units, minlength=self.clusters)

    @property
    def units(self) -> int:
        """How many units there are in all utterances."""
        return int(self.counts.sum())

    @property
    def in_use(self) -> int:
        """How many different units there are among them."""
        return int((self.counts > 0).sum())

    @property
    def seconds(self) -> float:
        """The duration of the audio."""
        return self.samples / SAMPLE_RATE

    @property
    def unit_rate(self) -> float:
        """Units in a second of audio."""
        return self.units / self.seconds if self.samples else 0.0

    @property
    def entropy(self) -> float:
        """Bits of a unit: the entropy of how often each unit occurs, whatever stands before it."""
        share = self.counts[self.counts > 0] / max(self.units, 1)
        return float(-(share * np.log2(share)).sum()) + 0.0  # never -0

    @property
    def bits_per_second(self) -> float:
        """Entropy times unit rate. The durations of collapsed units are not counted."""
        return self.entropy * self.unit_rate
