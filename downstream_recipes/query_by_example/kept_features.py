"""One layer's features of the audio files of a split, in a folder: they need no memory, and outlive a kill.

features.jsonl    a line for each audio file: its name, the type of its numbers, [frames, features]
features.bin      the numbers, one file's after the other's
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

INDEX, NUMBERS = "features.jsonl", "features.bin"


class KeptFeatures:
    """The features that a folder holds.

    Args:
        folder: made where there is none. What a kill has left unfinished in it is removed.
        names: of the audio files whose features are to come, in this order. Where the folder begins with
            others, nothing of it is kept.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.index, self.numbers = folder / INDEX, folder / NUMBERS
        self.entries: list[tuple[str, str, list[int]]] = []
        self.bytes = 0
        there = self.numbers.stat().st_size if self.numbers.is_file() else 0
        end = 0  # of the lines that count
        for line in self.index.read_bytes().splitlines(keepends=True) if self.index.is_file() else []:
            try:
                name, kind, shape = json.loads(line)
                size = prod(shape) * np.dtype(kind).itemsize
            except (ValueError, TypeError):
                break
            expected = names[len(self.entries)] if len(self.entries) < len(names) else None
            if not line.endswith(b"\n") or name != expected or self.bytes + size > there:
                break
            self.entries.append((name, kind, shape))
            self.bytes, end = self.bytes + size, end + len(line)
        for path, length in ((self.index, end), (self.numbers, self.bytes)):
            path.touch()
            os.truncate(path, length)

    def __len__(self) -> int:
        """The number of audio files whose features are here."""
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Of the audio files, in their order."""
        return [name for name, _, _ in self.entries]

    def append(self, name: str, feature: Tensor) -> None:
        """Add a file's features, (frames, features) on the CPU."""
        array = np.ascontiguousarray(feature.numpy())
        entry = (name, array.dtype.str, list(array.shape))
        with self.numbers.open("ab") as file:
            file.write(array.data)
        # The line comes after the numbers, because it says that all of them are there.
        with self.index.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.entries.append(entry)
        self.bytes += array.nbytes

    def features(self) -> list[Tensor]:
        """The features of each file, read from the disk when they are used."""
        if not self.bytes:
            return [torch.from_numpy(np.zeros(shape, kind)) for _, kind, shape in self.entries]
        mapped = np.memmap(self.numbers, np.uint8, "c")  # a change would stay in memory
        found, start = [], 0
        for _, kind, shape in self.entries:
            end = start + prod(shape) * np.dtype(kind).itemsize
            found.append(torch.from_numpy(mapped[start:end].view(kind).reshape(shape)))
            start = end
        return found

    def remove(self) -> None:
        """Remove the files."""
        self.index.unlink(missing_ok=True)
        self.numbers.unlink(missing_ok=True)
