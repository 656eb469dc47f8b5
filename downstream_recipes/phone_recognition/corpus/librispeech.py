"""LibriSpeech as characters, for s3prl's `ctc`: this stands in for `s3prl.downstream.ctc.corpus.librispeech`.

There is a bucket of utterances of similar length at each index, as in `libriphone`. It is loaded under
s3prl's module name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.buckets import BucketedDataset
from s3prl_melhubert.downstream_recipes.corpora.librispeech import librispeech_root, read_split
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems


class LibriDataset(BucketedDataset):
    """Utterances of LibriSpeech and their characters.

    Args:
        split: names of splits, such as `["train-clean-100"]`.
        tokenizer: s3prl's, of any mode that encodes text.
        bucket_size: utterances per item; 1 for an utterance per item.
        path: the folder of the splits, or the one above `LibriSpeech`.

    Raises:
        MelHuBERTError: no such split, or transcripts and FLAC files that do not match.
    """

    def __init__(
        self,
        split: Sequence[str],
        tokenizer: Any,
        bucket_size: int,
        path: str | Path,
        **_ignored: Any,  # s3prl passes the whole corpus section of its settings
    ) -> None:
        root = librispeech_root(path, split)
        problems = Problems()
        utterances = [utterance for name in split for utterance in read_split(root, name, problems)]
        problems.raise_if_any(f"LibriSpeech in {root}")
        super().__init__(
            ((each.path, tokenizer.encode(" ".join(each.words))) for each in utterances), bucket_size
        )
