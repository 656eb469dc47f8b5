"""What a corpus is, whatever folder it is in: a hash of what was checked of it.

An experiment is of a corpus, not of a path: its corpus may be moved, and another corpus may take its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def content_of(roots: str | Path | Sequence[str | Path], *found: Any) -> str:
    """Hash what a check has found: names and sizes of files, and whatever belongs to them.

    The bytes of audio are not read; the check has opened every file, and lengths and sizes stand for them.

    Args:
        roots: the corpus' folder, or several; a file counts by its path below one of them, or by its name.
        found: dataclasses, mappings, sequences, sets, paths of files, strings and numbers.

    Returns:
        A SHA-256.
    """
    folders = [roots] if isinstance(roots, str | Path) else roots
    absolute = [Path(folder).expanduser().absolute() for folder in folders]
    digest = hashlib.sha256()
    for line in _lines(found, absolute):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _lines(value: Any, roots: Sequence[Path]) -> Iterator[str]:
    """Yield what a value holds as lines, which are equal where the values are."""
    if isinstance(value, Path):
        path = value.expanduser().absolute()
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        yield f"{path.relative_to(root).as_posix()} {path.stat().st_size}"
    elif is_dataclass(value):
        for field in fields(value):
            yield from _lines(getattr(value, field.name), roots)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield f"{key}:"
            yield from _lines(value[key], roots)
    elif isinstance(value, Collection) and not isinstance(value, str):
        yield f"{len(value)}:"
        for each in sorted(value) if isinstance(value, set | frozenset) else value:
            yield from _lines(each, roots)
    else:
        yield repr(value)
