"""One folder, or one file, has one writer: a lock that dies with its holder, and tells others who that is.

The kernel keeps the lock (POSIX record locks, which also hold between machines on most network file systems)
and frees it however the process ends; a forked child does not keep it. The file that remains after a kill
means nothing and stands in nobody's way.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import hidden_name
from s3prl_melhubert.support.writable import write_faults

LOCK = ".melhubert.lock"
ABOUT = b'{"host": '  # how the file of every lock begins, unless its process was killed before it wrote that

# A record lock belongs to the process, so that the process itself would get it twice.
_held_here: set[Path] = set()


@contextmanager
def only_writer(folder: str | Path, name: str = LOCK) -> Iterator[None]:
    """Be the only process that writes into a folder while the block runs.

    Args:
        folder: an existing folder.
        name: of the lock's file in it.

    Raises:
        MelHuBERTError: another process is at work there (its host, its number, and since when), the folder
            cannot be written, or something that is no lock has the lock's name.
    """
    with _held(Path(folder).resolve() / name, str(folder), "folder"):
        yield


def refuse_other_writers(folders: Iterable[str | Path]) -> None:
    """Raise MelHuBERTError, as `only_writer`, where another process is at work on one of some folders.

    Who holds the lock of a folder above them, for which others look there before they write, needs no more.
    """
    for folder in folders:
        if Path(folder).resolve() / LOCK not in _held_here:
            with only_writer(folder):
                pass


@contextmanager
def only_writer_of(path: Path) -> Iterator[None]:
    """Be the only process that writes a single file while the block runs. Its folder exists.

    Raises:
        MelHuBERTError: as `only_writer`.
    """
    with _held(path.parent.resolve() / f"{hidden_name(path.name)}.lock", str(path), "file"):
        yield


@contextmanager
def _held(lock: Path, what: str, kind: str) -> Iterator[None]:
    if lock in _held_here:
        raise MelHuBERTError(f"{what}: this process is at work on this {kind} already")
    handle = _acquire(lock, what, kind)
    _held_here.add(lock)
    try:
        yield
    finally:
        _held_here.discard(lock)
        lock.unlink(missing_ok=True)  # before the lock goes: nobody else has this file locked
        os.close(handle)


def _acquire(lock: Path, what: str, kind: str) -> int:
    """The open, locked file."""
    while True:
        if lock.is_symlink():
            raise MelHuBERTError(f"{lock}: is a link, which this command did not make; remove it")
        with write_faults(what):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if not ABOUT.startswith(os.pread(handle, len(ABOUT), 0).strip(b"\0")):  # a loss of power leaves zeros
            os.close(handle)
            raise MelHuBERTError(f"{lock}: is there, and is no lock of this command; move it away")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(handle)
            os.close(handle)
            raise MelHuBERTError(
                f"{what}: another process is at work on this {kind} ({holder}); wait for it, or end it"
            ) from None
        except OSError:  # a file system without locks: nothing can be promised there
            return handle
        with suppress(FileNotFoundError):
            if os.stat(lock).st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)  # its last holder removed it between our opening and our locking
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    about = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    os.ftruncate(handle, 0)
    os.pwrite(handle, about.encode(), 0)
    return handle


def _holder(handle: int) -> str:
    try:
        about = json.loads(os.pread(handle, 4096, 0))
        return f"host {about['host']}, process {about['pid']}, since {about['since']}"
    except (ValueError, KeyError, TypeError, OSError):  # it is just being written
        return "which has only begun"
