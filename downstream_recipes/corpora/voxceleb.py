"""VoxCeleb1 for speaker identification: its split file, and whether every file in it is usable.

    find_split_file(root, given)                 where the split file is
    check_voxceleb(root, split_file, problems)   the utterances of train, dev and test, every file opened

The layout is ROOT/{dev,test}/wav/idNNNNN/VIDEO/NNNNN.wav. A line of the split file is `1`, `2` or `3` (train,
dev, test) and idNNNNN/VIDEO/NNNNN.wav. s3prl looks each up as ROOT/*/wav/NAME: where there is none it ends in
an IndexError, where there are two it takes one of them.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import find_list, named_in, read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError

SPLITS = {"1": "train", "2": "dev", "3": "test"}
SPLIT_FILE = "iden_split.txt"  # as VoxCeleb's site calls it
S3PRL_SPLIT_FILE = "downstream/voxceleb1/veri_test_class.txt"  # the same lines, in a checkout of s3prl
FIRST_SPEAKER, SPEAKERS = 10001, 1251  # label 0, and the width of s3prl's output layer

MALFORMED = Kind(
    "lines of the split file that are not `1|2|3 idNNNNN/VIDEO/FILE`", "mend them; s3prl stops at them"
)
UNKNOWN_SPEAKER = Kind(
    f"speakers outside id{FIRST_SPEAKER} to id{FIRST_SPEAKER + SPEAKERS - 1}",
    f"take them out of the split file; s3prl has {SPEAKERS} outputs",
)
LISTED_TWICE = Kind(
    "files listed more than once", "keep one line of each; predictions are told apart by name"
)
SAME_NAME = Kind("files whose predictions would have one name", "rename one of each pair")
EMPTY_SPLIT = Kind("splits without a file", "the split file needs lines of 1 (train), 2 (dev) and 3 (test)")
UNTRAINED = Kind("speakers of dev or test without a training file", "give them one or take them out")
MISSING = Kind(
    "files that are listed but not there",
    "identification needs both archives, unpacked as ROOT/dev/wav and ROOT/test/wav",
)
IN_TWO_PLACES = Kind("files that are there twice", "keep one; s3prl takes either")

LINE = re.compile(r"\s*([123])\s+(id(\d{5})/[^/\s]+/[^/\s]+)\s*", re.ASCII)


@dataclass(frozen=True)
class ListedFile:
    """A file that the split file lists."""

    name: str  # idNNNNN/VIDEO/FILE
    speaker: int  # NNNNN

    @property
    def label(self) -> int:
        """The index of the speaker among s3prl's outputs."""
        return self.speaker - FIRST_SPEAKER

    @property
    def prediction_name(self) -> str:
        """The name that s3prl gives it in its predictions."""
        return Path(self.name.replace("/", "-")).stem


@dataclass(frozen=True)
class SpeakerUtterance(ListedFile):
    """A listed file that was found usable."""

    path: Path
    samples: int  # at 16 kHz


def find_split_file(root: str | Path, given: str | Path | None = None) -> Path:
    """Find the split file.

    It is the one that is given, or `iden_split.txt` in `root` or beside it, or that of a checkout of s3prl.

    Raises:
        MelHuBERTError: there is none.
    """
    return find_list(
        root,
        given,
        names=[SPLIT_FILE],
        of_s3prl=S3PRL_SPLIT_FILE,
        what=f"VoxCeleb1's {SPLIT_FILE}",
        remedy="get it from VoxCeleb's site (VoxCeleb1, identification split) and put it there, or give it "
        "with --split-file",
    )


def check_voxceleb(
    root: str | Path, split_file: str | Path, problems: Problems
) -> dict[str, list[SpeakerUtterance]]:
    """Check the identification split whole: its list, and every file of it.

    Args:
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The utterances without a problem of `train`, `dev` and `test`, in the order of the split file.

    Raises:
        MelHuBERTError: `root` or the split file cannot be read, or `root` is not laid out as VoxCeleb1.
    """
    folders = _wav_folders(Path(root).expanduser())
    listed = read_split_file(split_file, problems)
    everything = [each for split in listed.values() for each in split]
    paths = _locate(folders, (each.name for each in everything), problems)
    there = [each for each in everything if each.name in paths]
    lengths = check_audio(
        [paths[each.name] for each in there],
        lambda path: "/".join(path.parts[-3:]),
        problems,
        "check VoxCeleb1",
    )
    samples = dict(zip((each.name for each in there), lengths, strict=True))
    return {
        split: [
            SpeakerUtterance(each.name, each.speaker, paths[each.name], length)
            for each in files
            if (length := samples.get(each.name)) is not None
        ]
        for split, files in listed.items()
    }


def read_split_file(path: str | Path, problems: Problems) -> dict[str, list[ListedFile]]:
    """Read the lists of `train`, `dev` and `test`; what is wrong with them goes to `problems`.

    Raises:
        MelHuBERTError: the file cannot be read.
    """
    listed: dict[str, list[ListedFile]] = {split: [] for split in SPLITS.values()}
    names: set[str] = set()
    prediction_names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, f"VoxCeleb1's {SPLIT_FILE}"), 1):
        match = LINE.fullmatch(line)
        if match is None:
            problems.add(MALFORMED, f"line {number}: {line.strip()[:60]!r}")
            continue
        utterance = ListedFile(match[2], int(match[3]))
        if utterance.name in names:
            problems.add(LISTED_TWICE, utterance.name)
            continue
        names.add(utterance.name)
        same = prediction_names.setdefault(utterance.prediction_name, utterance.name)
        if same != utterance.name:
            problems.add(SAME_NAME, f"{same} and {utterance.name}")
        listed[SPLITS[match[1]]].append(utterance)
    _check_speakers(listed, problems)
    return listed


def _check_speakers(listed: dict[str, list[ListedFile]], problems: Problems) -> None:
    speakers = {split: {each.speaker for each in files} for split, files in listed.items()}
    for split in SPLITS.values():
        if not speakers[split]:
            problems.add(EMPTY_SPLIT, split)
    for speaker in sorted(set().union(*speakers.values())):
        if not 0 <= speaker - FIRST_SPEAKER < SPEAKERS:
            problems.add(UNKNOWN_SPEAKER, f"id{speaker:05d}")
    if speakers["train"]:
        for speaker in sorted((speakers["dev"] | speakers["test"]) - speakers["train"]):
            problems.add(UNTRAINED, f"id{speaker:05d}")


def _wav_folders(root: Path) -> list[Path]:
    """Find the folders ROOT/*/wav, in which s3prl looks."""
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected VoxCeleb1's, with dev/wav and test/wav in it")
    folders = sorted(path for path in root.glob("*/wav") if path.is_dir())
    if not folders:
        raise MelHuBERTError(f"{root}: expected dev/wav and test/wav in this folder, found {named_in(root)}")
    return folders


def _locate(folders: list[Path], names: Iterable[str], problems: Problems) -> dict[str, Path]:
    """Find where the file of each name is.

    The folder of each video is listed once: there are 153 516 files in a seventh as many folders.
    """
    by_video: dict[str, list[str]] = defaultdict(list)
    for name in names:
        video, file = name.rsplit("/", 1)
        by_video[video].append(file)
    found: dict[str, Path] = {}
    for video, files in by_video.items():
        inside = [(folder / video, _names(folder / video)) for folder in folders]
        for file in files:
            places = [place / file for place, there in inside if file in there]
            if not places:
                problems.add(MISSING, f"{video}/{file}")
                continue
            if len(places) > 1:
                problems.add(IN_TWO_PLACES, f"{video}/{file}")
            found[f"{video}/{file}"] = places[0]
    return found


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
