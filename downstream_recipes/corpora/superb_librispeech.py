"""LibriSpeech as SUPERB uses it: what phone recognition and speech recognition share.

The check has two halves, between which a task may add problems of its own:

    problems = problems_of(options, UNTRANSCRIBED)
    splits = read_superb_librispeech(options, problems)
    corpus = superb_librispeech(options, splits, problems)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.counts import size_differences, summary
from s3prl_melhubert.downstream_recipes.corpora.librispeech import (
    TranscribedUtterance,
    check_librispeech,
    librispeech_root,
)
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.corpora.untranscribed import left_out, transcribed_only
from s3prl_melhubert.downstream_recipes.task import Argument, CheckedCorpus, TaskOptions
from s3prl_melhubert.support.files import full_path

ARGUMENT = Argument("librispeech", "DIR", "holds the splits", example="LibriSpeech", required=True)

# Utterances of the splits, as openslr.org/12 has them.
SIZES = {"train-clean-100": 28539, "dev-clean": 2703, "test-clean": 2620}
TEST = "test-clean"

Splits = Mapping[str, list[TranscribedUtterance]]


@dataclass(frozen=True, kw_only=True)
class LibriSpeechCorpus(CheckedCorpus):
    """SUPERB's splits of LibriSpeech, checked."""

    splits: Splits
    left_out: int = 0  # files without a transcript


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
        differences=[*size_differences(splits, SIZES), *left_out(problems)],
        content=content_of(path, splits),
        splits=splits,
        left_out=len(problems.left_out),
    )


def root_for_s3prl(corpus: LibriSpeechCorpus, folder: Path) -> str:
    """The folder in which s3prl shall look for the splits: the corpus' own, unless files of it are left out.

    Args:
        corpus: checked.
        folder: of the experiment, where links to the others go.
    """
    if not corpus.left_out:
        return corpus.path
    # The corpus may have been named by a path from here.
    utterances = {Path(full_path(each.path)): each for split in corpus.splits.values() for each in split}
    root = transcribed_only(folder, Path(corpus.path), utterances)
    lines: defaultdict[Path, list[str]] = defaultdict(list)
    for path, each in utterances.items():
        chapter = root / path.parent.relative_to(corpus.path)
        lines[chapter].append(f"{each.name} {' '.join(each.words)}\n")
    for chapter, of_chapter in lines.items():
        file = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        file.write_text("".join(of_chapter), encoding="utf-8")
    return str(root)
