"""What is in a set, and a choice of its utterances: `melhubert manifest`."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TextIO

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.manifest.columns import BLOCK, Utterances
from s3prl_melhubert.pretrain.data.manifest.rows import write_rows
from s3prl_melhubert.pretrain.data.manifest.utterance import FRAME_SHIFT_MS, Utterance
from s3prl_melhubert.support.files import atomic_path, real_path
from s3prl_melhubert.support.progress import progress

SECOND = 1000 // FRAME_SHIFT_MS  # frames


@dataclass(frozen=True)
class Choice:
    """Which utterances of a set are wanted.

    Raises:
        MelHuBERTError: a number of seconds is none.
    """

    ids: Sequence[str] = ()  # patterns such as `103-*`, of which one must fit; without any, all do
    least_seconds: float | None = None
    most_seconds: float | None = None

    def __post_init__(self):
        for option, seconds in (("--min-seconds", self.least_seconds), ("--max-seconds", self.most_seconds)):
            if seconds is not None and math.isnan(seconds):
                raise MelHuBERTError(f"{option} {seconds}: expected a number of seconds")

    def rows(self, utterances: Utterances) -> np.ndarray:
        """(n,) the rows of the utterances that are wanted, in order."""
        found = [np.empty(0, np.int64)]
        fits = re.compile("|".join(map(fnmatch.translate, self.ids))).match if self.ids else None
        with progress(len(utterances), "manifest", "utterances") as bar:
            for begin in range(0, len(utterances), BLOCK):
                lengths = utterances.lengths[begin : begin + BLOCK]
                seconds = lengths / SECOND  # 4.35 x 100 would be rounded to a little less than 435
                wanted = np.ones(len(lengths), bool)
                if self.least_seconds is not None:
                    wanted &= seconds >= self.least_seconds
                if self.most_seconds is not None:
                    wanted &= seconds <= self.most_seconds
                if fits is not None:
                    names = utterances.ids.encoded(begin, begin + len(lengths))
                    texts = (name.decode("utf-8", errors="surrogateescape") for name in names)
                    wanted &= np.fromiter((fits(text) is not None for text in texts), bool, len(lengths))
                found.append(begin + np.flatnonzero(wanted))
                bar.update(len(lengths))
        return np.concatenate(found)


def summary(utterances: Utterances, rows: np.ndarray | None = None) -> str:
    """Number, hours and lengths of utterances, in a line."""
    lengths = utterances.lengths if rows is None else utterances.lengths[rows]
    if not len(lengths):
        return "0 utterances"
    hours = lengths.sum(dtype=np.int64) / (3600 * SECOND)
    low, middle, high = lengths.min() / SECOND, np.median(lengths) / SECOND, lengths.max() / SECOND
    return (
        f"{len(lengths)} utterances, {hours:.4g} h, of {low:.2f} to {high:.2f} s "
        f"(mean {lengths.mean() / SECOND:.2f}, median {middle:.2f})"
    )


def write_choice(utterances: Utterances, rows: np.ndarray, out: str | Path) -> None:
    """Write some rows as a CSV manifest, whose paths are relative to its own folder where they can be.

    Raises:
        MelHuBERTError: there are none, or the file cannot be written.
    """
    if not len(rows):
        raise MelHuBERTError(f"{out}: none of the utterances is chosen, so that there is nothing to write")
    with (
        atomic_path(out) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        write_listing(utterances, rows, file, Path(out).parent)


def write_listing(utterances: Utterances, rows: np.ndarray, file: TextIO, folder: Path | None = None) -> None:
    """Write some rows as CSV: with the paths that the set's own manifest has, or seen from another folder."""
    write_rows(file, _listed(utterances, rows, folder))


def _listed(utterances: Utterances, rows: np.ndarray, folder: Path | None) -> Iterator[Utterance]:
    base = utterances.folder.resolve()
    same = folder is None or folder.resolve() == base

    @lru_cache(4096)
    def seen(path: Path) -> Path:
        if not same:
            return real_path(path)
        return path.relative_to(utterances.folder) if path.is_relative_to(utterances.folder) else path

    with progress(len(rows), "rows", "utterances") as bar:
        for row in rows.tolist():
            utterance = utterances[row]
            yield replace(utterance, features=seen(utterance.features), labels=seen(utterance.labels))
            bar.update()
