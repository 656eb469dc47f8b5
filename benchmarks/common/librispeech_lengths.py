"""Lengths of utterances as LibriSpeech's training sets have them, made from published statistics.

There is no LibriSpeech here, and its list of lengths is not copied: lengths are drawn from a distribution.

- Utterances and hours of each set are the corpus's own: Panayotov et al., "Librispeech: an ASR corpus based
  on public domain audio books" (ICASSP 2015), table 1, for the hours; the numbers of utterances are those of
  the released archives.
- Quantiles in seconds are those that the icefall project prints for its lists of the three sets
  (github.com/k2-fsa/icefall, egs/librispeech/ASR/local/display_manifest_statistics.py). Its lists hold each
  utterance three times, at 0.9, 1 and 1.1 times its speed, which spreads the lengths: what is drawn here has
  more utterances of over 16.5 s than the corpus, and slightly more of the shortest.
- Between two quantiles a length is as likely as any other. All lengths are then scaled, by less than 3 %, so
  that the mean is that of hours and utterances (12.3 s for the three sets together).

    python -m benchmarks.common.librispeech_lengths  what is drawn beside what is published
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The shares of utterances that are not longer than the seconds of `Subset.quantiles`.
SHARES = (0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1)
FRAME_SHIFT = 0.01  # seconds between two log-Mel frames
WINDOW = 0.025  # seconds that a frame reads


@dataclass(frozen=True)
class Subset:
    """A training set of LibriSpeech."""

    utterances: int
    hours: float
    quantiles: tuple[float, ...]  # seconds, at `SHARES`

    @property
    def mean(self) -> float:
        """Seconds of an utterance."""
        return self.hours * 3600 / self.utterances


SUBSETS = {
    "train-clean-100": Subset(
        28_539,
        100.6,
        (1.3, 1.9, 2.2, 2.5, 4.2, 6.4, 11.4, 13.8, 15.3, 16.7, 17.3, 18.1, 18.4, 18.8, 27.2),
    ),
    "train-clean-360": Subset(
        104_014,
        363.6,
        (1.0, 1.8, 2.2, 2.5, 4.2, 6.2, 11.2, 13.7, 15.3, 16.6, 17.3, 18.1, 18.4, 18.8, 33.0),
    ),
    "train-other-500": Subset(
        148_688,
        496.7,
        (0.8, 1.7, 2.1, 2.3, 3.5, 5.0, 9.8, 13.4, 15.1, 16.5, 17.2, 18.1, 18.4, 18.9, 31.0),
    ),
}


def draw_seconds(
    count: int | None = None, seed: int = 0, subsets: Sequence[str] = tuple(SUBSETS)
) -> np.ndarray:
    """(count,) float64 seconds of utterances, in random order.

    Args:
        count: how many; by default as many as the sets have (281 241 of all three).
        seed: the seed of the draw.
        subsets: names of `SUBSETS`, which are mixed by their numbers of utterances.
    """
    random = np.random.default_rng(seed)
    chosen = [SUBSETS[name] for name in subsets]
    sizes = np.array([subset.utterances for subset in chosen])
    owners = random.choice(len(chosen), size=count or sizes.sum(), p=sizes / sizes.sum())
    seconds = np.empty(len(owners))
    for number, subset in enumerate(chosen):
        mine = owners == number
        drawn = np.interp(random.random(mine.sum()), SHARES, subset.quantiles)
        seconds[mine] = drawn * (subset.mean / _mean(subset.quantiles))
    return seconds


def draw_frames(
    count: int | None = None, seed: int = 0, subsets: Sequence[str] = tuple(SUBSETS)
) -> np.ndarray:
    """(count,) int64 log-Mel frames of 10 ms, as `draw_seconds` draws the lengths."""
    seconds = draw_seconds(count, seed, subsets)
    return 1 + ((np.maximum(seconds, WINDOW) - WINDOW) / FRAME_SHIFT).astype(np.int64)


def _mean(quantiles: Sequence[float]) -> float:
    """The mean of the distribution whose quantiles these are, straight between them."""
    edges = np.array(quantiles)
    return float((np.diff(SHARES) * (edges[1:] + edges[:-1]) / 2).sum())


def main() -> None:
    print("| set | utterances | hours | mean | drawn: hours | mean | median | under 3.2 s | over 15 s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, subset in SUBSETS.items():
        seconds = draw_seconds(subsets=[name])
        cells = [
            name,
            f"{subset.utterances:,}",
            f"{subset.hours:.1f}",
            f"{subset.mean:.2f} s",
            f"{seconds.sum() / 3600:.1f}",
            f"{seconds.mean():.2f} s",
            f"{np.median(seconds):.1f} s",
            f"{(seconds < 3.2).mean():.1%}",
            f"{(seconds > 15).mean():.0%}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
