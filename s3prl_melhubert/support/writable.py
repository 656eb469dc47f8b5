"""Whether a file or a folder can be written: asked before hours of work, and told in one line."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import refuse_what_is_no_file
from s3prl_melhubert.support.memory import size_text


@contextmanager
def write_faults(place: str | Path, remedy: str = "") -> Iterator[None]:
    """Turn an error of the system within the block into one that names what could not be written.

    Args:
        place: what the block writes, or looks at because it is to be written.
        remedy: what to do about it, which ends the error.

    Raises:
        MelHuBERTError: an OSError was raised, or `place` holds a NUL character, which no name can.
    """
    if "\0" in str(place):
        raise MelHuBERTError(f"{shown(str(place))}: a name cannot hold a NUL character")
    try:
        yield
    except BrokenPipeError:  # The reader of what is printed has gone, and no file is at fault.
        raise
    except OSError as error:
        way_out = f"; {remedy}" if remedy else ""
        reason = error.strerror or error
        # A folder that is to be made finds the link there, and one that is to take its place finds no folder.
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        if in_the_way and os.path.islink(place) and not os.path.exists(place):
            reason = f"a link to {os.readlink(place)}, which is not there"
        raise MelHuBERTError(f"{place}: cannot be written ({reason}){way_out}") from None


def check_target(path: Path) -> None:
    """Refuse a file that could not be written where it is to be.

    Raises:
        MelHuBERTError: it is a folder, a device or a pipe, there is no folder to put it into, or nothing can
            be called so.
    """
    with write_faults(path):  # The name is too long, for example.
        refuse_what_is_no_file(path)
        if not path.parent.is_dir():
            raise MelHuBERTError(f"{path}: no such folder {path.parent}; make it first")


def check_writable(folder: str | Path, need_bytes: int = 0, *, remedy: str = "choose another folder") -> Path:
    """Make a folder, write a file there and remove it.

    Args:
        folder: made with those above it, if it is not there.
        need_bytes: free space that is asked for.
        remedy: what to do if it cannot be written, which ends the error.

    Returns:
        The folder.

    Raises:
        MelHuBERTError: the folder cannot be made or written (a read-only or full disk, rights, a file in
            the way), or has less free space.
    """
    folder = Path(folder)
    with write_faults(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        try_to_write(folder)
        check_free(folder, need_bytes)
    return folder


def try_to_write(folder: Path) -> None:
    """Write a file in a folder and remove it; raise an OSError where that fails."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 16))  # a full disk may still take an empty file
        file.flush()
        os.fsync(file.fileno())


def check_free(place: Path, needed: int, remedy: str = "make room or choose another folder") -> None:
    """Refuse to begin what a disk cannot hold.

    Args:
        place: the file or folder to write, which need not be there.
        needed: bytes.
        remedy: what to do, which ends the error.

    Raises:
        MelHuBERTError: less is free.
    """
    free = shutil.disk_usage(existing_folder(place)).free
    if free < needed:
        raise MelHuBERTError(
            f"{place}: {size_text(free)} free on this disk, {size_text(needed)} are needed; {remedy}"
        )


def check_places(*, temporary: bool) -> None:
    """Refuse to begin in a folder that has been removed, or where there is none for temporary files.

    Libraries are not loaded or end in a traceback there, and say something else of the reason.

    Args:
        temporary: whether temporary files are needed.

    Raises:
        MelHuBERTError: there is no such folder.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MelHuBERTError(
            "the current folder has been removed; go to one that is there (`cd ~`) and give the command there"
        ) from None
    try:
        if temporary:
            tempfile.gettempdir()
    except FileNotFoundError as error:
        raise MelHuBERTError(f"{error.strerror}; make space there, or export TMPDIR=FOLDER") from None


def existing_folder(place: Path) -> Path:
    """The folder that is there already and that a file or folder is in, or will be made in."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
