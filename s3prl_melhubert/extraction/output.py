"""The files that hidden states are written to, and whether they can be written.

OUT.npz     one file, in which each utterance id names an array
OUT.npy     one array, of a single input
OUT         otherwise, a folder with a file OUT/UTTERANCE_ID.npy for each utterance

The formats of a single file stand in `FORMATS`.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.arrays import save_npy
from s3prl_melhubert.support.files import atomic_path, suffix_of
from s3prl_melhubert.support.locks import only_writer, only_writer_of
from s3prl_melhubert.support.writable import check_free, check_target, existing_folder, write_faults

COPY_BYTES = 2**20  # that are copied into a .npz at a time


class Writer(Protocol):
    """Writes utterances' arrays, by their ids."""

    def write(self, utterance: str, array: np.ndarray) -> None:
        """Write an array."""

    def write_pieces(self, utterance: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        """Write an array that comes in pieces, of which one is in memory at a time.

        Args:
            utterance: the utterance's id.
            shape: of the array: (T, C) or (layers, T, C).
            pieces: float32 (t, C) or (layers, t, C), T frames in all.
        """


def check_out(out: Path, inputs: int) -> None:
    """Refuse, before any work, an output that could not be written or would not be what its name says.

    Args:
        out: the file or folder to write.
        inputs: the number of inputs.

    Raises:
        MelHuBERTError: names the output and says what to give instead.
    """
    form = FORMATS.get(suffix_of(out))
    if form is not None:
        check_target(out)
    else:
        with write_faults(out):
            if out.exists() and not out.is_dir():
                names = ", ".join(f"NAME{suffix}" for suffix in FORMATS)
                raise MelHuBERTError(f"{out}: a file found; expected {names}, or a folder")
    if form is not None and form.of_one_input and inputs > 1:
        raise MelHuBERTError(
            f"{out}: a {suffix_of(out)} holds one array, but there are {inputs} inputs; "
            f"give {out.with_suffix('.npz')}, or a folder"
        )


def check_space(out: Path, figures: int) -> None:
    """Refuse to start what the disk cannot hold: 13 layers of 100 hours are 700 GB.

    Args:
        out: the file or folder to write.
        figures: the float32 figures that it will hold.

    Raises:
        MelHuBERTError: less than these are free.
    """
    check_free(out, 4 * figures, "choose fewer layers with --layer, fewer inputs, or another disk")


@contextmanager
def only_extraction(out: Path) -> Iterator[None]:
    """Be the only process that writes OUT while the block runs.

    The lock of a folder lies in it, so that a new one is made at once. If nothing is put into it, it goes.

    Raises:
        MelHuBERTError: another process is at work on OUT, or it cannot be written.
    """
    if suffix_of(out) in FORMATS:
        with only_writer_of(out):
            yield
        return
    above = existing_folder(out).absolute()
    with write_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with only_writer(out):
            yield
    finally:
        with suppress(OSError):  # Something is in it.
            for folder in (out.absolute(), *out.absolute().parents):
                if folder == above:
                    break
                folder.rmdir()


@contextmanager
def open_output(out: Path) -> Iterator[Writer]:
    """Give what writes utterances' arrays to OUT.

    A .npz is there when the block ends well, whole or not at all.

    Raises:
        MelHuBERTError: OUT cannot be written.
    """
    form = FORMATS.get(suffix_of(out))
    writer = _folder_writer(out) if form is None else form.open(out)
    with write_faults(out), writer as opened:
        yield opened


def copies_pieces(out: Path) -> bool:
    """Whether what is written in pieces is on the disk twice for a while."""
    form = FORMATS.get(suffix_of(out))
    return form is not None and form.copies_pieces


@contextmanager
def _npz_writer(out: Path) -> Iterator[Writer]:
    # np.savez would need all arrays in memory; a .npz is a zip file of .npy files, written here in turn.
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        yield _NpzWriter(out, archive)


class _NpzWriter:
    def __init__(self, out: Path, archive: zipfile.ZipFile):
        self.out, self.archive = out, archive

    def write(self, utterance: str, array: np.ndarray) -> None:
        with self.archive.open(f"{utterance}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, array, allow_pickle=False)

    def write_pieces(self, utterance: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        # An entry is written from its first byte to its last, but a window has some frames of every layer. So
        # a hidden file beside OUT gets the array first.
        with tempfile.TemporaryFile(dir=existing_folder(self.out), prefix=".melhubert-") as spool:
            _put_pieces(spool, shape, pieces)
            spool.seek(0)
            with self.archive.open(f"{utterance}.npy", "w", force_zip64=True) as entry:
                shutil.copyfileobj(spool, entry, COPY_BYTES)


def _npy_writer(out: Path) -> AbstractContextManager[Writer]:
    return nullcontext(_NpyWriter(lambda utterance: out))


def _folder_writer(out: Path) -> AbstractContextManager[Writer]:
    return nullcontext(_NpyWriter(lambda utterance: out / f"{utterance}.npy"))


class _NpyWriter:
    def __init__(self, path_of: Callable[[str], Path]):
        self.path_of = path_of

    def write(self, utterance: str, array: np.ndarray) -> None:
        with self._file(utterance) as temporary:
            save_npy(temporary, array)

    def write_pieces(self, utterance: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        with self._file(utterance) as temporary, temporary.open("wb") as file:
            _put_pieces(file, shape, pieces)

    @contextmanager
    def _file(self, utterance: str) -> Iterator[Path]:
        path = self.path_of(utterance)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            yield temporary


def _put_pieces(file: BinaryIO, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    """Write a .npy of (..., T, C) float32 figures from pieces (..., t, C), frames to their layer's place."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    begin, row = file.tell(), 4 * shape[-1]
    layer_bytes = shape[-2] * row
    frames = 0
    for piece in pieces:
        for layer, part in enumerate(piece if piece.ndim == 3 else piece[None]):
            file.seek(begin + layer * layer_bytes + frames * row)
            file.write(np.ascontiguousarray(part, dtype="<f4").data)
        frames += piece.shape[-2]


class Format(NamedTuple):
    """A file to which hidden states are written."""

    open: Callable[[Path], AbstractContextManager[Writer]]  # the file is there when the block ends well
    of_one_input: bool = False  # and not of several
    copies_pieces: bool = False  # an array that comes in pieces is on the disk twice for a while


FORMATS = {
    ".npz": Format(_npz_writer, copies_pieces=True),
    ".npy": Format(_npy_writer, of_one_input=True),
}
