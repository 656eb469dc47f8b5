"""Checkpoints of s3prl's programs, written so that a kill or a full disk leaves one to go on from.

s3prl's runners remove the oldest `states-*.ckpt` before they write the next one in its own place. A kill in
between leaves no checkpoint, or a part of one. They look for them by a pattern that holds the folder's name
as it is, so that in a folder `run[1]` none is found: all are kept, and `-a` begins anew.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import DISK_FAULTS, SAME_COMMAND, atomic_path
from s3prl_melhubert.support.locks import only_writer

STATES = "states-*.ckpt"
IDENTITY = "experiment.json"  # of an experiment of `melhubert superb`, from the start of training on
INSIDE = ("lr-*", "layer-*")  # its folders of learning rates and layers; a fold is an experiment of its own


def states_in(folder: str) -> list[str]:
    """The paths of the `states-*.ckpt` in a folder, whatever characters its name has; in no order."""
    return [str(path) for path in Path(folder).glob(STATES)]


@contextmanager
def only_run_in(folder: str) -> Iterator[None]:
    """Be the only run of s3prl's programs that trains in a folder while the block runs.

    Of processes that torch's launcher starts together, it is the first one, which alone writes.

    Raises:
        MelHuBERTError: as `only_writer`; or `melhubert superb` is at work on the experiment that this folder
            is of.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with only_writer(folder):
        # Who begins after this finds the lock above.
        for experiment in _experiments_of(Path(folder).resolve()):
            with only_writer(experiment):
                pass
        yield


def _experiments_of(folder: Path) -> Iterator[Path]:
    """The experiments of `melhubert superb` that this folder belongs to; a fold's belongs to another one."""
    while (folder.parent / IDENTITY).is_file() and (_is_inside(folder) or (folder / IDENTITY).is_file()):
        folder = folder.parent
        yield folder


def is_made_by_the_one_above(folder: Path) -> bool:
    """Whether a folder is of a learning rate or a layer of the experiment in the folder above."""
    return _is_inside(folder) and (folder.parent / IDENTITY).is_file()


def _is_inside(folder: Path) -> bool:
    return any(fnmatch(folder.name, name) for name in INSIDE)


def write_checkpoint(
    path: Path, content: Mapping[str, Any], *arguments: Any, then: str = SAME_COMMAND, **options: Any
) -> None:
    """Write what `torch.save(content, path)` would, so that a crash leaves the old file or the new one.

    torch writes the file's name into the file. It has its name while it is written, too, so that its bytes
    are those of s3prl's.

    Args:
        path: the file.
        content: what goes into it.
        arguments: further arguments of `torch.save`.
        then: as in `atomic_path`.
        options: the same, by their names.
    """
    from torch.serialization import save  # not torch.save, which is replaced while s3prl's program runs

    with atomic_path(path, own_name=True, then=then) as temporary:
        save(content, temporary, *arguments, **options)


@contextmanager
def full_disk_told(place: str | os.PathLike[str], *, same_command: bool = True) -> Iterator[None]:
    """Tell of a full disk, whatever the block writes, in a line that says what to do.

    Args:
        place: where the block writes; the error may know the file better.
        same_command: as in `saved_whole`; if it is false, `place` is the experiment's folder.

    Raises:
        MelHuBERTError: something could not be written because of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise MelHuBERTError(
            f"{error.filename or place}: cannot be written ({error.strerror}); make space, and "
            f"{_what_goes_on(str(place), same_command)}"
        ) from error


def _what_goes_on(folder: str, same_command: bool) -> str:
    """What to do when a full disk has space again."""
    return SAME_COMMAND if same_command or not states_in(folder) else f"go on with -e {folder}"


@contextmanager
def saved_whole(*, same_command: bool = True) -> Iterator[None]:
    """While the block runs, torch's files are written whole, and old states go when the new ones are there.

    As many checkpoints are left as by s3prl itself. For the time of a save there is one more. Where s3prl
    looks for the states of a folder, they are found whatever it is called.

    Args:
        same_command: whether the same command goes on, which s3prl's own begins anew without `-a`. What to do
            where the disk is full depends on it.
    """
    import torch

    save, remove, find = torch.save, os.remove, glob.glob
    outdated: set[Path] = set()

    def save_whole(obj: Any, f: Any, *arguments: Any, **options: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            save(obj, f, *arguments, **options)
            return
        then = _what_goes_on(os.path.dirname(f) or ".", same_command)
        write_checkpoint(Path(f), obj, *arguments, then=then, **options)
        # In the same save, the best checkpoint on a dev split is written before the states.
        if fnmatch(os.path.basename(f), STATES):
            outdated.discard(Path(f).absolute())  # It was written anew.
            remove_outdated()

    def remove_later(path: Any, **options: Any) -> None:
        if not options and fnmatch(os.path.basename(path), STATES) and os.path.isfile(path):
            outdated.add(Path(path).absolute())
        else:
            remove(path, **options)

    def remove_outdated() -> None:
        while outdated:
            outdated.pop().unlink(missing_ok=True)

    def find_states(pathname: Any, **options: Any) -> list[Any]:
        if not options and isinstance(pathname, str) and pathname.endswith(f"/{STATES}"):
            return states_in(pathname.removesuffix(f"/{STATES}"))
        return find(pathname, **options)

    torch.save, os.remove, glob.glob = save_whole, remove_later, find_states
    try:
        yield
        remove_outdated()
    finally:
        torch.save, os.remove, glob.glob = save, remove, find
