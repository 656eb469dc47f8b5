"""LibriSpeech's splits for phone and speech recognition: what is in them, and whether all of it is usable.

    librispeech_root(root, splits)             the folder that the splits are in
    read_split(root, split, problems)          utterances and their words, from the transcripts alone
    check_librispeech(root, splits, problems)  the same with every file opened, and lengths

The layout is ROOT/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac with SPEAKER-CHAPTER.trans.txt beside them
(a line an utterance: its name, then its words). s3prl trusts it blindly; what goes wrong there for each kind
of fault stands at the kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import named_in, why_unreadable
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.corpora.untranscribed import REMEDY
from s3prl_melhubert.errors import MelHuBERTError

UNPACK = "unpack the split's archive again"
NO_SPLIT = Kind("splits that are not there", "get them from openslr.org/12 and unpack them beside the others")
EMPTY_SPLIT = Kind(
    "splits without utterances", "their FLAC files are expected as SPLIT/SPEAKER/CHAPTER/*.flac"
)
NO_TRANSCRIPTS = Kind("chapters without a readable SPEAKER-CHAPTER.trans.txt", UNPACK)
NO_AUDIO = Kind("transcripts whose FLAC is not there", UNPACK)
NO_TRANSCRIPT = Kind(  # s3prl's asr leaves them out, silently; its ctc stops at them
    "FLAC files without a transcript", UNPACK + REMEDY
)
EMPTY_TRANSCRIPT = Kind("transcripts without a word", "take them and their FLAC files out" + REMEDY)
UNTRANSCRIBED = (NO_TRANSCRIPT, EMPTY_TRANSCRIPT)
TWICE = Kind("utterances found twice", "keep one; predictions are told apart by these names")
BLANK_LINE = Kind("blank lines in transcripts", "take them out; s3prl stops at them")
BAD_CHARACTER = Kind(  # in s3prl's asr an unknown character has an index beyond the output layer
    "transcripts with other characters than A-Z, apostrophe and space",
    "spell them out as LibriSpeech does",
)
DOTTED_NAME = Kind("names with a dot in them", "rename them; s3prl takes the name to end at the first dot")

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")


@dataclass(frozen=True)
class Transcript:
    """An utterance as its transcript has it."""

    name: str  # SPEAKER-CHAPTER-NNNN
    path: Path  # the FLAC file
    words: tuple[str, ...]  # in capitals, as s3prl has them


@dataclass(frozen=True)
class TranscribedUtterance(Transcript):
    """An utterance whose audio was found usable."""

    samples: int  # at 16 kHz


def librispeech_root(root: str | Path, splits: Iterable[str]) -> Path:
    """Find the folder that holds the splits: `root`, or `LibriSpeech` in it as the archives unpack.

    Raises:
        MelHuBERTError: neither holds one of them.
    """
    root = Path(root).expanduser()
    splits = list(splits)
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected one with {', '.join(splits)} in it")
    for folder in (root, root / "LibriSpeech"):
        if any((folder / split).is_dir() for split in splits):
            return folder
    if root.resolve().name in splits:
        raise MelHuBERTError(
            f"{root}: is a split, expected the folder above it, {root.resolve().parent}, that all are in"
        )
    raise MelHuBERTError(
        f"{root}: none of the splits {', '.join(splits)} here or in {root / 'LibriSpeech'}; found "
        f"{named_in(root)}"
    )


def check_librispeech(
    root: str | Path, splits: Sequence[str], problems: Problems
) -> dict[str, list[TranscribedUtterance]]:
    """Check splits whole: transcripts and audio.

    Names must differ over all splits, so that no utterance is trained on and tested.

    Args:
        splits: folder names, such as `train-clean-100`.
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The utterances without a problem, by split, sorted by name.

    Raises:
        MelHuBERTError: no folder with any of the splits.
    """
    root = librispeech_root(root, splits)
    seen: dict[str, str] = {}
    checked: dict[str, list[TranscribedUtterance]] = {}
    for split in splits:
        if not (root / split).is_dir():
            problems.add(NO_SPLIT, split)
            continue
        found = read_split(root, split, problems)
        for utterance in found:
            if utterance.name in seen:
                problems.add(TWICE, f"{utterance.name} in {seen[utterance.name]} and {split}")
            seen[utterance.name] = split
        lengths = check_audio(
            [utterance.path for utterance in found],
            lambda path: path.relative_to(root).as_posix(),
            problems,
            f"check {split}",
        )
        checked[split] = [
            TranscribedUtterance(each.name, each.path, each.words, samples)
            for each, samples in zip(found, lengths, strict=True)
            if samples is not None
        ]
    return checked


def read_split(root: Path, split: str, problems: Problems) -> list[Transcript]:
    """List the utterances of a split that have both a FLAC file and a transcript, sorted by name.

    This opens transcripts only. `problems` takes whatever is left out, and why.
    """
    found: list[Transcript] = []
    faults_before = len(problems)
    chapters = [chapter for speaker in _folders(root / split) for chapter in _folders(speaker)]
    for chapter in chapters:
        flacs = {path.stem: path for path in _listed(chapter) if path.suffix == ".flac"}
        if not flacs and not any(chapter.glob("*.trans.txt")):
            continue  # no chapter of LibriSpeech's
        transcripts = _read_transcripts(chapter, root, problems)
        if transcripts is None:
            continue
        for name, words in transcripts.items():
            path = flacs.pop(name, None)
            if path is None:
                problems.add(NO_AUDIO, f"{(chapter / name).relative_to(root)}.flac")
            elif words:
                found.append(Transcript(name, path, words))
        for path in flacs.values():
            problems.add(NO_TRANSCRIPT, str(path.relative_to(root)))
    if not found and len(problems) == faults_before:
        problems.add(EMPTY_SPLIT, split)
    return sorted(found, key=lambda utterance: utterance.name)


def _read_transcripts(chapter: Path, root: Path, problems: Problems) -> dict[str, tuple[str, ...]] | None:
    """Read the words of each utterance of a chapter; None if there is no file of them that can be read."""
    path = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    place = path.relative_to(root)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and problems.skips(NO_TRANSCRIPT):
            return {}  # each of the chapter's files has none
        problems.add(NO_TRANSCRIPTS, f"{place}: {why_unreadable(error)}")
        return None
    transcripts: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            problems.add(BLANK_LINE, f"{place} line {number}")
            continue
        name, *words = line.split()
        words = [word.upper() for word in words]
        if name in transcripts:
            problems.add(TWICE, f"{name} in {place}")
        if "." in name:
            problems.add(DOTTED_NAME, name)
        if not words:
            problems.add(EMPTY_TRANSCRIPT, name)
        if strange := set("".join(words)) - LETTERS:
            problems.add(BAD_CHARACTER, f"{name}: {' '.join(sorted(strange))}")
        transcripts[name] = tuple(words)
    return transcripts


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in _listed(folder) if path.is_dir())


def _listed(folder: Path) -> list[Path]:
    """List a folder, sorted, without hidden files (some systems leave ._NAME.flac beside NAME.flac)."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise MelHuBERTError(f"{folder}: cannot be listed ({error.strerror or error})") from None
    return [folder / name for name in names]
