"""The utterances of a manifest as columns: a few arrays, in which nothing is a Python object for each row.

An utterance takes 36 bytes and its name. The arrays are memory-mapped where the columns lie on the disk (see
`stored`), so that all processes of a machine share them; else they are made of the CSV file, and shared by
the processes that are forked afterwards.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.manifest.rows import Row, read_rows
from s3prl_melhubert.pretrain.data.manifest.utterance import Utterance

BLOCK = 1 << 16  # rows that are made, or looked at, at a time
KNOWN_PATHS = 4096  # Path objects that are kept
NOTHING = -1  # a start that is not given

# The type of each column of numbers.
TYPES: dict[str, np.dtype[Any]] = {
    "features": np.dtype(np.int32),
    "labels": np.dtype(np.int32),
    "lengths": np.dtype(np.int32),
    "starts": np.dtype(np.int64),
    "label_starts": np.dtype(np.int64),
}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


@dataclass(frozen=True, eq=False)
class Texts:
    """Many short texts, one after the other in one array."""

    ends: np.ndarray  # (n,) int64: where each of them ends
    content: np.ndarray  # (bytes,) uint8, UTF-8

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Lay texts one after the other; each is let go before the next one is asked for."""
        content, ends = bytearray(), array("q")
        for text in texts:
            content += _encoded(text)
            ends.append(len(content))
        return cls(np.frombuffer(ends, np.int64), np.frombuffer(content, np.uint8))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of several, in their order."""
        shifts = np.cumsum([0, *(len(part.content) for part in parts[:-1])])
        ends = [part.ends + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(np.concatenate(ends), np.concatenate([part.content for part in parts]))

    def __len__(self) -> int:
        return len(self.ends)

    def encoded(self, begin: int, end: int) -> list[bytes]:
        """The bytes of the texts from `begin` to before `end`."""
        first = int(self.ends[begin - 1]) if begin else 0
        ends = (self.ends[begin:end] - first).tolist()
        content = self.content[first : first + ends[-1]].tobytes() if ends else b""
        return [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def between(self, begin: int, end: int) -> list[str]:
        """The texts from `begin` to before `end`."""
        return [text.decode("utf-8", errors="surrogateescape") for text in self.encoded(begin, end)]

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), BLOCK):
            yield from self.between(begin, begin + BLOCK)

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.between(number, number + 1)[0]


@dataclass(frozen=True, eq=False)
class Utterances(Sequence[Utterance]):
    """The utterances of a manifest, in its order; an `Utterance` is made when it is asked for."""

    folder: Path  # what paths are relative to
    features: np.ndarray  # (n,) int32: numbers of their files among `files`
    labels: np.ndarray  # (n,) int32: the same of their labels
    lengths: np.ndarray  # (n,) int32 frames of 10 ms
    starts: np.ndarray  # (n,) int64: first rows in the files of features; -1 in a file of its own
    label_starts: np.ndarray  # (n,) int64
    ids: Texts
    files: Texts  # every file that is named, in the order of the manifest
    sha256: str | None = None  # of the manifest, where the columns were held to it
    source: Path | None = None  # the manifest whose columns on the disk these are

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, each.name) for each in fields(self))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def frames(self) -> int:
        """How many frames of 10 ms all utterances have together."""
        return int(self.lengths.sum(dtype=np.int64))

    def path(self, number: int) -> Path:
        """The path of a file, by its number in the columns `features` and `labels`."""
        return self._path(int(number))

    @cached_property
    def _path(self) -> Callable[[int], Path]:
        # Rows of a shard share one Path object; of millions of shards, not all are kept.
        return lru_cache(KNOWN_PATHS)(lambda number: self.folder / self.files[number])

    @overload
    def __getitem__(self, number: int) -> Utterance: ...
    @overload
    def __getitem__(self, number: slice) -> list[Utterance]: ...

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = int(number)
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(number)
        start, label_start = int(self.starts[number]), int(self.label_starts[number])
        return Utterance(
            id=self.ids[number],
            features=self.path(self.features[number]),
            labels=self.path(self.labels[number]),
            length=int(self.lengths[number]),
            start=None if start == NOTHING else start,
            label_start=None if label_start == NOTHING else label_start,
        )

    def __iter__(self) -> Iterator[Utterance]:
        return (self[number] for number in range(len(self)))

    def named_lengths(self, rows: np.ndarray | None = None) -> Iterator[tuple[list[bytes], list[int]]]:
        """Yields ids, as the file has them, and lengths, block by block: of all rows, or of some in order."""
        for begin in range(0, len(self), BLOCK):
            end = min(begin + BLOCK, len(self))
            ids, lengths = self.ids.encoded(begin, end), self.lengths[begin:end].tolist()
            if rows is not None:
                first, last = np.searchsorted(rows, [begin, end])
                chosen = (rows[first:last] - begin).tolist()
                ids, lengths = [ids[i] for i in chosen], [lengths[i] for i in chosen]
            yield ids, lengths

    def forget_pages(self) -> None:
        """Give back the memory of what was read of the mapped columns; it is read again when it is needed."""
        for column in (*(getattr(self, name) for name in TYPES), self.ids.ends, self.ids.content):
            mapped = getattr(column.base, "_mmap", column.base)
            if isinstance(mapped, mmap.mmap):
                mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class ColumnBlock:
    """Some rows of a manifest as columns."""

    numbers: dict[str, np.ndarray]  # by the names of `TYPES`
    ids: Texts


def read_blocks(manifest: Path, files: dict[str, int]) -> Iterator[ColumnBlock]:
    """Yields the rows of a manifest as blocks of columns.

    Args:
        manifest: the CSV file.
        files: is filled with the names of files, and their numbers in the order of the manifest.

    Raises:
        MelHuBERTError: the file is not there, has no rows, or a row cannot be used; the message names it.
    """
    rows = read_rows(manifest)
    found = False
    while block := list(islice(rows, BLOCK)):
        found = True
        yield _block(block, files)
    if not found:
        raise MelHuBERTError(f"{manifest}: no utterances found, expected a row each")


def _block(rows: Sequence[Row], files: dict[str, int]) -> ColumnBlock:
    features, labels = [], []
    for row in rows:
        features.append(files.setdefault(row.features, len(files)))
        labels.append(files.setdefault(row.labels, len(files)))
    columns: dict[str, list[int]] = {
        "features": features,
        "labels": labels,
        "lengths": [row.length for row in rows],
        "starts": [NOTHING if row.start is None else row.start for row in rows],
        "label_starts": [NOTHING if row.label_start is None else row.label_start for row in rows],
    }
    numbers = {name: np.array(column, TYPES[name]) for name, column in columns.items()}
    return ColumnBlock(numbers, Texts.of([row.id for row in rows]))


def columns_of_csv(manifest: Path) -> Utterances:
    """Read a CSV manifest into columns in memory.

    Raises:
        MelHuBERTError: as `read_blocks`.
    """
    files: dict[str, int] = {}
    blocks = list(read_blocks(manifest, files))
    numbers: dict[str, Any] = {
        name: np.concatenate([block.numbers[name] for block in blocks]) for name in TYPES
    }
    ids = Texts.joined([block.ids for block in blocks])
    return Utterances(manifest.parent, **numbers, ids=ids, files=Texts.of(list(files)))
