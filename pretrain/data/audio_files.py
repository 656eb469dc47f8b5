"""The audio files that a set is made of, their names, and how they are cut into shards.

They lie in LibriSpeech's layout (a folder per subset, and in it speakers, chapters and FLAC files) or in any
other tree of folders.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from itertools import tee
from pathlib import Path, PurePath

import numpy as np

from s3prl_melhubert.audio import each_audio
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.manifest.columns import Texts
from s3prl_melhubert.support.files import size_and_time
from s3prl_melhubert.support.progress import progress

# A shard ends after so many files (26 minutes of LibriSpeech) or so many bytes of them (an hour of FLAC),
# whichever comes first: otherwise a shard of hour-long recordings would be a hundred hours.
SHARD_FILES = 128
SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Roots:
    """The folders, and files, that were given to be searched."""

    given: Sequence[Path]
    above: str  # the nearest folder that all of these are in, or the one that was given

    @classmethod
    def of(cls, given: Sequence[Path]) -> Roots:
        """Roots as they are on the disk now."""
        folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in given]
        return cls(given, os.path.commonpath(folders))


# Gives files their names, by their paths and the roots that they were found in.
Naming = Callable[[Iterable[str], Roots], Iterator[str]]


@dataclass(frozen=True, eq=False)
class AudioFiles:
    """Audio files in a fixed order, and what tells them apart.

    Nothing of it is a Python object for each file: for millions of files, these would take many GB.
    """

    texts: Texts  # the path of each file
    roots: Roots  # where they were found
    naming: Naming  # how each gets its name
    sizes: np.ndarray  # (n,) int64 bytes of each file
    times: np.ndarray  # (n,) int64: when each was last written (ns); what is written over may keep its size

    def __len__(self) -> int:
        return len(self.texts)

    def paths(self, part: slice) -> list[Path]:
        """The absolute paths of consecutive files."""
        return [Path(text).absolute() for text in self.texts.between(part.start, part.stop)]

    def ids(self, part: slice) -> list[str]:
        """The names of consecutive files; all are different."""
        return list(self.naming(self.texts.between(part.start, part.stop), self.roots))

    @property
    def digest(self) -> str:
        """A hash of the files' paths and sizes, by which earlier versions told what a set was made of."""
        return _digest_of(self.texts, self.sizes)

    @property
    def digest_of_places(self) -> str:
        """A hash of the files' names, places and sizes: the same wherever their folders lie."""
        ids, places = self.naming(self.texts, self.roots), _places(self.texts, self.roots)
        return _digest_of(ids, places, self.sizes)

    def found(self, part: slice) -> list[tuple[int, int]]:
        """The sizes and times of consecutive files."""
        return list(zip(self.sizes[part].tolist(), self.times[part].tolist(), strict=True))

    def shards(self, shard_files: int) -> Iterator[slice]:
        """Yields the consecutive files that make up each shard. Their sizes decide; none is opened."""
        start = size = 0
        for i, more in enumerate(map(int, self.sizes)):
            if i > start and (i - start == shard_files or size + more > SHARD_BYTES):
                yield slice(start, i)
                start, size = i, 0
            size += more
        if len(self):
            yield slice(start, len(self))


def _digest_of(*columns: Iterable[object]) -> str:
    content = sha256()
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
        MelHuBERTError: a folder or a subset is not there (the message says what is), holds no audio, or is
            given twice.
    """
    given = [Path(folder).expanduser() for folder in folders]
    searched = [_subset(root, name) for root in given for name in subsets] if subsets else given
    sizes, times = array("q"), array("q")

    def found() -> Iterator[str]:
        for path in each_audio(searched):
            size, time = size_and_time(path)
            sizes.append(size)
            times.append(time)
            bar.update()
            yield str(path)

    with progress(None, "looking for audio", "files", delay=2) as bar:
        texts = Texts.of(found())
    _refuse_repeated(texts)
    roots = Roots.of(given)
    naming = next(each for each in NAMINGS if _tells_apart(each, texts, roots))
    return AudioFiles(texts, roots, naming, np.frombuffer(sizes, np.int64), np.frombuffer(times, np.int64))


def _subset(root: Path, name: str) -> Path:
    for folder in (root / name, root / "LibriSpeech" / name):
        if folder.is_dir():
            return folder
    if not root.is_dir():
        raise MelHuBERTError(f"{root}: no such folder, expected one with the subset {name} in it")
    base = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    there = sorted(path.name for path in base.iterdir() if path.is_dir())
    raise MelHuBERTError(f"{base}: no subset {name} here, found {', '.join(there) or 'no folders'}")


# Names ---------------------------------------------------------------------------------------------------


def _stems(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    return map(_without_suffix, map(os.path.basename, texts))


def _stems_below_roots(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    return map(_without_suffix, _below(texts, roots))


def _below_all(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    return (os.path.relpath(text, roots.above) for text in texts)


def _whole(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    return iter(texts)


# The name of a file is its own without the suffix (in LibriSpeech, the utterance id) if all of these are
# different. If they are not, it is the path below the root, without the suffix; and if some of these are the
# same, too, the path below the folder that all roots are in, with the suffix. So files keep their names where
# their folders are moved. By links, even two such paths may be the same, and the whole path is the name.
NAMINGS: Sequence[Naming] = (_stems, _stems_below_roots, _below_all, _whole)


def _without_suffix(text: str) -> str:
    """A path without the suffix of its last part: what pathlib gives, in a tenth of its time."""
    folder, slash, name = text.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}" if stem and suffix else text


def _below(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    """The path of each file below the folder that it was found in; of one that was given, below all roots."""

    @lru_cache(maxsize=1024)
    def before(folder: str) -> str:
        """What stands before the names of the files in a folder."""
        path = PurePath(folder)
        below = next((path.relative_to(root) for root in roots.given if path.is_relative_to(root)), None)
        return str((below or PurePath(os.path.relpath(path, roots.above))) / "name").removesuffix("name")

    for text in texts:
        folder, name = os.path.split(text)
        yield before(folder) + name


def _places(texts: Iterable[str], roots: Roots) -> Iterator[str]:
    """The path of each file below the folder that it was found in; the name of a file that was given."""
    given = {str(root) for root in roots.given}
    texts, again = tee(texts)
    for text, below in zip(texts, _below(again, roots), strict=True):
        yield os.path.basename(text) if text in given else below


def _tells_apart(naming: Naming, texts: Texts, roots: Roots) -> bool:
    """Whether a way to name files gives each another name."""
    pairs = _alike(naming(texts, roots))
    names = (naming([texts[i] for i in pair], roots) for pair in pairs)
    return not any(one == other for one, other in names)


def _refuse_repeated(texts: Texts) -> None:
    """Raise a MelHuBERTError if a file is there twice, with its path written in one way or in two.

    A link to a file is another file.
    """
    for pair in _alike(map(os.path.abspath, texts)):
        first, second = (texts[i] for i in pair)
        # Behind a link, `link/../speech` is elsewhere than it reads, so the files are compared, too.
        if os.path.abspath(first) == os.path.abspath(second) and _is_same(first, second):
            also = "" if first == second else f", once as {first}"
            raise MelHuBERTError(f"{second}: found twice{also}; is a folder given twice, or inside another?")


def _alike(texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yields the numbers of texts that have the hash of an earlier one, in order, behind that one's number.

    Of a hash, 8 bytes are kept: a set of the texts themselves would take many GB of millions of them.
    """
    content = bytearray()
    for text in texts:
        content += blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    hashes = np.frombuffer(content, np.uint64)
    order = hashes.argsort(kind="stable")
    repeated = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    earlier, later = order[repeated], order[repeated + 1]
    return ((int(earlier[i]), int(later[i])) for i in later.argsort())


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # A link that leads nowhere has nothing but its path.
        return True
