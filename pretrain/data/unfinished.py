"""A folder that takes hours to fill, and what is kept of an interrupted command so that it can continue.

While it works, a command keeps everything in `OUT/unfinished/`: what it was asked for (`recipe.json`), and
the results of its parts. Finished parts move from there to their places in OUT by renaming, so a kill leaves
nothing half-written outside `unfinished/`. The last thing that a command does is to remove that folder, if
nobody else has put anything into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import (
    DATASET,
    KMEANS,
    REJECTED,
    DatasetInfo,
    read_dataset_info,
    write_dataset_info,
)
from s3prl_melhubert.pretrain.data.integrity import SUMS, FileProof, set_files, write_sums
from s3prl_melhubert.pretrain.data.manifest import (
    FEATURES,
    LABELS,
    MANIFEST,
    Utterance,
    have_columns,
    write_manifest,
)
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.arrays import save_npy
from s3prl_melhubert.support.files import TEMPORARY, atomic_path, write_json
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.made_from import Change, changes
from s3prl_melhubert.support.writable import write_faults

FOLDER = "unfinished"
RECIPE = "recipe.json"
LOCK = "lock"
FOLDERS = "folders"  # the key of `made_from` for the folders of the files
RAW = "log-mel"  # the folder in unfinished/ for frames that are not normalized yet
# What commands write into unfinished/ and these folders of it. Nothing else in it is ever removed.
_FOLDERS = (RAW, FEATURES, LABELS)
_NAMES = r"\d{5,}\.npy|\d{5,}\.json|recipe\.json|" + "|".join(
    re.escape(name) for name in (KMEANS, REJECTED, MANIFEST, SUMS, DATASET)
)
_WRITTEN = re.compile(_NAMES)
# The hidden names of what was being written, as `atomic_path` has them and as it had them in version 0.1.0.
_TEMPORARY = re.compile(rf"{TEMPORARY.pattern}|\.({_NAMES})\.\w{{8}}(\.\w+)?")
# What may be given anew while there are no labels yet: the frames do not depend on these.
CORRECTABLE = {"clusters", "seed", "sample_frames", "kmeans", "stats"}

# What of a recipe is the same wherever the files lie, and what depends on their paths.
CONTENT_OF_FILES = "names and sizes of the files"
_FILES_BY_PATH = ("audio", "digest of the files")
# What of a recipe are folders, and how a text ends that has the hash of what it names.
_PATHS = ("data", "kaldi")
_LISTS = ("audio", "subset")  # of folders, whose files a digest of their paths tells apart
_DIGEST = re.compile(r" \(([0-9a-f]{16})\)$")


@dataclass(frozen=True)
class Inputs:
    """What tells the files that a command reads apart from others, each by what it is called in messages.

    A command that was interrupted continues only with the same content and times, because otherwise its parts
    would be of different files. A complete set of other content is refused. Of other times or folders, a line
    is printed: the files may be copies of those that the set was made of.
    """

    content: Mapping[str, str] = field(default_factory=dict)  # hashes of what is in the files
    times: Mapping[str, str] = field(default_factory=dict)  # hashes of when they were last written
    folders: Sequence[str | Path] = ()  # which hold the files

    @property
    def noted(self) -> dict[str, Any]:
        """What `dataset.yaml` keeps of these as `made_from`."""
        noted: dict[str, Any] = {**self.content, **self.times}
        if self.folders:
            noted[FOLDERS] = [os.path.abspath(Path(folder).expanduser()) for folder in self.folders]
        return noted


class Unfinished:
    """The `unfinished/` folder of an output folder, held by one process."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out / FOLDER

    def publish(self, name: str) -> None:
        """Move `unfinished/NAME` to `OUT/NAME`, over what may be there.

        What proves a file of a shard is noted before, so that `complete` need not read it: whoever wrote it
        still has it in memory, and many workers may write, where one process completes the set.
        """
        if name.startswith((f"{FEATURES}/", f"{LABELS}/")):
            proof = FileProof.of(self.folder / name, name)
            with atomic_path(self._note(name), lasting=False) as temporary:
                temporary.write_text(json.dumps(asdict(proof)))
        os.replace(self.folder / name, self.out / name)

    def _note(self, name: str) -> Path:
        return (self.folder / name).with_suffix(".json")

    def _noted(self, name: str) -> FileProof | None:
        """What was noted of a file; None where nothing was, or not even that survived a loss of power."""
        try:
            return FileProof(**json.loads(self._note(name).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def publish_array(self, name: str, array: np.ndarray) -> None:
        """Write an array to `OUT/NAME`, by way of `unfinished/NAME`, so that no half of it is ever there."""
        with atomic_path(self.folder / name) as temporary:
            save_npy(temporary, array)
        self.publish(name)

    def make_folders(self, *names: str) -> None:
        """Make `OUT/NAME/` and `unfinished/NAME/`, for files that are published from one to the other."""
        for name in names:
            (self.out / name).mkdir(exist_ok=True)
            self.subfolder(name)

    def is_foreign(self) -> bool:
        """Whether there is an `unfinished/` that somebody else made: it has no recipe, but something else."""
        if self.folder.is_symlink():
            return True
        if not self.folder.is_dir() or (self.folder / RECIPE).is_file():
            return False
        return any(
            path.name != LOCK and not _TEMPORARY.fullmatch(path.name) for path in self.folder.iterdir()
        )

    def subfolder(self, name: str) -> Path:
        """Make `unfinished/NAME/`, and return its path.

        Raises:
            MelHuBERTError: there is a link of this name: files would be written and removed elsewhere.
        """
        path = self.folder / name
        if path.is_symlink():
            raise MelHuBERTError(f"{path}: is a link, which this command did not make; remove it")
        path.mkdir(exist_ok=True)
        return path

    def complete(self, utterances: Iterable[Utterance], info: DatasetInfo) -> None:
        """Write what describes the set, `dataset.yaml` last, because it says that all is there.

        Args:
            utterances: the rows of the manifest; their paths are relative to OUT.
            info: what else describes the set; its counts are filled in here.
        """
        write_manifest(self.folder / MANIFEST, utterances)
        self.publish(MANIFEST)
        columns = have_columns(self.out / MANIFEST)
        names = set_files(self.out, KMEANS, REJECTED)
        with atomic_path(self.folder / SUMS) as temporary:
            proofs = write_sums(self.out, names, temporary, self._noted)
        self.publish(SUMS)
        info = replace(info, utterances=len(columns), frames=columns.frames, proofs=proofs)
        write_dataset_info(self.folder / DATASET, info)
        self.publish(DATASET)
        self.remove()

    def remove(self) -> None:
        """Remove what commands wrote into `unfinished/`, and the folder itself if nothing else is in it."""
        recipe = self.folder / RECIPE
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        if recipe.is_file() and _is_recipe(recipe):
            for _ in range(2):  # A worker that outlived a killed command may still add a file.
                for path in self._files():
                    if path != recipe and (_WRITTEN.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)):
                        path.unlink(missing_ok=True)
            # The recipe goes last, because it tells that the rest is ours.
            recipe.unlink(missing_ok=True)
        entries = {path.name for path in self.folder.iterdir()}
        if entries <= {LOCK, *_FOLDERS}:
            (self.folder / LOCK).unlink(missing_ok=True)
        for folder in (*(self.folder / name for name in _FOLDERS), self.folder):
            with suppress(OSError):  # It is not empty, or not there.
                folder.rmdir()

    def _files(self) -> Iterator[Path]:
        """Yields the files in `unfinished/` and in those folders of it that commands write into."""
        for folder in (self.folder, *(self.folder / name for name in _FOLDERS)):
            if folder.is_dir() and not folder.is_symlink():
                yield from [path for path in folder.iterdir() if path.is_file()]


@contextmanager
def unfinished_work(
    out: str | Path, recipe: Mapping[str, Any], inputs: Inputs
) -> Iterator[Unfinished | None]:
    """Begin to fill a folder, or continue with it.

    Args:
        out: the folder, which is made if it is not there.
        recipe: everything that the result depends on, as JSON has it. `dataset.yaml` keeps it as `made_by`.
        inputs: what tells whether the files that are read are still those of the beginning. `dataset.yaml`
            keeps it as `made_from`.

    Yields:
        The work, or None if `out` is complete and was made from this recipe, so that nothing is left to do.

    Raises:
        MelHuBERTError: `out` was begun or made from another recipe or from other inputs, holds something
            else or cannot be written, another process is at work on it, or the disk fails within the block.
    """
    out = Path(out).expanduser()  # as whoever reads the set looks for it
    recipe = json.loads(json.dumps(recipe))  # Tuples become lists here, as they do in the file.
    work = Unfinished(out)
    with write_faults(out):
        if _is_complete(out, recipe, inputs):
            work.remove()
            yield None
            return
        if work.is_foreign() or (out.is_dir() and any(out.iterdir()) and not work.folder.is_dir()):
            raise MelHuBERTError(
                f"{out}: not empty, and not begun by this command; give another --out, or empty it"
            )
        work.folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_writer(work.folder, LOCK):
            _check_recipe(work, recipe, {**inputs.content, **inputs.times})
            yield work
    except BrokenPipeError:  # The reader of what is printed has gone, and no file is at fault.
        raise
    except OSError as error:
        raise MelHuBERTError(
            f"{error.filename or out}: {error.strerror or error}; once this is mended, the same command "
            "continues"
        ) from None


def array_digest(array: np.ndarray) -> str:
    """A hash of an array's figures, by which a recipe tells whether they are still the same."""
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def stats_digest(stats: FeatureStats) -> str:
    """A hash of the figures of statistics, as `array_digest`."""
    return stats.digest()[:16]


def _is_complete(out: Path, recipe: Mapping[str, Any], inputs: Inputs) -> bool:
    if not (out / DATASET).is_file():
        return False
    info = read_dataset_info(out / DATASET)
    if other := _recipe_changes(info.made_by, recipe):
        raise MelHuBERTError(
            f"{out}: holds a complete set that was made differently ({'; '.join(map(str, other))}); give "
            "another --out, or remove it"
        )
    # An earlier version did not note what its sets were made from.
    changed = [change.name for change in changes(info.made_from, inputs.noted, absent_is_same=True)]
    for name in changed:
        if name in inputs.content:
            raise MelHuBERTError(
                f"{out}: holds a complete set, since when the {name} changed; give another --out, or "
                "remove it"
            )
    said = f"{out}: complete already; nothing was done"
    if changed:
        which = f"in {', '.join(info.made_from[FOLDERS])}" if FOLDERS in changed else "with other times"
        said += f". It was made of files {which}; if it is to be made of these, give another --out"
    print(said, file=sys.stderr)
    return True


def _recipe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What a recipe asks for that another one did not, wherever the same files lie now."""
    if CONTENT_OF_FILES not in before:  # An earlier version has none.
        passed_over: Sequence[str] = (CONTENT_OF_FILES,)
    else:
        passed_over = _FILES_BY_PATH if before[CONTENT_OF_FILES] == now.get(CONTENT_OF_FILES) else ()
    return [each for each in changes(before, now) if each.name not in passed_over and not _is_same(each)]


def _is_same(change: Change) -> bool:
    """Whether two texts of a recipe mean the same: a file of the same content, or the same folders."""
    before, now = change.before, change.now
    if isinstance(before, str) and isinstance(now, str):
        digests = [_DIGEST.search(text) for text in (before, now)]
        if digests[0] and digests[1]:
            return digests[0][1] == digests[1][1]
    if change.name in _LISTS and before is not None and now is not None:
        return [Path(place) for place in before] == [Path(place) for place in now]
    if change.name not in _PATHS or before is None or now is None:
        return False
    return len({os.path.realpath(os.path.expanduser(place)) for place in (before, now)}) == 1


def _check_recipe(work: Unfinished, recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    path = work.folder / RECIPE
    if not path.is_file():
        write_json(path, {**recipe, **inputs}, indent=1)
        return
    begun = _read_recipe(path)
    inputs_then = {name: begun.pop(name) for name in inputs if name in begun}  # An earlier version has none.
    changed = _recipe_changes(begun, recipe)
    if changed and (not {change.name for change in changed} <= CORRECTABLE or _has_labels(work.out)):
        raise MelHuBERTError(
            f"{work.out}: begun with other arguments ({'; '.join(map(str, changed))}); repeat those, give "
            "another --out, or remove the folder to begin anew"
        )
    for change in changes(inputs_then, inputs, absent_is_same=True):
        raise MelHuBERTError(
            f"{work.out}: begun with other input, since when the {change.name} changed; put back what was "
            "there then (files with their times), give another --out, or remove the folder to begin anew"
        )
    if changed:
        # The features, which took the time, do not depend on these; the centroids are made anew.
        (work.out / KMEANS).unlink(missing_ok=True)
        write_json(path, {**recipe, **inputs_then}, indent=1)


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MelHuBERTError(f"{path}: damaged ({error}); remove the folder to begin anew") from None
    if not isinstance(begun, dict):
        raise MelHuBERTError(f"{path}: damaged; remove the folder to begin anew")
    return begun


def _is_recipe(path: Path) -> bool:
    with suppress(MelHuBERTError):
        return str(_read_recipe(path).get("command")).startswith(("prepare", "relabel"))
    return False


def _has_labels(out: Path) -> bool:
    return any((out / LABELS).glob("*.npy"))
