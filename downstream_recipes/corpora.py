"""LibriSpeech and VoxCeleb1 as SUPERB uses them: checked, counted, compared with the real ones in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.librispeech import Utterance, check_librispeech
from s3prl_melhubert.downstream_recipes.problems import Problems
from s3prl_melhubert.downstream_recipes.results import Difference

# Utterances of SUPERB's splits (openslr.org/12; VoxCeleb1's identification split).
LIBRISPEECH = {"train-clean-100": 28539, "dev-clean": 2703, "test-clean": 2620}
VOXCELEB1 = {"train": 138361, "dev": 6904, "test": 8251}


class Sized(Protocol):
    @property
    def samples(self) -> int: ...  # at 16 kHz


def check_superb_librispeech(root: str, problems: Problems) -> dict[str, list[Utterance]]:
    """The three splits that SUPERB uses; see `check_librispeech`."""
    return check_librispeech(root, list(LIBRISPEECH), problems)


def summary(splits: Mapping[str, Sequence[Sized]]) -> list[str]:
    """A line a split: how many utterances, how long."""
    return [
        f"{split}: {len(utterances)} utterances, "
        f"{sum(utterance.samples for utterance in utterances) / SAMPLE_RATE / 3600:.2f} h"
        for split, utterances in splits.items()
    ]


def size_differences(splits: Mapping[str, Sequence[object]], real: Mapping[str, int]) -> list[Difference]:
    """Where a corpus has not the size of the one that SUPERB uses."""
    return [
        Difference(f"utterances of {split}", count, len(splits[split]))
        for split, count in real.items()
        if len(splits[split]) != count
    ]


def full_path(path: str | Path) -> str:
    return str(Path(path).expanduser().absolute())
