"""`.npy` files: opened with the header held against the file's size, and written whole or row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class _Header(NamedTuple):
    """What the header of a `.npy` file says, which was held against the file's size."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int  # bytes before the first number


def open_npy(path: str | Path) -> np.ndarray:
    """A `.npy` file of numbers, memory-mapped and read-only: nothing of its content is read yet.

    Raises:
        MelHuBERTError: no such file, no array of numbers, or a header that claims another size than the
            file has (cut short, or doubled).
    """
    path = Path(path)
    shape, fortran, dtype, offset = _read_header(path)
    if math.prod(shape) == 0:  # nothing to map
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def npy_rows(path: str | Path) -> int:
    """How many rows a `.npy` file of numbers has, in half the time that it takes to map it.

    Raises:
        MelHuBERTError: as `open_npy`, or the file holds a single number.
    """
    shape = _read_header(Path(path)).shape
    if not shape:
        raise MelHuBERTError(f"{path}: a single number found, expected rows")
    return shape[0]


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            shape, fortran, dtype = _HEADERS[version](file)
            offset = file.tell()
            size = file.seek(0, 2)
    except Exception as error:  # numpy parses the header as Python, which fails in many ways
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise MelHuBERTError(f"{path}: cannot be read as a .npy array ({reason[:200]})") from None
    if dtype.kind not in "fiu":
        raise MelHuBERTError(f"{path}: an array of {dtype} found, expected numbers")
    expected = offset + math.prod(shape) * dtype.itemsize  # Python's integers do not overflow
    if size != expected or any(n < 0 for n in shape):
        raise MelHuBERTError(
            f"{path}: {size} bytes found, but its header of shape {shape} and type {dtype} means {expected}; "
            "it is cut short or damaged: make it or copy it again"
        )
    return _Header(shape, fortran, dtype, offset)


class _PlainWriter:
    """A file of which numpy knows nothing but how to write."""

    def __init__(self, file: BinaryIO):
        self.write = file.write


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write an array as `np.save` does, and fail when the disk does.

    numpy hands a file that it knows to the C library and does not look whether its last bytes arrive, so on
    a full disk `np.save` may leave an array that is cut short and say nothing.

    Raises:
        OSError: the disk is full, or another fault of it.
    """
    with path.open("wb") as file:
        np.save(_PlainWriter(file), array, allow_pickle=False)


class ArrayWriter:
    """Appends rows to a `.npy` file, so that an array never has to fit into memory.

    Args:
        path: the file; what it holds is written over.
        dtype: the type of the array.
        row_shape: the array's dimensions after the first.
    """

    def __init__(self, path: Path, dtype: Any, *row_shape: int):
        self._file = path.open("wb")
        self._dtype, self._row_shape = np.dtype(dtype), row_shape
        self.rows = 0
        self._write_header()
        self._data = self._file.tell()

    def _write_header(self) -> None:
        # numpy leaves room in a header, so that the first dimension may grow.
        description = np.lib.format.dtype_to_descr(self._dtype)
        shape = (self.rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": description, "fortran_order": False, "shape": shape}
        )

    def append(self, rows: np.ndarray) -> None:
        """Add (n, ...) rows."""
        # Not by `tofile`, which does not tell when the last bytes do not arrive (see `save_npy`).
        self._file.write(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8).data)
        self.rows += len(rows)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            if self._file.tell() != self._data:
                raise RuntimeError("this numpy writes .npy headers of changing size")
