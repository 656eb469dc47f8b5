"""Audio SNIPS with its slots, for s3prl's `ctc`: this stands in for `s3prl.downstream.ctc.corpus.snips`.

As s3prl's `ctc` expects it, there is a bucket of utterances of similar length at each index. It is loaded
under s3prl's module name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.buckets import BucketedDataset
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.slot_filling.audio_snips import read_labels, utterances_of
from s3prl_melhubert.errors import MelHuBERTError


class SnipsDataset(BucketedDataset):
    """Utterances of Audio SNIPS, and their characters with the marks of slots around what fills them.

    Args:
        split: names of splits, such as `["train"]`.
        tokenizer: s3prl's, of mode `character-slot`.
        bucket_size: utterances per item; 1 for an utterance per item.
        path: the folder of the corpus.
        settings: the rest of the corpus section of s3prl's settings, of which SPLIT_speakers counts.

    Raises:
        MelHuBERTError: labels and WAV files do not match, or there are none of these speakers.
    """

    def __init__(
        self, split: Sequence[str], tokenizer: Any, bucket_size: int, path: str | Path, **settings: Any
    ) -> None:
        root = Path(path).expanduser()
        problems = Problems()
        labels = read_labels(root, problems)
        speakers = settings[f"{split[0]}_speakers"]
        found = [pair for name in split for pair in utterances_of(root, name, speakers, labels, problems)]
        problems.raise_if_any(f"Audio SNIPS in {root}")
        if not found:
            raise MelHuBERTError(f"{root}: no WAV files of {', '.join(speakers)} in {', '.join(split)}")
        super().__init__(((file, tokenizer.encode(label.line)) for label, file in found), bucket_size)
