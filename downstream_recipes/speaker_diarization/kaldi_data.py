"""Mixtures of speakers in Kaldi's layout, as s3prl's diarization reads them, and whether all is usable.

    wav.scp    MIXTURE PATH
    reco2dur   MIXTURE SECONDS
    segments   SEGMENT MIXTURE START END (seconds), a stretch in which one speaker talks
    utt2spk    SEGMENT SPEAKER
    spk2utt    SPEAKER ..., which s3prl opens and does not use

s3prl trusts these files: a mixture of three speakers is an IndexError, one without segments a KeyError,
whenever its turn comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.outputs import Turn
from s3prl_melhubert.errors import MelHuBERTError

SPEAKERS = 2  # of s3prl's output layer
TOLERANCE = 0.1  # seconds by which reco2dur may differ from the file

MALFORMED = Kind("lines that have another number of fields than Kaldi's", "mend them; s3prl stops at them")
TWICE = Kind("lines that say something else than another of the same name", "keep one of them")
MISSING = Kind("files of wav.scp that are not there", "mix them again, or mend the paths")
COMMAND = Kind("entries of wav.scp that are commands", "write what they print to files, and name those")
NO_SEGMENTS = Kind("mixtures without a segment", "add segments, or take them out of wav.scp")
NO_DURATION = Kind("mixtures without a duration in reco2dur", "add it, in seconds")
WRONG_DURATION = Kind("mixtures whose file is not as long as reco2dur says", "write reco2dur anew")
NO_SPEAKER = Kind("segments without a speaker in utt2spk", "add the speaker")
TOO_MANY = Kind(f"mixtures of more than {SPEAKERS} speakers", f"SUPERB's are of {SPEAKERS}; take them out")
BAD_TIMES = Kind("segments that end before they start, or after the mixture", "mend them")
UNKNOWN = Kind("segments of mixtures that are not in wav.scp", "take them out, or add the mixture")
EMPTY = Kind("sets without a mixture", "write them anew")


@dataclass(frozen=True)
class Mixture:
    """A recording in which speakers talk, also at the same time."""

    name: str
    path: Path
    samples: int  # at 16 kHz
    turns: tuple[Turn, ...]


def check_kaldi_data(folder: Path, problems: Problems) -> list[Mixture]:
    """Check a set of mixtures whole: its lists and every file; return those without a problem.

    Raises:
        MelHuBERTError: a list is not there or cannot be read.
    """
    set_name = folder.name
    wavs = _table(folder / "wav.scp", 2, problems)
    durations = _table(folder / "reco2dur", 2, problems)
    speakers = _table(folder / "utt2spk", 2, problems)
    segments = _table(folder / "segments", 4, problems)
    if not (folder / "spk2utt").is_file():
        raise MelHuBERTError(f"{folder / 'spk2utt'}: no such file; s3prl opens it")
    if not wavs:
        problems.add(EMPTY, set_name)
    turns = _turns(set_name, segments, speakers, wavs, problems)
    there: list[str] = []
    for name, (file,) in wavs.items():
        if file.endswith("|") or file == "-":
            problems.add(COMMAND, f"{set_name}: {name}")
        elif not Path(file).is_file():
            problems.add(MISSING, f"{set_name}: {file}")
        else:
            there.append(name)
    paths = [Path(wavs[name][0]) for name in there]
    lengths = check_audio(paths, lambda path: f"{set_name}: {path.name}", problems, f"check {set_name}")
    found = []
    for name, path, samples in zip(there, paths, lengths, strict=True):
        if samples is not None and _usable(name, samples, turns.get(name, []), durations, set_name, problems):
            found.append(Mixture(name, path, samples, tuple(turns[name])))
    return found


def _usable(
    name: str,
    samples: int,
    turns: Sequence[Turn],
    durations: Mapping[str, Sequence[str]],
    set_name: str,
    problems: Problems,
) -> bool:
    before = len(problems)
    seconds = samples / SAMPLE_RATE
    if not turns:
        problems.add(NO_SEGMENTS, f"{set_name}: {name}")
    if len({speaker for speaker, _, _ in turns}) > SPEAKERS:
        problems.add(TOO_MANY, f"{set_name}: {name}")
    for _, start, end in turns:
        if not 0 <= start <= end <= seconds + TOLERANCE:
            problems.add(BAD_TIMES, f"{set_name}: {name} from {start:g} to {end:g} of {seconds:g} s")
    if name not in durations:
        problems.add(NO_DURATION, f"{set_name}: {name}")
    else:
        said = _seconds(durations[name][0])
        if said is None or abs(said - seconds) > TOLERANCE:
            problems.add(WRONG_DURATION, f"{set_name}: {name} of {seconds:g} s, not {durations[name][0]}")
    return len(problems) == before


def _turns(
    set_name: str,
    segments: Mapping[str, Sequence[str]],
    speakers: Mapping[str, Sequence[str]],
    wavs: Mapping[str, Sequence[str]],
    problems: Problems,
) -> dict[str, list[Turn]]:
    """Return who talks when, by mixture."""
    turns: dict[str, list[Turn]] = {}
    for segment, (mixture, start, end) in segments.items():
        times = _seconds(start), _seconds(end)
        if mixture not in wavs:
            problems.add(UNKNOWN, f"{set_name}: {segment} of {mixture}")
        elif segment not in speakers:
            problems.add(NO_SPEAKER, f"{set_name}: {segment}")
        elif times[0] is None or times[1] is None:
            problems.add(BAD_TIMES, f"{set_name}: {segment} from {start} to {end}")
        else:
            turns.setdefault(mixture, []).append((speakers[segment][0], times[0], times[1]))
    return turns


def _table(path: Path, fields: int, problems: Problems) -> dict[str, list[str]]:
    """Read a file of Kaldi's as s3prl does: the first field is the key, the last is the rest of the line."""
    table: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), 1):
        parts = line.strip().split(None, fields - 1)
        where = f"{path.parent.name}/{path.name} line {number}: {line.strip()[:60]!r}"
        if len(parts) != fields:
            problems.add(MALFORMED, where)
            continue
        if table.setdefault(parts[0], parts[1:]) != parts[1:]:  # s3prl takes the last, and of segments all
            problems.add(TWICE, where)
    return table


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
