"""VoxCeleb1 for speaker verification: the list of trials, the training files, and whether all is usable.

    find_trial_list(root, given)                     where the list of trials is
    check_verification(root, trial_list, problems)   trials, test files and training files, every file opened

The layout is ROOT/{dev,test}/wav/idNNNNN/VIDEO/NNNNN.wav. s3prl trains on every file of dev/, with an output
for each folder of a speaker. A line of the list is `1` (one speaker) or `0` (two), and two files below
test/wav. s3prl finds out that one of them is missing when it tests, after days of training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import find_list, read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError

# The same 37 720 trials, as openslr.org/49 and a checkout of s3prl call them, and as VoxCeleb's site does.
TRIAL_LISTS = ("voxceleb1_test_v2.txt", "veri_test.txt")
S3PRL_TRIAL_LIST = "downstream/sv_voxceleb1/voxceleb1_test_v2.txt"  # in a checkout of s3prl

MALFORMED = Kind(
    "lines of the list of trials that are not `1|0 idNNNNN/VIDEO/FILE.wav idNNNNN/VIDEO/FILE.wav`",
    "mend them; s3prl stops at them",
)
CONTRADICTION = Kind(
    "trials whose 1 or 0 contradicts the speakers in their names", "take the list from VoxCeleb's site again"
)
ONE_KIND = Kind("kinds of trials that are absent", "an equal error rate needs both 1 and 0")
MISSING = Kind(
    "files of trials that are not there", "unpack VoxCeleb1's test archive as ROOT/test/wav, whole"
)
NO_SPEAKERS = Kind("folders with less than two speakers", "unpack VoxCeleb1's dev archive as ROOT/dev/wav")
EMPTY_SPEAKER = Kind(
    "speakers in dev/wav without a file", "take the folders out; s3prl has an output for each"
)
IN_BOTH = Kind("speakers of the trials who are trained on", "take them out of dev/wav")

SUFFIXES = (".wav", ".flac")
FILE = r"(id\d{5})/[^/\s.]+/[^/\s.]+\.(?:wav|flac)"
LINE = re.compile(rf"\s*([01])\s+({FILE})\s+({FILE})\s*", re.ASCII)


@dataclass(frozen=True)
class VerificationTrial:
    """Two files, of one speaker or of two."""

    same: bool
    first: str  # idNNNNN/VIDEO/FILE.wav
    second: str

    @property
    def prediction_name(self) -> str:
        """The name that s3prl gives it in its predictions."""
        return "_".join(name.replace("/", "-").partition(".")[0] for name in (self.first, self.second))


@dataclass(frozen=True)
class VoiceFile:
    """A file that was found usable."""

    path: Path
    samples: int  # at 16 kHz


@dataclass(frozen=True)
class VerificationSets:
    """What speaker verification trains on and is tested on."""

    training: list[VoiceFile]
    speakers: int  # of the training files
    trials: list[VerificationTrial]
    testing: list[VoiceFile]  # each file of the trials once


def find_trial_list(root: str | Path, given: str | Path | None = None) -> Path:
    """Find the list of trials.

    It is the one that is given, or one of TRIAL_LISTS in `root` or beside it, or that of a checkout of s3prl.

    Raises:
        MelHuBERTError: there is none.
    """
    return find_list(
        root,
        given,
        names=TRIAL_LISTS,
        of_s3prl=S3PRL_TRIAL_LIST,
        what="a list of trials of VoxCeleb1",
        remedy="get one from openslr.org/49, or the other from VoxCeleb's site, put it there, or give it "
        "with --trials",
    )


def check_verification(root: str | Path, trial_list: str | Path, problems: Problems) -> VerificationSets:
    """Check the trials, and every file of dev/wav and of the trials.

    Args:
        problems: takes what is wrong; the caller raises it.

    Raises:
        MelHuBERTError: `root` or the list cannot be read, or `root` is not laid out as VoxCeleb1.
    """
    root = Path(root).expanduser()
    for part in ("dev", "test"):
        if not (root / part / "wav").is_dir():
            raise MelHuBERTError(
                f"{root}: expected dev/wav and test/wav in this folder, {part}/wav is not there"
            )
    trials = read_trials(trial_list, problems)
    by_speaker = _training_files(root / "dev/wav", problems)
    tested = sorted({name for trial in trials for name in (trial.first, trial.second)})
    for speaker in sorted({name.split("/")[0] for name in tested} & set(by_speaker)):
        problems.add(IN_BOTH, speaker)
    for name in tested:
        if not (root / "test/wav" / name).is_file():
            problems.add(MISSING, name)
    training = [path for files in by_speaker.values() for path in files]
    testing = [path for name in tested if (path := root / "test/wav" / name).is_file()]
    return VerificationSets(
        training=_usable(training, problems, "check dev/wav"),
        speakers=len(by_speaker),
        trials=trials,
        testing=_usable(testing, problems, "check the trials' files"),
    )


def read_trials(path: str | Path, problems: Problems) -> list[VerificationTrial]:
    """Read the list of trials; what is wrong with it goes to `problems`.

    A pair may be there twice: VoxCeleb1's own list has such pairs.

    Raises:
        MelHuBERTError: the file cannot be read.
    """
    trials = []
    for number, line in enumerate(read_lines(path, "a list of trials"), 1):
        match = LINE.fullmatch(line)
        if match is None:
            problems.add(MALFORMED, f"line {number}: {line.strip()[:60]!r}")
            continue
        same, first, first_speaker, second, second_speaker = match.groups()
        trials.append(VerificationTrial(same == "1", first, second))
        if trials[-1].same != (first_speaker == second_speaker):
            problems.add(CONTRADICTION, f"line {number}: {line.strip()}")
    for same, kind in ((True, "1 (one speaker)"), (False, "0 (two speakers)")):
        if not any(trial.same == same for trial in trials):
            problems.add(ONE_KIND, kind)
    return trials


def _training_files(folder: Path, problems: Problems) -> dict[str, list[Path]]:
    """List the files of each speaker, sorted."""
    found: dict[str, list[Path]] = {}
    for speaker in sorted(path for path in folder.iterdir() if path.is_dir()):
        found[speaker.name] = sorted(path for path in speaker.glob("*/*") if path.suffix in SUFFIXES)
        if not found[speaker.name]:
            problems.add(EMPTY_SPEAKER, speaker.name)
    if len(found) < 2:
        problems.add(NO_SPEAKERS, f"dev/wav with {len(found)}")
    return found


def _usable(paths: Sequence[Path], problems: Problems, title: str) -> list[VoiceFile]:
    lengths = check_audio(paths, lambda path: "/".join(path.parts[-3:]), problems, title)
    return [
        VoiceFile(path, samples) for path, samples in zip(paths, lengths, strict=True) if samples is not None
    ]
