"""IEMOCAP for emotion recognition: its labels, whether every file is usable, and s3prl's lists of the folds.

The layout is ROOT/SessionN/dialog/EmoEvaluation/DIALOG.txt with the labels and
ROOT/SessionN/sentences/wav/DIALOG/UTTERANCE.wav, N from 1 to 5. A line of labels is

    [6.2901 - 8.2357]<tab>Ses01F_impro01_F000<tab>neu<tab>[2.5000, 2.5000, 2.5000]

SUPERB takes four classes of them: neutral, happy (with excited), angry and sad. A fold tests on one session;
of the other four, s3prl draws a fifth for its dev split. Which fifth depends on the order of the list, so
the dialogs come in the order of SUPERB's lists (`dialogs.txt`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import named_in, read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import write_json

SESSIONS = (1, 2, 3, 4, 5)
CLASSES = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}  # with s3prl's indices
AS_CLASS = {**{name: name for name in CLASSES}, "exc": "hap"}  # IEMOCAP's label -> SUPERB's class
OTHER_LABELS = frozenset({"dis", "fea", "fru", "oth", "sur", "xxx"})  # of IEMOCAP, which SUPERB leaves out
ORDER = Path(__file__).with_name("dialogs.txt")

MISSING = Kind(
    "utterances with a label but without a file in sentences/wav", "unpack the corpus again, or its session"
)
WITHOUT_LABEL = Kind("sessions without an utterance of the four classes", "unpack them again")
UNKNOWN_LABEL = Kind("labels that IEMOCAP does not have", "take the corpus' own files of labels")
TWICE = Kind("utterances that are labelled more than once", "keep the corpus' own files of labels alone")

LINE = re.compile(r"\[[^\]]*\]\s+(\S+)\s+(\S+)")


@dataclass(frozen=True)
class EmotionUtterance:
    """An utterance of one of the four classes that was found usable."""

    path: Path
    relative: str  # path below the corpus' folder
    emotion: str  # one of CLASSES
    samples: int  # at 16 kHz

    @property
    def prediction_name(self) -> str:
        """The name that s3prl gives it in its predictions."""
        return self.path.stem


def check_iemocap(root: str | Path, problems: Problems) -> dict[int, list[EmotionUtterance]]:
    """Check every utterance of the four classes.

    Args:
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The utterances without a problem by session, in the order of SUPERB's lists.

    Raises:
        MelHuBERTError: `root` is not laid out as IEMOCAP, or labels cannot be read.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected IEMOCAP's, with Session1 to Session5 in it")
    absent = [f"Session{number}" for number in SESSIONS if not (root / f"Session{number}").is_dir()]
    if absent:
        raise MelHuBERTError(f"{root}: no {', '.join(absent)} in this folder, found {named_in(root)}")
    found: list[tuple[int, Path, str]] = []
    names: set[str] = set()
    for session in SESSIONS:
        labels = _read_session(root / f"Session{session}", problems)
        if not labels:
            problems.add(WITHOUT_LABEL, f"Session{session}")
        for dialog, name, emotion in labels:
            path = root / f"Session{session}/sentences/wav/{dialog}/{name}.wav"
            if name in names:
                problems.add(TWICE, name)
            elif not path.is_file():
                problems.add(MISSING, name)
            else:
                found.append((session, path, emotion))
            names.add(name)
    lengths = check_audio([path for _, path, _ in found], lambda path: path.name, problems, "check IEMOCAP")
    sessions: dict[int, list[EmotionUtterance]] = {session: [] for session in SESSIONS}
    for (session, path, emotion), length in zip(found, lengths, strict=True):
        if length is not None:
            relative = path.relative_to(root).as_posix()
            sessions[session].append(EmotionUtterance(path, relative, emotion, length))
    return sessions


def _read_session(folder: Path, problems: Problems) -> list[tuple[str, str, str]]:
    """Read a session's labels of the four classes: dialog, utterance, class; add labels that are none.

    Raises:
        MelHuBERTError: there are no files of labels, or one cannot be read.
    """
    place = folder / "dialog/EmoEvaluation"
    # The archive has a file ._NAME beside many a file, which macOS left there.
    files = [path for path in place.glob("*.txt") if not path.name.startswith(".")]
    if not files:
        raise MelHuBERTError(f"{place}: no labels here, expected IEMOCAP's files DIALOG.txt")
    found = []
    for path in sorted(files, key=lambda path: _position(path.stem)):
        lines = read_lines(path, "labels of IEMOCAP")
        matches = [match for line in lines if (match := LINE.match(line))]
        for match in matches:
            if match[2] not in AS_CLASS and match[2] not in OTHER_LABELS:
                problems.add(UNKNOWN_LABEL, f"{match[1]}: {match[2]}")
        found += [
            (path.stem, match[1], AS_CLASS[match[2]])
            for match in sorted(matches, key=lambda match: match[1])
            if match[2] in AS_CLASS
        ]
    return found


@cache
def _order() -> dict[str, int]:
    return {dialog: number for number, dialog in enumerate(ORDER.read_text(encoding="utf-8").split())}


def _position(dialog: str) -> tuple[int, str]:
    """Sort dialogs as SUPERB's lists do; any other one after them, by name."""
    return _order().get(dialog, len(_order())), dialog


def write_fold(folder: Path, sessions: Mapping[int, Sequence[EmotionUtterance]], fold: int) -> None:
    """Write the two lists of a fold, as s3prl's own preprocessing does.

    Args:
        folder: gets `SessionN/train_meta_data.json` and `SessionN/test_meta_data.json`.
        fold: the session that is tested on.
    """
    place = folder / f"Session{fold}"
    place.mkdir(parents=True, exist_ok=True)
    train = [each for session in SESSIONS if session != fold for each in sessions[session]]
    for name, utterances in (("train", train), ("test", sessions[fold])):
        listed = [
            {"path": each.relative, "label": each.emotion, "speaker": each.path.stem.partition("_")[0]}
            for each in utterances
        ]
        write_json(place / f"{name}_meta_data.json", {"labels": CLASSES, "meta_data": listed})


def write_silence(root: Path) -> EmotionUtterance:
    """Write an utterance of a tenth of a second of silence into a folder."""
    path = root / "silence.wav"
    samples = SAMPLE_RATE // 10
    soundfile.write(path, np.zeros(samples), SAMPLE_RATE)
    return EmotionUtterance(path, path.name, next(iter(CLASSES)), samples)
