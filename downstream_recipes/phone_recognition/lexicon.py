"""Words and their phones for phone recognition: the user's files, s3prl's own, or CMUdict.

    load_lexicon(words, files)             pronunciations for these words, wherever they can be had
    check_words(splits, lexicon, problems) whether it has every word of the transcripts
    write_lexicon(path, lexicon, words)    the file that s3prl's corpus reads
    read_lexicon_files(paths)              files of WORD<tab>PHONES

SUPERB's phone recognition takes a word's first pronunciation in LibriSpeech's lexicon, which a checkout of
s3prl holds in two files and pip's s3prl lacks. CMUdict, from which LibriSpeech took the words that it has,
stands in for it; eSpeak NG pronounces the words that CMUdict lacks (`pronounce.py` tells how well).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.librispeech import Transcript
from s3prl_melhubert.downstream_recipes.corpora.listing import read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.phone_recognition.pronounce import pronounce
from s3prl_melhubert.downstream_recipes.s3prl_files import s3prl_folder
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.support.files import write_text

# The two files of LibriSpeech's lexicon in a checkout of s3prl. Neither has the words of the other.
OF_S3PRL = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
PHONEMES = Path(__file__).with_name("phoneme.txt")  # s3prl's vocabulary, a symbol a line

Pronunciation = tuple[str, ...]

# The word's last phone decides how its 's is spoken: after these as in "horse's" and as in "cat's".
SIBILANTS = frozenset(["CH", "JH", "S", "SH", "Z", "ZH"])
VOICELESS = frozenset(["F", "K", "P", "T", "TH"])


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations, one for each word, and where they came from."""

    pronunciations: Mapping[str, Pronunciation]  # word in capitals -> phones, of the vocabulary's 71
    source: str  # in words
    files: tuple[Path, ...]  # those that were read; none for CMUdict


def load_lexicon(words: Iterable[str], files: Sequence[str | Path] | None = None) -> Lexicon:
    """Take the user's lexicon, or that of a checkout of s3prl, or CMUdict with eSpeak NG and a warning.

    Args:
        words: those that are needed, in capitals. A file may lack some: `check_words` tells.
        files: those of the user, each with lines `WORD<tab>PHONES`.

    Raises:
        MelHuBERTError: a file is missing, cannot be read or is malformed; or what the last way needs is not
            installed.
    """
    if files:
        paths = tuple(Path(file).expanduser() for file in files)
        return Lexicon(read_lexicon_files(paths), ", ".join(map(str, paths)), paths)
    if own := s3prl_lexicons():
        return Lexicon(read_lexicon_files(own), f"s3prl's own, {', '.join(map(str, own))}", own)
    return _cmudict(words)


def s3prl_lexicons() -> tuple[Path, ...]:
    """Find the files of LibriSpeech's lexicon in a checkout of s3prl; pip's has none.

    Raises:
        MelHuBERTError: one of the two files is there, and the other is not.
    """
    folder = s3prl_folder() / "downstream/ctc/lexicon"
    missing = [name for name in OF_S3PRL if not (folder / name).is_file()]
    if len(missing) == 1:
        raise MelHuBERTError(
            f"{folder / missing[0]}: is not there, and the other file of s3prl's lexicon is; restore it (git "
            "checkout, in s3prl's folder), or give the files with --lexicon"
        )
    return tuple(sorted(folder.glob("*lexicon*.txt")))


def read_lexicon_files(paths: Iterable[str | Path]) -> dict[str, Pronunciation]:
    """Read the first pronunciation of each word, from the first of the files that has it.

    A line is a word, a tab or blanks, and phones with blanks between them; empty lines are passed over.

    Raises:
        MelHuBERTError: a file cannot be read, or a line has no phones or one that is not in the vocabulary.
    """
    vocabulary = frozenset(PHONEMES.read_text(encoding="utf-8").split())
    found: dict[str, Pronunciation] = {}
    for path in map(Path, paths):
        for number, line in enumerate(read_lines(path, "a lexicon", encoding="utf-8-sig"), 1):
            word, *phones = line.split() or [""]
            if word and not phones:
                raise MelHuBERTError(
                    f"{path} line {number}: found {line.strip()[:60]!r}, expected a word, a tab and phones"
                )
            if unknown := [phone for phone in phones if phone not in vocabulary]:
                raise MelHuBERTError(
                    f"{path} line {number}: {word} has the phone {unknown[0]}, expected ARPAbet with stress, "
                    "as in HH AH0 L OW1"
                )
            if word:
                found.setdefault(word.upper(), tuple(phones))
    return found


def check_words(splits: Mapping[str, Sequence[Transcript]], lexicon: Lexicon, problems: Problems) -> None:
    """Add every word that the lexicon lacks, with the first utterance that it is in."""
    missing: dict[str, str] = {}
    for utterances in splits.values():
        for utterance in utterances:
            for word in utterance.words:
                if word not in lexicon.pronunciations:
                    missing.setdefault(word, utterance.name)
    kind = Kind(
        f"words that are not in the lexicon ({lexicon.source})", "add a line WORD<tab>PHONES for each"
    )
    for word, name in missing.items():
        problems.add(kind, f"{word} in {name}")


def write_lexicon(path: Path, lexicon: Lexicon, words: Iterable[str]) -> Path:
    """Write the pronunciations of these words to one file, so that an experiment holds what it was made with.

    Returns:
        The path.
    """
    lines = [f"{word}\t{' '.join(lexicon.pronunciations[word])}\n" for word in sorted(set(words))]
    write_text(path, "".join(lines))
    return path


def _cmudict(words: Iterable[str]) -> Lexicon:
    try:
        import cmudict
    except ImportError:
        raise MelHuBERTError(
            "no lexicon was given, s3prl's folder has none (that of pip never has), and CMUdict is not "
            "installed: give SUPERB's with --lexicon, or pip install 's3prl-melhubert[lexicon]'"
        ) from None
    known: dict[str, Pronunciation] = {}
    for word, sounds in cmudict.entries():
        known.setdefault(word.upper(), tuple(sounds))
    needed = set(words)
    unknown = sorted(needed - known.keys())
    stems = {word: _without_possessive(word) for word in unknown}
    spoken = pronounce(sorted({stem for stem in stems.values() if stem not in known}))
    found = {word: known[word] for word in needed & known.keys()}
    for word, stem in stems.items():
        if phones := known.get(stem) or spoken.get(stem):
            found[word] = phones + (_possessive(phones) if word.endswith("'S") else ())
    spelled = len(found.keys() & stems.keys())
    source = f"CMUdict for {len(found) - spelled} words and eSpeak NG for {spelled} that it lacks"
    warnings.warn(
        f"no lexicon given, so pronunciations are those of {source}; results compare with SUPERB's only with "
        "the lexicon of an s3prl checkout (--lexicon)",
        MelHuBERTWarning,
        stacklevel=3,
    )
    return Lexicon(found, source, ())


def _without_possessive(word: str) -> str:
    """Take the ending off JOHN'S and BOYS'; any other word stays as it is."""
    return word.removesuffix("'S").rstrip("'") or word


def _possessive(phones: Pronunciation) -> Pronunciation:
    """Return what 's sounds like: it differs in horse's, cat's, dog's."""
    if phones[-1] in SIBILANTS:
        return ("IH0", "Z")
    return ("S",) if phones[-1] in VOICELESS else ("Z",)
