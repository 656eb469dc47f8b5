"""Speech Commands for keyword spotting: its clips in three splits, and whether every one is usable.

    find_test_set(root, given)                        where the test set is
    check_speech_commands(root, test_root, problems)  the clips of train, dev and test, every file opened

Both folders have a folder for each class, with WAV files of a second in it. In the first one, any word that
is none of the ten keywords is `_unknown_`, the long recordings in `_background_noise_` are `_silence_`, and
the names of the files say which clips are for training, for development, or left out. The second one, the
test set, has the twelve classes as folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import named_in
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
CLASSES = (*KEYWORDS, UNKNOWN, SILENCE)
NOISE = "_background_noise_"
TEST_SET = "speech_commands_test_set_v0.01"  # as its archive is called
LISTS = ("validation_list.txt", "testing_list.txt")  # in the corpus: lines WORD/FILE
LARGEST = 2**27 - 1  # Speech Commands' own bound of clips a class

MISSING = Kind(
    f"files that {' or '.join(LISTS)} lists but that are not there", "unpack the corpus' archive again"
)
WITHOUT_CLIP = Kind("classes without a clip", "unpack the archive of the corpus or of the test set again")
EMPTY_DEV = Kind("splits without a clip", "the corpus' names say what is in dev; unpack its archive again")
FOREIGN = Kind(
    "folders of the test set that are none of the twelve classes",
    "move them out, s3prl stops at them; is it the test set?",
)
SHORT_NOISE = Kind(
    f"recordings in {NOISE} of less than a second", "take them out; s3prl cuts a second out of each"
)


@dataclass(frozen=True)
class Clip:
    """A clip that was found usable, or a recording of noise."""

    path: Path
    word: str  # one of CLASSES
    samples: int  # at 16 kHz

    @property
    def prediction_name(self) -> str:
        """The name that s3prl gives it in its predictions."""
        return "-".join(self.path.parts[-2:])


def split_of(file: str) -> str:
    """The split of a clip by the name of its file: train, dev, or unused (the corpus' own test clips).

    The rule is the corpus' own: a hash of the speaker, whose name stands before `_nohash_`, decides.
    """
    speaker = file.partition("_nohash_")[0]
    number = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (LARGEST + 1)
    percentage = number * (100.0 / LARGEST)
    return "dev" if percentage < 10 else "unused" if percentage < 20 else "train"


def find_test_set(root: str | Path, given: str | Path | None = None) -> Path:
    """Find the folder of the test set.

    It is the one that is given, or that of the usual name beside `root`.

    Raises:
        MelHuBERTError: there is none.
    """
    if given is not None:
        return Path(given).expanduser()
    root = Path(root).expanduser()
    folder = root.absolute().parent / TEST_SET
    if folder.is_dir():
        return folder
    raise MelHuBERTError(
        f"{root}: no {TEST_SET} beside it; unpack {TEST_SET}.tar.gz into a folder of this name there, "
        "or give its folder with --test-set"
    )


def check_speech_commands(
    root: str | Path, test_root: str | Path, problems: Problems
) -> dict[str, list[Clip]]:
    """Check both folders whole.

    Args:
        problems: takes what is wrong; the caller raises it, with what it finds itself.

    Returns:
        The clips without a problem of `train`, `dev` and `test`. The noises are in train and dev.

    Raises:
        MelHuBERTError: a folder cannot be read, or is not laid out as Speech Commands.
    """
    root, test_root = Path(root).expanduser(), Path(test_root).expanduser()
    folders, tests = _class_folders(root), _class_folders(test_root)
    found: list[tuple[str, str, Path]] = []  # split, class, file
    for folder in folders:
        if folder.resolve() == test_root.resolve():
            raise MelHuBERTError(
                f"{folder}: the test set cannot lie among the words; s3prl would train on it"
            )
        word = folder.name if folder.name in KEYWORDS else SILENCE if folder.name == NOISE else UNKNOWN
        for path in _wavs(folder):
            splits = ("train", "dev") if word == SILENCE else (split_of(path.name),)
            found += [(split, word, path) for split in splits if split != "unused"]
    for folder in tests:
        if folder.name not in CLASSES:
            problems.add(FOREIGN, folder.name)
            continue
        found += [("test", folder.name, path) for path in _wavs(folder)]
    _check_lists(root, problems)
    for split in ("train", "test"):
        there = {word for where, word, _ in found if where == split}
        for word in CLASSES:
            if word not in there:
                problems.add(WITHOUT_CLIP, f"{word} in {split}")
    if not any(split == "dev" and word != SILENCE for split, word, _ in found):
        problems.add(EMPTY_DEV, "dev")
    return _measured(found, problems)


def _measured(found: Iterable[tuple[str, str, Path]], problems: Problems) -> dict[str, list[Clip]]:
    """Open every file; sort the usable ones into splits."""
    found = list(found)
    paths = list(dict.fromkeys(path for _, _, path in found))
    lengths = check_audio(paths, lambda path: "/".join(path.parts[-2:]), problems, "check Speech Commands")
    samples = dict(zip(paths, lengths, strict=True))
    splits: dict[str, list[Clip]] = {"train": [], "dev": [], "test": []}
    for split, word, path in found:
        length = samples[path]
        if length is None:
            continue
        if split == "train" and word == SILENCE and length < SAMPLE_RATE:
            problems.add(SHORT_NOISE, path.name)
        splits[split].append(Clip(path, word, length))
    return splits


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected one of Speech Commands, a folder a word")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if not any(folder.name in KEYWORDS for folder in folders):
        raise MelHuBERTError(
            f"{root}: expected a folder for each word ({', '.join(KEYWORDS)}), found {named_in(root)}"
        )
    return folders


def _wavs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wav"))


def _check_lists(root: Path, problems: Problems) -> None:
    """Name the files that the corpus' own lists have and the disk has not; not every copy has the lists."""
    for name in LISTS:
        path = root / name
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.strip() and not (root / line.strip()).is_file():
                problems.add(MISSING, line.strip())
