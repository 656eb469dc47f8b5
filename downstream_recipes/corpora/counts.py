"""How large a checked corpus is: a line a split for the user, and the differences from SUPERB's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.difference import Difference, differences_of


class HasLength(Protocol):
    """An utterance of which the length is known."""

    @property
    def samples(self) -> int: ...  # at 16 kHz


def summary(splits: Mapping[str, Sequence[HasLength]]) -> list[str]:
    """A line a split: how many utterances it has, and how many hours they last."""
    return [
        f"{split}: {len(utterances)} utterances, "
        f"{sum(utterance.samples for utterance in utterances) / SAMPLE_RATE / 3600:.2f} h"
        for split, utterances in splits.items()
    ]


def size_differences(splits: Mapping[str, Sequence[object]], sizes: Mapping[str, int]) -> list[Difference]:
    """The splits that do not have as many utterances as SUPERB's.

    Args:
        splits: the utterances of each split that was found.
        sizes: how many SUPERB's splits have.
    """
    return differences_of(
        {f"utterances of {split}": (size, len(splits[split])) for split, size in sizes.items()}
    )
