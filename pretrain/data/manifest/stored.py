"""The columns of a manifest on the disk, which are opened instead of the CSV file.

    manifest.csv                    the truth: which utterances there are
    columns/                        made of it, beside it, and may be removed at any time
      features.npy, labels.npy      int32: the number of each utterance's file in files.npy
      lengths.npy                   int32: frames of 10 ms
      starts.npy, label_starts.npy  int64: first rows in those files, -1 where the CSV has none
      ids.npy, id_ends.npy          the names, one after the other (UTF-8), and where each ends
      files.npy, file_ends.npy      the paths of files, as the CSV has them
      columns.json                  of which manifest these are; it is written last

They are plain NumPy files, not Arrow's: every column is one stretch that NumPy maps as it is, which is all
that a plan or a reader needs, and the package reads and checks such files anyway. pyarrow would do the same,
with 170 MB of libraries that nothing else here uses.

Columns are never believed for their age. `columns.json` has the SHA-256 and the size of the CSV file that
they were made of, and the time of `columns.json` is set to the moment at which that file was last changed
(its ctime, which no program can set). If size and moment agree, so do the contents; if not, the file is
hashed, as it is after a copy.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.pretrain.data.manifest.columns import (
    NOTHING,
    TYPES,
    Texts,
    Utterances,
    columns_of_csv,
    read_blocks,
)
from s3prl_melhubert.pretrain.data.manifest.rows import MANIFEST
from s3prl_melhubert.support.arrays import ArrayWriter, open_npy
from s3prl_melhubert.support.files import sha256_of, write_json
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.support.writable import write_faults

COLUMNS = "columns"  # the folder, beside manifest.csv; beside another CSV file, NAME.columns
ABOUT = "columns.json"
VERSION = 1
TEXTS = {"ids": "id_ends", "files": "file_ends"}
MANY_ROWS = 1_000_000  # of a CSV file without columns; then a word is said


class MappedUtterances(Utterances):
    """Utterances whose columns are mapped; a process that is started anew maps them itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return read_manifest, (self.source,)


def columns_folder(manifest: Path) -> Path:
    """Where the columns of a manifest lie, if there are any."""
    return manifest.with_name(COLUMNS if manifest.name == MANIFEST else f"{manifest.stem}.{COLUMNS}")


def read_manifest(path: str | Path) -> Utterances:
    """Open a manifest: its columns if they are there and are of this file, else the CSV file itself.

    Raises:
        MelHuBERTError: the file is not there, columns are missing, or a row cannot be used; the message
            names the line.
    """
    path = Path(path)
    opened, fault = _open_columns(path)
    if opened is not None:
        return opened
    if fault:
        warnings.warn(
            f"{columns_folder(path)}: {fault}; {path.name} itself is read, which takes longer "
            f"(`melhubert manifest {set_of(path)} --columns` makes the columns anew)",
            MelHuBERTWarning,
            stacklevel=2,
        )
    utterances = columns_of_csv(path)
    if not fault and len(utterances) >= MANY_ROWS:
        warnings.warn(
            f"{path}: {len(utterances)} rows, read by each process; `melhubert manifest {set_of(path)} "
            "--columns` writes columns that all of them share, and that open at once",
            MelHuBERTWarning,
            stacklevel=2,
        )
    return utterances


def set_of(manifest: Path) -> Path:
    """What a command calls the set of a manifest: its folder, or a list by its own name."""
    return manifest.parent if manifest.name == MANIFEST else manifest


def columns_fault(manifest: Path) -> str | None:
    """What is wrong with the columns of a manifest, held against every row of it; None if nothing is.

    Raises:
        MelHuBERTError: the manifest itself cannot be read.
    """
    if not columns_folder(manifest).is_dir():
        return None
    opened, fault = _open_columns(manifest)
    if opened is None:
        return fault or f"without {ABOUT}: they were not finished"
    files: dict[str, int] = {}
    begin = 0
    for block in read_blocks(manifest, files):
        end = begin + len(block.ids)
        same = opened.ids.encoded(begin, min(end, len(opened))) == block.ids.encoded(0, len(block.ids))
        if not same or any(
            not np.array_equal(getattr(opened, name)[begin:end], column)
            for name, column in block.numbers.items()
        ):
            return f"rows {begin + 1} to {end} are not those of {manifest.name}"
        begin = end
    if begin != len(opened) or list(files) != list(opened.files):
        return f"its rows or files are not those of {manifest.name}"
    return None


def have_columns(manifest: Path) -> Utterances:
    """The columns of a manifest, which are made if they are not there or not of this file."""
    opened, _ = _open_columns(manifest)
    return opened or write_columns(manifest)


def write_columns(manifest: Path) -> Utterances:
    """Make the columns of a manifest, beside it; a reader sees all of them or none.

    Raises:
        MelHuBERTError: the manifest cannot be used, or the folder cannot be written.
    """
    folder = columns_folder(manifest)
    paths = {name: folder / f"{name}.npy" for name in (*TYPES, *TEXTS, *TEXTS.values())}
    with write_faults(folder):
        folder.mkdir(exist_ok=True)
        for path in (folder / ABOUT, *paths.values()):  # new files: others may have these mapped
            if path.exists():
                path.unlink()
    before = manifest.stat()
    about = _write_arrays(manifest, paths)
    for path in paths.values():  # before columns.json, which says that they are there
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
    about |= {"manifest_sha256": sha256_of(manifest), "manifest_bytes": before.st_size}
    if _moment(manifest.stat()) != _moment(before):
        raise MelHuBERTError(f"{manifest}: was changed while its columns were made; give the command again")
    write_json(folder / ABOUT, about, indent=1)
    _note_moment(folder / ABOUT, before)
    opened, fault = _open_columns(manifest)
    if opened is None:
        raise MelHuBERTError(f"{folder}: {fault or 'was removed'}; give the command again")
    return opened


def _write_arrays(manifest: Path, paths: Mapping[str, Path]) -> dict[str, Any]:
    """Write the columns block by block; what `columns.json` says of them."""
    files: dict[str, int] = {}
    rows = last = 0
    with ExitStack() as stack:
        dtypes = {**TYPES, "ids": np.dtype(np.uint8), "id_ends": np.dtype(np.int64)}
        writers = {
            name: stack.enter_context(ArrayWriter(paths[name], dtype)) for name, dtype in dtypes.items()
        }
        bar = stack.enter_context(progress(None, "columns", "utterances"))
        for block in read_blocks(manifest, files):
            for name, column in block.numbers.items():
                writers[name].append(column)
            writers["ids"].append(block.ids.content)
            writers["id_ends"].append(block.ids.ends + last)
            last += len(block.ids.content)
            rows += len(block.ids)
            bar.update(len(block.ids))
    names = Texts.of(list(files))
    for name, column in (("files", names.content), ("file_ends", names.ends)):
        with ArrayWriter(paths[name], column.dtype) as writer:
            writer.append(column)
    return {"version": VERSION, "utterances": rows, "files": len(files)}


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_ctime_ns, status.st_ino


def _note_moment(about: Path, manifest: os.stat_result) -> None:
    with suppress(OSError):  # It belongs to somebody else; then the manifest is hashed each time.
        os.utime(about, ns=(manifest.st_ctime_ns, manifest.st_ctime_ns))


def _is_of(about: Path, content: dict[str, Any], manifest: Path) -> bool:
    """Whether the columns were made of this file, as it is now."""
    status, noted = manifest.stat(), about.stat().st_mtime_ns
    if status.st_size != content["manifest_bytes"]:
        return False
    # A file system that keeps whole seconds cannot tell a change within one.
    exact = status.st_ctime_ns % 1_000_000_000 != 0
    if exact and status.st_ctime_ns == noted:
        return True
    same = sha256_of(manifest) == content["manifest_sha256"] and _moment(manifest.stat()) == _moment(status)
    if same:
        _note_moment(about, status)
    return same


def _open_columns(manifest: Path) -> tuple[Utterances | None, str]:
    """The columns of a manifest, mapped; or None, with what is wrong with them if they are there."""
    folder = columns_folder(manifest)
    about = folder / ABOUT
    try:
        text = about.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None, ""  # none, or not all of them yet
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            return None, f"of another version ({content['version']})"
        if not _is_of(about, content, manifest):
            return None, f"made of another {manifest.name} than the one that is there"
        # As plain arrays, because numpy is slow in taking a number out of a `memmap`.
        names = (*TYPES, *TEXTS.keys(), *TEXTS.values())
        arrays = {name: np.asarray(open_npy(folder / f"{name}.npy")) for name in names}
        if about.read_text(encoding="utf-8") != text:
            raise ValueError("they were written anew in this moment")
        return _checked(manifest, content, arrays), ""
    except (MelHuBERTError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"damaged ({' '.join(str(error).split())[:200]})"


def _checked(manifest: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> Utterances:
    """Columns that fit each other.

    Raises:
        ValueError: they do not.
    """
    rows, files = content["utterances"], content["files"]
    for name, array in arrays.items():
        dtype = TYPES.get(name, np.dtype(np.uint8 if name in TEXTS else np.int64))
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"{name}.npy: {array.dtype} of shape {array.shape} found")
    for names, count in (((*TYPES, "id_ends"), rows), (("file_ends",), files)):
        for name in names:
            if len(arrays[name]) != count or count < 1:
                raise ValueError(f"{name}.npy: {len(arrays[name])} entries found, {ABOUT} says {count}")
    for text, ends in TEXTS.items():
        if arrays[ends][-1] != len(arrays[text]):
            raise ValueError(
                f"{text}.npy: {len(arrays[text])} bytes found, {ends}.npy says {arrays[ends][-1]}"
            )
    least = {name: int(arrays[name].min()) for name in TYPES}
    if max(int(arrays[name].max()) for name in ("features", "labels")) >= files or any(
        value < {"lengths": 1, "starts": NOTHING, "label_starts": NOTHING}.get(name, 0)
        for name, value in least.items()
    ):
        raise ValueError("numbers out of range")
    return MappedUtterances(
        manifest.parent,
        features=arrays["features"],
        labels=arrays["labels"],
        lengths=arrays["lengths"],
        starts=arrays["starts"],
        label_starts=arrays["label_starts"],
        ids=Texts(arrays["id_ends"], arrays["ids"]),
        files=Texts(arrays["file_ends"], arrays["files"]),
        sha256=content["manifest_sha256"],
        source=manifest,
    )
