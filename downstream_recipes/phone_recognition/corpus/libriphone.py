"""LibriSpeech as phones, for s3prl's `ctc`: this stands in for `s3prl.downstream.ctc.corpus.libriphone`.

As in SUPERB, a word is spoken as its first pronunciation. As s3prl's `ctc` expects it, there is a bucket of
utterances of similar length at each index: they are sorted by their number of phones, longest first, and
neighbouring buckets overlap. It is loaded under s3prl's module name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.buckets import BucketedDataset
from s3prl_melhubert.downstream_recipes.corpora.librispeech import Transcript, librispeech_root, read_split
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.phone_recognition.lexicon import read_lexicon_files
from s3prl_melhubert.errors import MelHuBERTError


class LibriPhoneDataset(BucketedDataset):
    """Utterances of LibriSpeech and their phones.

    Args:
        split: names of splits, such as `["train-clean-100"]`.
        tokenizer: s3prl's, of mode `word`, over the vocabulary of phones.
        bucket_size: utterances per item; 1 for an utterance per item.
        path: the folder of the splits, or the one above `LibriSpeech`.
        lexicon: files of `WORD<tab>PHONES`; a word's first pronunciation in the first file with it counts.

    Raises:
        MelHuBERTError: no such split or lexicon, transcripts and FLAC files that do not match, a word that
            is not in the lexicon, or a phone that is not in the vocabulary.
    """

    def __init__(
        self,
        split: Sequence[str],
        tokenizer: Any,
        bucket_size: int,
        path: str | Path,
        lexicon: Sequence[str | Path],
        **_ignored: Any,  # s3prl passes the whole corpus section of its settings
    ) -> None:
        root = librispeech_root(path, split)
        problems = Problems()
        utterances = [utterance for name in split for utterance in read_split(root, name, problems)]
        problems.raise_if_any(f"LibriSpeech in {root}")
        pronunciations = read_lexicon_files(lexicon)
        in_files = ", ".join(map(str, lexicon))
        super().__init__(
            [(each.path, _encode(each, pronunciations, tokenizer, in_files)) for each in utterances],
            bucket_size,
        )


def _encode(
    utterance: Transcript, pronunciations: dict[str, tuple[str, ...]], tokenizer: Any, in_files: str
) -> list[int]:
    phones: list[str] = []
    for word in utterance.words:
        if word not in pronunciations:
            raise MelHuBERTError(
                f"{utterance.path}: the word {word} is not in the lexicon ({in_files}); add it there"
            )
        phones += pronunciations[word]
    tokens = tokenizer.encode(" ".join(phones))
    if tokenizer.unk_idx in tokens:
        phone = phones[tokens.index(tokenizer.unk_idx)]
        raise MelHuBERTError(
            f"{utterance.path}: the phone {phone} ({in_files}) is not in the vocabulary file that was set"
        )
    return tokens
