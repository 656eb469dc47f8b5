"""The files that hidden states are written to, and whether they can be written.

OUT.npz     one file, in which each utterance id names an array
OUT.npy     one array, of a single input
OUT         otherwise, a folder with a file OUT/UTTERANCE_ID.npy for each utterance
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.arrays import save_npy
from s3prl_melhubert.support.files import atomic_path, remove_abandoned


def check_out(out: Path, inputs: int) -> None:
    """Refuse, before any work, an output that could not be written or would not be what its name says.

    Args:
        out: the file or folder to write.
        inputs: the number of inputs.

    Raises:
        MelHuBERTError: names the output and says what to give instead.
    """
    if "\0" in str(out):
        raise MelHuBERTError(f"{out}: a name cannot hold a NUL character")
    try:
        _check_kind(out, inputs)
    except OSError as error:  # The name is too long, for example.
        raise MelHuBERTError(f"{out}: cannot be written ({error.strerror or error})") from None


def _check_kind(out: Path, inputs: int) -> None:
    if out.suffix in (".npz", ".npy"):
        if out.is_dir():
            raise MelHuBERTError(f"{out}: is a folder, expected a file to write")
        if not out.parent.is_dir():
            raise MelHuBERTError(f"{out}: no such folder {out.parent}; make it first")
        if out.suffix == ".npy" and inputs > 1:
            raise MelHuBERTError(
                f"{out}: a .npy holds one array, but there are {inputs} inputs; "
                f"give {out.with_suffix('.npz')}, or a folder"
            )
    elif out.exists() and not out.is_dir():
        raise MelHuBERTError(f"{out}: a file found; expected NAME.npz, NAME.npy, or a folder")


def check_space(out: Path, figures: int) -> None:
    """Refuse to start what the disk cannot hold: 13 layers of 100 hours are 700 GB.

    Args:
        out: the file or folder to write.
        figures: the float32 figures that it will hold.

    Raises:
        MelHuBERTError: less than these are free.
    """
    needed = 4 * figures
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise MelHuBERTError(
            f"{out}: {needed / 1e9:.1f} GB will be needed and {free / 1e9:.1f} GB are free; choose fewer "
            "layers with --layer, fewer inputs, or another disk"
        )


@contextmanager
def open_output(out: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Give a function that writes an utterance's array, by its id, to OUT.

    A .npz is there when the block ends well, whole or not at all.

    Raises:
        MelHuBERTError: OUT cannot be written.
    """
    try:
        swept: set[Path] = set()
        arrays = nullcontext(partial(_write_npy, out, swept))
        with _npz_writer(out) if out.suffix == ".npz" else arrays as write:
            yield write
    except OSError as error:
        raise MelHuBERTError(f"{out}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _npz_writer(out: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    # np.savez would need all arrays in memory; a .npz is a zip file of .npy files, written here in turn.
    remove_abandoned(out.parent, out.suffix)
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def write(utterance: str, array: np.ndarray) -> None:
            with archive.open(f"{utterance}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)

        yield write


def _write_npy(out: Path, swept: set[Path], utterance: str, array: np.ndarray) -> None:
    path = out if out.suffix == ".npy" else out / f"{utterance}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in swept:  # Once for each folder, because it may hold many files.
        remove_abandoned(path.parent, path.suffix)
        swept.add(path.parent)
    with atomic_path(path) as temporary:
        save_npy(temporary, array)
