"""QUESST 2014: its lists, its ground truth, and whether every English file is usable.

The layout is that of quesst14Database.tgz: Audio/ (the documents), dev_queries/, eval_queries/ and scoring/,
in which `language_key_{utterances,dev,eval}.lst` have a file and its language on each line, and
`groundtruth_quesst14_{dev,eval}` are the truth. s3prl takes the English files, those of the language
`nnenglish`, and resamples them from 8 kHz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.audio_check import check_audio
from s3prl_melhubert.downstream_recipes.corpora.listing import read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.query_by_example.truth import GroundTruth, read_ground_truth
from s3prl_melhubert.errors import MelHuBERTError

ENGLISH = "nnenglish"
DOCUMENTS, QUERIES = "utterances", ("dev", "eval")  # s3prl's -t is dev, or anything else for eval

MALFORMED = Kind(
    "lines of language_key_*.lst that are not `FOLDER/FILE LANGUAGE`", "mend them; s3prl stops at them"
)
NO_ENGLISH = Kind("lists without a file of the language nnenglish", "unpack quesst14Database.tgz again")
MISSING = Kind("files that are listed but not there", "unpack quesst14Database.tgz again")
TWICE = Kind(
    "names that are listed more than once", "keep one line of each; detections are told apart by name"
)
NOT_IN_TRUTH = Kind(
    "files that the ground truth does not have", "take the lists and the truth from one and the same release"
)


@dataclass(frozen=True)
class Quesst:
    """QUESST's English files by list, and the truth by set of queries."""

    files: Mapping[str, list[Path]]  # of utterances, dev and eval
    truth: Mapping[str, GroundTruth]  # of dev and eval


def ground_truth_folder(root: Path, queries: str) -> Path:
    """The folder of the truth about the queries `dev` or `eval`."""
    return root / "scoring" / f"groundtruth_quesst14_{queries}"


def check_quesst(root: str | Path, problems: Problems) -> Quesst:
    """Check QUESST's lists, its ground truth, and every English file.

    Args:
        problems: takes what is wrong; the caller raises it.

    Raises:
        MelHuBERTError: a list or the ground truth is not there or cannot be read.
    """
    root = Path(root).expanduser()
    if not (root / "scoring").is_dir():
        raise MelHuBERTError(
            f"{root}: expected QUESST 2014 here, with scoring, Audio, dev_queries and eval_queries"
        )
    files = {name: _read_list(root, name, problems) for name in (DOCUMENTS, *QUERIES)}
    truth = {name: read_ground_truth(ground_truth_folder(root, name)) for name in QUERIES}
    for name, paths in files.items():
        there = [path for path in paths if path.is_file()]
        for path in paths:
            if not path.is_file():
                problems.add(MISSING, path.relative_to(root).as_posix())
        check_audio(
            there, lambda path: path.relative_to(root).as_posix(), problems, f"check {name}", any_rate=True
        )
    for name in QUERIES:
        for path in files[name]:
            if path.stem not in truth[name].queries:
                problems.add(NOT_IN_TRUTH, path.stem)
        for path in files[DOCUMENTS]:
            if path.stem not in truth[name].documents:
                problems.add(NOT_IN_TRUTH, f"{path.stem} ({name})")
    return Quesst(files, truth)


def _read_list(root: Path, name: str, problems: Problems) -> list[Path]:
    """Return the paths of the English files of a list; s3prl leaves out the first folder of each name."""
    path = root / "scoring" / f"language_key_{name}.lst"
    found: dict[str, Path] = {}
    for number, line in enumerate(read_lines(path, remedy="unpack quesst14Database.tgz again"), 1):
        fields = line.split()
        if len(fields) != 2 or "/" not in fields[0]:
            problems.add(MALFORMED, f"{path.name} line {number}: {line.strip()[:60]!r}")
            continue
        if fields[1] != ENGLISH:
            continue
        file = root / fields[0].partition("/")[2]
        if file.stem in found:
            problems.add(TWICE, f"{file.stem} in {path.name}")
        found[file.stem] = file
    if not found:
        problems.add(NO_ENGLISH, path.name)
    return list(found.values())
