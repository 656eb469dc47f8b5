"""One folder has one writer: a lock that dies with its holder, and tells others who that is.

The kernel keeps the lock (POSIX record locks, which also hold between machines on most network file systems)
and frees it however the process ends; a forked child does not keep it. The file that remains after a kill
means nothing and stands in nobody's way.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError

LOCK = ".melhubert.lock"

# A record lock belongs to the process, so that the process itself would get it twice.
_held_here: set[Path] = set()


@contextmanager
def only_writer(folder: str | Path, name: str = LOCK) -> Iterator[None]:
    """Be the only process that writes into a folder while the block runs.

    Args:
        folder: an existing folder.
        name: of the lock's file in it.

    Raises:
        MelHuBERTError: another process is at work there (its host, its number, and since when), or the
            folder cannot be written.
    """
    path = Path(folder).resolve() / name
    if path in _held_here:
        raise MelHuBERTError(f"{folder}: this process is at work on this folder already")
    handle = _acquire(path, folder)
    _held_here.add(path)
    try:
        yield
    finally:
        _held_here.discard(path)
        path.unlink(missing_ok=True)  # before the lock goes: nobody else has this file locked
        os.close(handle)


def _acquire(path: Path, folder: str | Path) -> int:
    """The open, locked file."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MelHuBERTError(f"{folder}: cannot be written ({error.strerror or error})") from None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(handle)
            os.close(handle)
            raise MelHuBERTError(
                f"{folder}: another process is at work on this folder ({holder}); wait for it, or end it"
            ) from None
        except OSError:  # a file system without locks: nothing can be promised there
            return handle
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
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
