"""The tables of lengths that s3prl's `asr` needs, as its `preprocess/generate_len_for_bucket.py` writes them.

s3prl makes its batches of utterances of similar length from SPLIT.csv, so that it need not open them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from s3prl_melhubert.downstream_recipes.corpora.librispeech import TranscribedUtterance
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.writable import check_writable


def write_buckets(folder: Path, splits: Mapping[str, Sequence[TranscribedUtterance]], root: Path) -> None:
    """Write a table for each split, the longest utterance first.

    Its columns are an index, `file_path`, `length` in samples, and `label`, which is empty.

    Args:
        folder: made if it is not there.
        root: the folder of the splits, which `file_path` is relative to.

    Raises:
        MelHuBERTError: `folder` cannot be written.
    """
    check_writable(folder)
    root = root.absolute()
    for split, utterances in splits.items():
        longest_first = sorted(utterances, key=lambda utterance: (-utterance.samples, utterance.name))
        table = pd.DataFrame(
            {
                "file_path": [each.path.absolute().relative_to(root).as_posix() for each in longest_first],
                "length": [each.samples for each in longest_first],
                "label": "",
            }
        )
        with atomic_path(folder / f"{split}.csv") as temporary:
            table.to_csv(temporary)
