"""The files of predictions that s3prl writes when it tests: their lines, and their places in a submission.

A task describes its files like this:

    WORDS = LineFormat("`UTTERANCE WORD WORD ...`", fault_in_words)
    PredictionFile("test-hyp.ark", "asr_public/predict.ark", WORDS)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = "predict"  # the archive's only folder


def name_and_fields(line: str) -> tuple[str, list[str]]:
    """Split `NAME FIELD FIELD ...`, as most of s3prl's tasks write a line."""
    name, _, rest = line.partition(" ")
    return name, rest.split()


def one_of(classes: Collection[str]) -> Callable[[Sequence[str]], str | None]:
    """What finds the fault in a prediction that has to be one of these classes."""

    def fault(fields: Sequence[str]) -> str | None:
        said = " ".join(fields)
        return None if said in classes else repr(said)

    return fault


@dataclass(frozen=True)
class LineFormat:
    """How a file of predictions writes one utterance.

    Attributes:
        description: what a line is, for people: "`UTTERANCE SPEAKER` (one of ...)".
        fault: looks at the fields of a prediction; returns what is wrong with it in words, None where
            nothing is.
        split: takes a line apart, into the utterance's name and the fields of its prediction.
    """

    description: str
    fault: Callable[[Sequence[str]], str | None]
    split: Callable[[str], tuple[str, Sequence[str]]] = name_and_fields


@dataclass(frozen=True)
class UtteranceFiles:
    """Files of predictions, one for each utterance: NAME and a suffix.

    Attributes:
        folder: their path in s3prl's experiment directory.
        place: their folder's path below `predict/` in the archive for the leaderboard.
        suffix: of their names, with the dot.
        fault: looks at a file's content; returns what is wrong with it in words, None where nothing is.
    """

    folder: str
    place: str
    suffix: str
    fault: Callable[[bytes], str | None]

    @property
    def archive_path(self) -> str:
        """The folder's path inside the leaderboard's archive."""
        return f"{TOP}/{self.place}"


@dataclass(frozen=True)
class PredictionFile:
    """One file that s3prl writes when it tests.

    Attributes:
        name: its path in s3prl's experiment directory.
        place: its path below `predict/` in the archive for the leaderboard.
        lines: the format of its lines.
        lines_of: takes the file's text apart, where a line is not an utterance; raises a ValueError.
        of_utterances: whether each line is an utterance's; where not, `fault` of the format gets all lines.
        utterances: the files in which the predictions are, where this one only belongs to them.
        in_order: whether s3prl writes the lines in the order of the corpus' test list. A file in another
            order is not what it wrote, and names that were sorted apart from their predictions would be
            scored as if they belonged together.
    """

    name: str
    place: str
    lines: LineFormat
    lines_of: Callable[[str], list[str]] = str.splitlines
    of_utterances: bool = True
    utterances: UtteranceFiles | None = None
    in_order: bool = False

    @property
    def archive_path(self) -> str:
        """The file's path inside the leaderboard's archive."""
        return f"{TOP}/{self.place}"


def paths_of(first: Path, files: Sequence[PredictionFile]) -> list[Path]:
    """The paths of a test's files of predictions: a result names the first, and the others lie beside it."""
    return [first, *(first.parent / file.name for file in files[1:])]


def sha256_of_predictions(first: Path, files: Sequence[PredictionFile], names: Sequence[str]) -> str | None:
    """A SHA-256 of all predictions of a test, as if their files were one: of a single file, its own.

    By it a submission knows that its predictions are those of the score: another test in the same folder
    replaces them, and not the result.

    Args:
        first: the first file.
        files: what they are, in the task's order.
        names: the test utterances, where each has a file of its own.

    Returns:
        None where a file is not there.
    """
    digest = hashlib.sha256()
    try:
        for path, file in zip(paths_of(first, files), files, strict=True):
            digest.update(path.read_bytes())
            if (each := file.utterances) is not None:
                for name in names:
                    digest.update((path.parent / each.folder / f"{name}{each.suffix}").read_bytes())
    except OSError:
        return None
    return digest.hexdigest()
