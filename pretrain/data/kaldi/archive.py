"""The published archive: its lists, its statistics, and the matrices and labels that the lists point at.

    NAME.scp          key path.ark:offset         Kaldi matrices of log-Mel frames, not normalized
    NAME*.bas.scp     key path:offset             a line of cluster ids in a text file, at that byte
    NAME.mean-var     [sum, ...] / [sum of squares, ...] / number of frames

Paths inside the lists are those of the machine that made them. The files are looked for beside the list,
under their base names. The 960-hour archive keeps labels of both frame periods in folders of their own.
"""

from __future__ import annotations

import ast
import os
import re
import struct
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

import numpy as np

from s3prl_melhubert.config import N_MELS
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.pretrain.data.features import FeatureSums
from s3prl_melhubert.statistics import FeatureStats

LABEL_SUFFIX = ".bas.scp"
LONGEST_LINE = 1 << 24  # bytes of labels that an utterance may have; they are hours
# What stands in front of a matrix, by its format: the bytes of each figure, those that each column has beside
# its figures, and those between the format and the two sizes.
HEADERS = {
    b"FM ": (4, 0, 0),
    b"DM ": (8, 0, 0),
    b"CM ": (1, 8, 8),
    b"CM2 ": (2, 0, 8),
    b"CM3 ": (1, 0, 8),
}


@dataclass(frozen=True, slots=True)
class Location:
    """The place where a matrix or a line begins."""

    path: Path
    offset: int  # bytes


@dataclass(frozen=True)
class Archive:
    """The files of an archive that belong together."""

    features: Path  # NAME.scp
    labels: Path  # NAME.bas.scp
    mean_var: Path


def find_archive(folder: str | Path, labels: str | None = None) -> Archive:
    """Find the lists and statistics of an archive by their names.

    Args:
        folder: the archive's folder, searched to the bottom.
        labels: a pattern for the path of the label list, where there are several.

    Raises:
        MelHuBERTError: there is none of a kind, or there are several to choose from.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MelHuBERTError(f"{folder}: no such folder, expected the published archive, unpacked")
    lists = sorted(folder.rglob("*.scp"))
    features = [path for path in lists if not path.name.endswith(LABEL_SUFFIX)]
    all_labels = [path for path in lists if path.name.endswith(LABEL_SUFFIX)]
    chosen = [
        path for path in all_labels if labels is None or fnmatch(path.relative_to(folder).as_posix(), labels)
    ]
    if labels is not None and not chosen:
        names = ", ".join(path.relative_to(folder).as_posix() for path in all_labels)
        raise MelHuBERTError(
            f"{folder}: no label list fits --labels {labels!r}, found {names or 'none at all'}"
        )
    return Archive(
        _only(features, folder, "NAME.scp (features)", "give the folder of one alone as --kaldi"),
        _only(chosen, folder, f"NAME{LABEL_SUFFIX} (labels)", "choose with --labels PATTERN"),
        _only(sorted(folder.rglob("*.mean-var")), folder, "NAME.mean-var (statistics)", "remove the others"),
    )


def _only(paths: Sequence[Path], folder: Path, what: str, way_out: str) -> Path:
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise MelHuBERTError(f"{folder}: no {what} in it or below, expected the published archive, unpacked")
    names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
    raise MelHuBERTError(f"{folder}: several of {what} ({names}); {way_out}")


def read_scp(path: Path) -> dict[str, Location]:
    """Read a list of `key path:offset` lines; the files are looked for beside it.

    Raises:
        MelHuBERTError: a line reads otherwise, a key is given twice, or a file is not there or would have to
            be two files.
    """
    entries: dict[str, Location] = {}
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}  # bytes
    listed: dict[Path, str] = {}  # the path in the list that each file beside it was first found by
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as a list of utterances ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # Kaldi would run a command with a pipe, so nothing else that it allows here is accepted. Only
        # blanks of ASCII end a name, as in Kaldi.
        match = re.fullmatch(r"\s*(\S{1,500})\s+(.{1,1000}):([0-9]{1,19})\s*", line, re.ASCII)
        if match is None:
            raise MelHuBERTError(f"{path}, line {number}: {line[:80]!r} found, expected `key path:offset`")
        key, name, offset = match.groups()
        if key in entries:
            raise MelHuBERTError(f"{path}, line {number}: utterance {key} is listed twice")
        if name not in files:
            files[name] = path.parent / Path(name).name
            if not os.path.isfile(files[name]):  # which a name that cannot be one is not, either
                raise MelHuBERTError(f"{path}, line {number}: {files[name]} is not there (utterance {key})")
            # One of them would be read in the place of both.
            if os.path.normpath(first := listed.setdefault(files[name], name)) != os.path.normpath(name):
                raise MelHuBERTError(
                    f"{path}, line {number}: {name} and {first} are two files, but both are looked for as "
                    f"{files[name]} (utterance {key}); give them different names, in the list, too"
                )
            sizes[name] = files[name].stat().st_size
        if int(offset) >= sizes[name]:
            raise MelHuBERTError(
                f"{path}, line {number}: {files[name]} ends before byte {offset} (utterance {key}); is "
                "the archive complete?"
            )
        entries[key] = Location(files[name], int(offset))
    if not entries:
        raise MelHuBERTError(f"{path}: no utterances in it")
    return entries


def check_same_keys(matrices: dict[str, Location], lines: dict[str, Location], archive: Archive) -> None:
    """Check that both lists have the same utterances.

    Raises:
        MelHuBERTError: some are in one list only; the message names the first and says how many there are.
    """
    for here, there, path, other in (
        (matrices, lines, archive.features, archive.labels),
        (lines, matrices, archive.labels, archive.features),
    ):
        alone = [key for key in here if key not in there]
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise MelHuBERTError(f"utterance {alone[0]}{more}: in {path}, but not in {other}")


def read_mean_var(path: Path) -> FeatureStats:
    """Statistics of a .mean-var file, which holds the sums, the sums of squares, and the number of frames.

    Raises:
        MelHuBERTError: the file does not hold three such lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # Python's compiler comments on what is almost a number.
            total, squares = (np.array(ast.literal_eval(line), dtype=np.float64) for line in lines[:2])
        frames = int(float(lines[2]))
        if total.shape != (N_MELS,) or squares.shape != (N_MELS,):
            raise ValueError(f"{total.shape} and {squares.shape} figures")
        if frames < 1:
            raise ValueError(f"{frames} frames")
    except (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise MelHuBERTError(
            f"{path}: expected three lines, the sums of {N_MELS} bins, the sums of their squares (both as "
            f"[a, b, ...]) and the number of frames ({said(error)})"
        ) from None
    return FeatureSums(frames, total, squares).to_stats(str(path))


class ArkReader:
    """Reads matrices and lines of labels, and keeps their files open until the end of the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> ArkReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _at(self, key: str, location: Location) -> tuple[BinaryIO, str]:
        """The file, at the place, and what errors call the place.

        Raises:
            MelHuBERTError: the file cannot be opened.
        """
        where = f"utterance {key} ({location.path}, byte {location.offset})"
        if location.path not in self._files:
            try:
                self._files[location.path] = self._stack.enter_context(location.path.open("rb"))
            except OSError as error:
                raise MelHuBERTError(f"{where}: cannot be read ({error.strerror or error})") from None
        file = self._files[location.path]
        file.seek(location.offset)
        return file, where

    def matrix(self, key: str, location: Location) -> np.ndarray:
        """(F, 40) float32 frames of an utterance, as they stand in the archive.

        Raises:
            MelHuBERTError: what is there is no binary Kaldi matrix of 40 columns of finite numbers.
        """
        from kaldiio.matio import read_kaldi

        file, where = self._at(key, location)
        # kaldiio would also unpickle what calls itself a pickle, and a pickle can run code.
        if file.read(2) != b"\0B":
            raise MelHuBERTError(f"{where}: no binary Kaldi matrix there; is the archive complete?")
        _check_header(file, where)
        file.seek(location.offset)
        try:
            with np.errstate(all="ignore"):  # What overflows becomes infinite, which is refused below.
                matrix = np.asarray(read_kaldi(file), dtype=np.float32)
        except Exception as error:  # kaldiio raises AssertionError, struct.error, ValueError, ...
            raise MelHuBERTError(
                f"{where}: damaged matrix ({str(error) or type(error).__name__}); is the archive complete?"
            ) from None
        if not np.isfinite(matrix).all():
            raise MelHuBERTError(f"{where}: NaN or infinite values found")
        return matrix

    def labels(self, key: str, location: Location) -> np.ndarray:
        """(labels,) int64 cluster ids of an utterance.

        Raises:
            MelHuBERTError: there is something else than whole numbers in the line, or it begins amid one.
        """
        file, where = self._at(key, location)
        if location.offset:
            file.seek(location.offset - 1)
            if not file.read(1).isspace():
                raise MelHuBERTError(f"{where}: no line or number begins there; does the list fit the file?")
        line = file.readline(LONGEST_LINE)
        try:
            if re.fullmatch(rb"[-0-9\s]*", line) is None:
                raise ValueError
            return np.array([int(word) for word in line.split()], dtype=np.int64)
        except (ValueError, OverflowError):
            raise MelHuBERTError(
                f"{where}: {line[:40]!r} found, expected cluster ids, blank-separated"
            ) from None


def _check_header(file: BinaryIO, where: str) -> None:
    """Check the sizes that a matrix claims, so that no more is read than it can have.

    Raises:
        MelHuBERTError: it has another format, not 40 columns, no rows, or ends after the file.
    """
    begin = file.tell()
    head = file.read(20)
    kind = next((kind for kind in HEADERS if head.startswith(kind)), None)
    if kind is None or len(head) < 20:
        raise MelHuBERTError(
            f"{where}: damaged matrix ({head[:5]!r} found, expected a format as FM); is the archive complete?"
        )
    figure, column, before = HEADERS[kind]
    if before:  # the smallest value and the range, then both sizes
        rows, columns = struct.unpack_from("<ii", head, len(kind) + before)
        size = len(kind) + before + 8
    else:  # each size behind its number of bytes
        rows, columns = struct.unpack_from("<xixi", head, len(kind))
        size = len(kind) + 10
    if columns != N_MELS or rows < 1:
        raise MelHuBERTError(f"{where}: shape {(rows, columns)} found, expected (frames, {N_MELS})")
    if begin + size + rows * columns * figure + columns * column > os.fstat(file.fileno()).st_size:
        raise MelHuBERTError(
            f"{where}: damaged matrix ({rows} frames are more than the file holds); is the archive complete?"
        )
