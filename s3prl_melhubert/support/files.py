"""Writing files so that a crash leaves the old one or the new one, never half of one; and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError, shown

# What a write fails with when the disk, and not the program, is at fault.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
NAME_BYTES = 200  # of a temporary file's name; file systems allow 255


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends well.

    The content is on the disk before the rename; if the block raises, the temporary file is removed and
    an existing `path` stays as it was.

    Raises:
        MelHuBERTError: the folder does not exist or cannot be written, `path` is a folder, or the disk is
            full.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise MelHuBERTError(f"{path}: is a folder, expected a file to write")
        temporary = _new_file(path)
    except OSError as error:
        raise MelHuBERTError(f"{path}: cannot be written ({error.strerror or error})") from None
    except ValueError as error:  # a NUL character in the name
        raise MelHuBERTError(f"{shown(str(path))}: cannot be the name of a file ({error})") from None
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        was_there = "the file that was there is as it was" if path.exists() else "nothing was left there"
        raise MelHuBERTError(
            f"{path}: cannot be written ({os.strerror(error.errno or 0)}); {was_there}: make space, and give "
            "the same command again"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty, hidden file beside `path`, with the permissions that any new file has."""
    # The name is cut, so that a long one has room for what is added.
    beginning = os.fsdecode(os.fsencode(f".{path.name}")[:NAME_BYTES])
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 20 else ""
    temporary = path.parent / f"{beginning}.{secrets.token_hex(4)}{suffix}"
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
