"""The audio files that a set is made of, their names, and how they are cut into shards.

They lie in LibriSpeech's layout (a folder per subset, and in it speakers, chapters and FLAC files) or in any
other tree of folders.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.audio import find_audio
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import size_and_time

# A shard ends after so many files (26 minutes of LibriSpeech) or so many bytes of them (an hour of FLAC),
# whichever comes first: otherwise a shard of hour-long recordings would be a hundred hours.
SHARD_FILES = 128
SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class AudioFiles:
    """Audio files in a fixed order, and what tells them apart."""

    paths: Sequence[Path]
    ids: Sequence[str]  # the name of each file; all are different
    places: Sequence[str]  # the path of each file below the folder that it was found in
    sizes: Sequence[int]  # bytes of each file
    times: Sequence[int]  # when each was last written (ns); what is written over may keep its size

    @property
    def digest(self) -> str:
        """A hash of the files' paths and sizes, by which earlier versions told what a set was made of."""
        return _digest_of(self.paths, self.sizes)

    @property
    def digest_of_places(self) -> str:
        """A hash of the files' names, places and sizes: the same wherever their folders lie."""
        return _digest_of(self.ids, self.places, self.sizes)

    def shards(self, shard_files: int) -> Iterator[slice]:
        """Yields the consecutive files that make up each shard. Their sizes decide; none is opened."""
        start = size = 0
        for i, more in enumerate(self.sizes):
            if i > start and (i - start == shard_files or size + more > SHARD_BYTES):
                yield slice(start, i)
                start, size = i, 0
            size += more
        if self.paths:
            yield slice(start, len(self.paths))


def _digest_of(*columns: Sequence[object]) -> str:
    content = hashlib.sha256()
    for row in zip(*columns, strict=True):
        content.update(("\t".join(map(str, row)) + "\n").encode("utf-8", "surrogateescape"))
    return content.hexdigest()[:16]


def find_audio_files(folders: Sequence[str | Path], subsets: Sequence[str] = ()) -> AudioFiles:
    """Find the audio files of some folders.

    Args:
        folders: trees of audio, or files.
        subsets: folders in them that are to be taken, such as `train-clean-360`. They are also looked for
            in a folder `LibriSpeech`, as the downloaded archives unpack. Without them, everything is taken.

    Raises:
        MelHuBERTError: a folder or a subset is not there (the message says what is), or holds no audio.
    """
    roots = [Path(folder).expanduser() for folder in folders]
    searched = [_subset(root, name) for root in roots for name in subsets] if subsets else roots
    paths = find_audio(searched)
    names = name_files(paths, roots)
    found = [size_and_time(path) for path in paths]
    places = [path.name if path in roots else str(_below(path, roots)) for path in paths]
    return AudioFiles(paths, names, places, [size for size, _ in found], [time for _, time in found])


def _subset(root: Path, name: str) -> Path:
    for folder in (root / name, root / "LibriSpeech" / name):
        if folder.is_dir():
            return folder
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected one with the subset {name} in it")
    base = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    there = sorted(path.name for path in base.iterdir() if path.is_dir())
    raise MelHuBERTError(f"{base}: no subset {name} here, found {', '.join(there) or 'no folders'}")


def name_files(paths: Sequence[Path], roots: Sequence[Path]) -> list[str]:
    """Give each file a name of its own.

    The name is that of the file without its suffix (in LibriSpeech, the utterance id) if all of these are
    different. If they are not, it is the path below the root, without the suffix; and if some of these are
    the same, too, it is the whole path.

    Raises:
        MelHuBERTError: one file is there twice. A link to it is another file.
    """
    _refuse_repeated(paths)
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    below = [_below(path, roots).with_suffix("").as_posix() for path in paths]
    return below if len(set(below)) == len(below) else [path.as_posix() for path in paths]


def _refuse_repeated(paths: Sequence[Path]) -> None:
    """Raise a MelHuBERTError if a file is there twice, with its path written in one way or in two."""
    first: dict[str, Path] = {}
    for path in paths:
        place = os.path.abspath(path)
        other = first.get(place)
        # Behind a link, `link/../speech` is elsewhere than it reads, so the files are compared, too.
        if other is not None and _is_same(other, path):
            also = "" if str(other) == str(path) else f", once as {other}"
            raise MelHuBERTError(f"{path}: found twice{also}; is a folder given twice, or inside another?")
        first[place] = path


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # A link that leads nowhere has nothing but its path.
        return True


def _below(path: Path, roots: Sequence[Path]) -> Path:
    for root in roots:
        if path.is_relative_to(root) and path != root:
            return path.relative_to(root)
    return path
