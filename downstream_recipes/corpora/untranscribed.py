"""Files without a transcript: a fault of a corpus, unless the user asks to leave them out.

A task with transcripts takes the argument, makes its `Problems` by `problems_of`, adds `left_out` to the
differences of the corpus, and lets s3prl read `transcribed_only` where anything was left out: s3prl looks for
files itself, and stops at one without a transcript.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.task import Argument, TaskOptions

SKIP = Argument(
    "skip-untranscribed",
    "",
    "leave out files without a transcript; the result says that it is not SUPERB's then",
    flag=True,
)
REMEDY = f", or leave them out with {SKIP.option}"
FOLDER = "transcribed"


def problems_of(options: TaskOptions, kinds: Iterable[Kind]) -> Problems:
    """Make an empty list of problems, for which these kinds are none where the user wants to skip them."""
    return Problems(kinds if options.flag(SKIP.name) else ())


def left_out(problems: Problems) -> list[Difference]:
    """What was left out, as a difference from SUPERB; nothing where nothing was."""
    number = len(problems.left_out)
    return [Difference("files without a transcript, left out", 0, number)] if number else []


def transcribed_only(folder: Path, root: Path, files: Iterable[Path]) -> Path:
    """Link files into a folder of their own, at their paths below the corpus' folder.

    Args:
        folder: of the experiment. What an earlier call has linked there is replaced.
        root: the corpus' folder.
        files: that s3prl shall find.

    Returns:
        The folder that stands for the corpus.
    """
    links = folder / FOLDER
    shutil.rmtree(links, ignore_errors=True)
    for file in files:
        link = links / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file, link)
    return links
