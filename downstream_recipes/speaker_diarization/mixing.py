"""Libri2Mix in Kaldi's layout, made from LibriSpeech and LibriMix's lists: `melhubert superb make-sd`.

    libri2mix_train-clean-100.csv, libri2mix_dev-clean.csv, libri2mix_test-clean.csv
        mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,...
    train_clean_100.rttm, dev_clean.rttm, test_clean.rttm
        SPEAKER UTTERANCE 1 START DURATION <NA> <NA> SPEAKER ..., when an utterance is speech

A mixture is the sum of its two sources, each times its gain, as long as the longer one ("max"). SUPERB's also
holds WHAM!'s noise, and its turns come from a forced alignment, which the RTTM files hold; what is made
without them says so in `origin.json`, from which the task takes its differences from SUPERB.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.outputs import Turn
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, write_json, write_text
from s3prl_melhubert.support.progress import progress, say
from s3prl_melhubert.support.writable import check_writable

# A set, LibriMix's list of its mixtures, and the RTTM file of its sources.
SETS = {
    "train": ("libri2mix_train-clean-100.csv", "train_clean_100.rttm"),
    "dev": ("libri2mix_dev-clean.csv", "dev_clean.rttm"),
    "test": ("libri2mix_test-clean.csv", "test_clean.rttm"),
}
COLUMNS = ("mixture_ID", "source_1_path", "source_1_gain", "source_2_path", "source_2_gain")
ORIGIN = "origin.json"
ALIGNED, WHOLE = "forced alignment", "whole utterances"

MISSING = Kind(
    "sources that are not there", "get the split from openslr.org/12 and unpack it beside the others"
)
NO_TURNS = Kind(
    "sources without a turn in the RTTM file", "take the lists and the RTTM files from one release"
)
BAD_GAIN = Kind("gains that are no finite number above 0", "take LibriMix's own lists")
EMPTY = Kind("lists without a mixture", "take LibriMix's own lists")
LISTED_TWICE = Kind("mixtures that are listed more than once", "keep one line of each")


@dataclass(frozen=True)
class Source:
    """An utterance of LibriSpeech in a mixture."""

    path: Path
    gain: float

    @property
    def speaker(self) -> str:
        """The first part of LibriSpeech's name SPEAKER-CHAPTER-NNNN."""
        return self.path.stem.partition("-")[0]


@dataclass(frozen=True)
class Recipe:
    """A mixture that is to be made."""

    name: str
    sources: tuple[Source, Source]


def make_libri2mix(
    librispeech: str | Path, lists: str | Path, turns: str | Path | None, out: str | Path, workers: int
) -> dict[str, int]:
    """Write the three sets, and beside them what they were made of; return the mixtures of each.

    A file that holds exactly its mixture is kept, so that an interrupted run goes on; any other is replaced.

    Args:
        librispeech: the folder of its splits.
        lists: the folder of LibriMix's three CSV files.
        turns: the folder of the three RTTM files; None for one turn for each utterance.
        workers: threads that mix.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    librispeech, lists, out = (Path(path).expanduser().absolute() for path in (librispeech, lists, out))
    check_writable(out)
    problems = Problems()
    recipes = {name: _read_list(lists / file, librispeech, problems) for name, (file, _) in SETS.items()}
    spoken = {
        name: _read_turns(Path(turns).expanduser() / file) if turns else None
        for name, (_, file) in SETS.items()
    }
    for name, mixtures in recipes.items():
        _check(SETS[name][0], mixtures, spoken[name], problems)
    problems.raise_if_any(f"Libri2Mix from {lists}")
    for name, mixtures in recipes.items():
        _write_set(out / name, mixtures, spoken[name], max(1, workers))
    write_json(out / ORIGIN, {"noise": "none", "turns": ALIGNED if turns else WHOLE}, indent=2)
    return {name: len(mixtures) for name, mixtures in recipes.items()}


def differences_of_origin(root: Path) -> list[Difference]:
    """Return in what mixtures that were made here are not SUPERB's; nothing of others, made by LibriMix.

    Raises:
        MelHuBERTError: `origin.json` cannot be read.
    """
    path = root / ORIGIN
    if not path.is_file():
        return []
    superb = {"noise": "WHAM!", "turns": ALIGNED}
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        return [
            Difference(f"{key} of the mixtures", superb[key], here)
            for key, here in origin.items()
            if here != superb[key]
        ]
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise MelHuBERTError(
            f"{path}: cannot be read ({error}); `melhubert superb make-sd` writes it"
        ) from None


def _read_list(path: Path, librispeech: Path, problems: Problems) -> list[Recipe]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        recipes = [
            Recipe(
                row["mixture_ID"],
                (
                    Source(librispeech / row["source_1_path"], float(row["source_1_gain"])),
                    Source(librispeech / row["source_2_path"], float(row["source_2_gain"])),
                ),
            )
            for row in rows
        ]
    except FileNotFoundError:
        raise MelHuBERTError(
            f"{path}: not there; LibriMix's lists are in the folder metadata/Libri2Mix of its repository, "
            "github.com/JorisCos/LibriMix"
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise MelHuBERTError(
            f"{path}: cannot be read as LibriMix's list with the columns {', '.join(COLUMNS)} "
            f"({type(error).__name__}: {error})"
        ) from None
    for number, recipe in enumerate(recipes, 2):
        for source in recipe.sources:
            if not 0 < source.gain < math.inf:
                problems.add(BAD_GAIN, f"{path.name} line {number}: {source.gain}")
    return recipes


def _read_turns(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return from when to when each utterance is speech.

    The key is LibriSpeech's name of the utterance, from which LibriMix' files leave out the speaker.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        turns: dict[str, list[tuple[float, float]]] = {}
        for line in lines:
            _, name, _, start, duration, _, _, speaker, *_ = line.split()
            name = name if name.startswith(f"{speaker}-") else f"{speaker}-{name}"
            turns.setdefault(name, []).append((float(start), float(start) + float(duration)))
    except (OSError, ValueError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as RTTM ({error})") from None
    return turns


def _check(
    file: str,
    mixtures: Sequence[Recipe],
    turns: Mapping[str, list[tuple[float, float]]] | None,
    problems: Problems,
) -> None:
    if not mixtures:
        problems.add(EMPTY, file)
    for name, times in Counter(mixture.name for mixture in mixtures).items():
        if times > 1:
            problems.add(LISTED_TWICE, f"{name} in {file}")
    for source in sorted(
        {source for mixture in mixtures for source in mixture.sources}, key=lambda s: s.path
    ):
        if not source.path.is_file():
            problems.add(MISSING, str(source.path))
        elif turns is not None and source.path.stem not in turns:
            problems.add(NO_TURNS, source.path.stem)


def _write_set(
    folder: Path,
    mixtures: Sequence[Recipe],
    turns: Mapping[str, list[tuple[float, float]]] | None,
    workers: int,
) -> None:
    """Mix, and write Kaldi's lists; say how many mixtures are too loud for their files."""
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {
        name: [] for name in ("wav.scp", "reco2dur", "segments", "utt2spk", "rttm")
    }
    segments_of: dict[str, list[str]] = {}
    clipped = 0

    def mix(mixture: Recipe) -> tuple[int, bool, list[Turn]]:
        return _mix(mixture, folder / "wav" / f"{mixture.name}.wav", turns)

    with ThreadPoolExecutor(workers) as threads, progress(len(mixtures), folder.name, "mixtures") as bar:
        for mixture, (samples, too_loud, found) in zip(mixtures, threads.map(mix, mixtures), strict=True):
            bar.update()
            clipped += too_loud
            lists["wav.scp"].append(f"{mixture.name} {folder / 'wav' / mixture.name}.wav")
            lists["reco2dur"].append(f"{mixture.name} {samples / SAMPLE_RATE}")
            for number, (speaker, start, end) in enumerate(found):
                segment = f"{mixture.name}_{number:03d}"
                lists["segments"].append(f"{segment} {mixture.name} {start:.3f} {end:.3f}")
                lists["utt2spk"].append(f"{segment} {speaker}")
                lists["rttm"].append(
                    f"SPEAKER {mixture.name} 1 {start:.3f} {end - start:.3f} <NA> <NA> {speaker} <NA>"
                )
                segments_of.setdefault(speaker, []).append(segment)
    lists["spk2utt"] = [f"{speaker} {' '.join(names)}" for speaker, names in sorted(segments_of.items())]
    for name, lines in lists.items():
        write_text(folder / name, "".join(f"{line}\n" for line in lines))
    if clipped:
        say(
            f"{folder.name}: {clipped} of {len(mixtures)} mixtures are over full scale and were clipped, as "
            "LibriMix's own program would; the gains of its lists leave room"
        )


def _mix(
    mixture: Recipe, path: Path, turns: Mapping[str, list[tuple[float, float]]] | None
) -> tuple[int, bool, list[Turn]]:
    """Write a mixture, unless it is there; return its samples, whether it was clipped, and who talks when."""
    waves = [_read(source) for source in mixture.sources]
    samples = max(map(len, waves))
    total = np.zeros(samples, dtype=np.float32)
    for wave in waves:
        total[: len(wave)] += wave
    content = io.BytesIO()
    soundfile.write(content, total, SAMPLE_RATE, format="WAV")
    # A file of the same length may be of other sources or gains.
    if not (path.is_file() and path.read_bytes() == content.getbuffer()):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    found: list[Turn] = []
    for source, wave in zip(mixture.sources, waves, strict=True):
        stretches = [(0.0, len(wave) / SAMPLE_RATE)] if turns is None else turns[source.path.stem]
        found += [(source.speaker, start, end) for start, end in stretches]
    return samples, bool(np.abs(total).max(initial=0) > 1), found


def _read(source: Source) -> np.ndarray:
    try:
        wave, rate = soundfile.read(source.path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise MelHuBERTError(f"{source.path}: cannot be read ({error.error_string})") from None
    if rate != SAMPLE_RATE or wave.ndim != 1:
        raise MelHuBERTError(f"{source.path}: expected one channel at {SAMPLE_RATE} Hz")
    return wave * source.gain
