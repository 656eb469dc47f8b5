"""LibriSpeech as SUPERB uses it: what phone recognition and speech recognition share.

The check has two halves, between which a task may add problems of its own:

    splits = read_superb_librispeech(options, problems)
    corpus = superb_librispeech(options, splits, problems)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.librispeech import (
    TranscribedUtterance,
    check_librispeech,
    librispeech_root,
)
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.task import Argument, CheckedCorpus, TaskOptions, full_path

ARGUMENT = Argument("librispeech", "DIR", "holds the splits", example="LibriSpeech", required=True)

# Utterances of the splits, as openslr.org/12 has them.
SIZES = {"train-clean-100": 28539, "dev-clean": 2703, "test-clean": 2620}
TEST = "test-clean"

Splits = Mapping[str, list[TranscribedUtterance]]


@dataclass(frozen=True, kw_only=True)
class LibriSpeechCorpus(CheckedCorpus):
    """SUPERB's splits of LibriSpeech, checked."""

    splits: Splits


def read_superb_librispeech(options: TaskOptions, problems: Problems) -> Splits:
    """Check the three splits that SUPERB uses; see `check_librispeech`."""
    return check_librispeech(options.needed(ARGUMENT.name), list(SIZES), problems)


def superb_librispeech(options: TaskOptions, splits: Splits, problems: Problems) -> LibriSpeechCorpus:
    """End the check, and describe the corpus.

    Args:
        splits: of `read_superb_librispeech`.
        problems: those of LibriSpeech, and those that the task found in it.

    Raises:
        MelHuBERTError: there are problems.
    """
    root = options.needed(ARGUMENT.name)
    problems.raise_if_any(f"LibriSpeech in {root}")
    path = full_path(librispeech_root(root, SIZES))
    return LibriSpeechCorpus(
        path=path,
        summary=summary(splits),
        test_utterances=[utterance.name for utterance in splits[TEST]],
        differences=size_differences(splits, SIZES),
        content=content_of(path, splits),
        splits=splits,
    )
