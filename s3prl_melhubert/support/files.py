"""Writing files so that a crash leaves the old one or the new one, never half of one; and their hashes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, shown

# What a write fails with when the disk, and not the program, is at fault.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
PROBE_BYTES = 1 << 16  # more than a writer can have left of a disk that it has filled
SAME_COMMAND = "give the same command again"
PATHS_AS_TYPED = "paths_as_typed"  # what an experiment of s3prl's calls those that were relative when given
NAME_BYTES = 200  # of a temporary file's name; file systems allow 255
# The names of what `atomic_path` and `temporary_folder` make: .NAME.melhubert-0123456789abcdef, and a suffix
# after it, if there is one. Nobody else calls a file or a folder so, and no date looks like it.
MARK, TOKEN_BYTES = ".melhubert-", 8
TEMPORARY = re.compile(rf"\..+{re.escape(MARK)}[0-9a-f]{{{2 * TOKEN_BYTES}}}(?P<suffix>\.[^.]+)?")
# The folders that this process has looked through for such files. Once is enough: what is left there later is
# another process's, and a folder may hold a million files.
_swept: set[Path] = set()


def suffix_of(path: str | Path) -> str:
    """The suffix that says a file's format, such as `.npy`: in small letters, because `X.NPY` is one, too."""
    return Path(path).suffix.lower()


@contextmanager
def atomic_path(
    path: str | Path, *, lasting: bool = True, own_name: bool = False, then: str = SAME_COMMAND
) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends well.

    The content is on the disk before the rename; if the block raises, the temporary file is removed and
    an existing `path` stays as it was. What killed processes left in the folder is removed. A lock (flock) on
    the temporary file says that its process lives; a library that locks what it writes, as HDF5 does, must
    be told not to.

    Args:
        path: the file.
        lasting: whether the file has to outlive a loss of power. One that does not is not waited for: it
            outlives a kill of the process, and if the machine goes down, it may come back as anything.
        own_name: whether the temporary file is called as `path` is, in a hidden folder of its own.
        then: what to do where the disk was full and there is space again, which ends the error.

    Raises:
        MelHuBERTError: the folder does not exist or cannot be written, `path` is a folder, a device or a
            pipe, or the disk is full.
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            refuse_what_is_no_file(path)
            if own_name:
                temporary = stack.enter_context(temporary_folder(path.parent, path.name)) / path.name
            else:
                temporary = stack.enter_context(_temporary_file(path))
        except OSError as error:
            raise MelHuBERTError(f"{path}: cannot be written ({error.strerror or error})") from None
        except ValueError as error:  # a NUL character in the name
            raise MelHuBERTError(f"{shown(str(path))}: cannot be the name of a file ({error})") from None
        try:
            yield temporary
            if lasting:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except MelHuBERTError:
            raise
        except Exception as error:
            fault = disk_fault(error, temporary)
            if fault is None:
                raise
            was_there = "the file that was there is as it was" if path.exists() else "nothing was left there"
            raise MelHuBERTError(
                f"{path}: cannot be written ({fault.strerror}); {was_there}: make space, and {then}"
            ) from fault


def refuse_what_is_no_file(path: Path) -> None:
    """Raise MelHuBERTError where a new file cannot or must not take the place of what is there.

    Root would lose /dev/null to the file that is renamed to it, and everybody a pipe of theirs.
    """
    if path.is_dir():
        raise MelHuBERTError(f"{path}: is a folder, expected a file to write")
    if path.exists() and (not path.is_file() or path.parent.absolute() == Path("/dev")):
        raise MelHuBERTError(f"{path}: is a device or a pipe, expected a file to write")


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8, as `atomic_path` does.

    Raises:
        MelHuBERTError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write a JSON file, as `atomic_path` does; arguments as for `json.dumps`.

    Raises:
        MelHuBERTError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what to do where it is damaged, which ends the error.

    Raises:
        FileNotFoundError: there is none.
        MelHuBERTError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise MelHuBERTError(f"{path}: cannot be read as JSON ({error}); {remedy}") from None


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well; if it raises, nothing is left.

    A folder that is there already, which must be empty, gets the files of the temporary one: it may be a
    link, the root of a disk, or where somebody's shell stands, none of which another folder can replace.

    Raises:
        OSError: the folder cannot be written.
    """
    is_there = folder.is_dir()
    place = folder if is_there else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    with temporary_folder(place, os.path.basename(os.path.abspath(folder))) as temporary:
        try:
            yield temporary
        except MelHuBERTError as error:  # The user knows the file by its place in the folder to come.
            raise MelHuBERTError(str(error).replace(str(temporary), str(folder))) from None
        if is_there:
            for path in sorted(temporary.iterdir()):
                path.rename(folder / path.name)
        else:
            temporary.rename(folder)


@contextmanager
def temporary_folder(place: Path, name: str) -> Iterator[Path]:
    """A hidden folder that goes, with what is left in it, when the block ends.

    A killed process leaves its folder behind. The next one that makes such a folder in the same place
    removes it.

    Args:
        place: the folder that it is made in.
        name: of what is made in it, which becomes a part of its own name.

    Raises:
        OSError: `place` cannot be written.
    """
    remove_abandoned(place)
    temporary, handle = _new_locked(place, name, is_folder=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """A hidden, empty file beside `path`, with any new file's permissions, that goes when the block ends."""
    if path.parent.absolute() not in _swept:
        remove_abandoned(path.parent)
        _swept.add(path.parent.absolute())
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 20 else ""
    temporary, handle = _new_locked(path.parent, path.name.removesuffix(suffix), suffix)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def disk_fault(error: Exception, temporary: Path) -> OSError | None:
    """The fault of the disk that made a writer fail, or None if it was something else.

    numpy, PyTorch and safetensors do not say that the disk is full, only that less was written than should
    have been. So a few bytes are added to what they have written, and the system says it.
    """
    fault = error if isinstance(error, OSError) and error.errno is not None else None
    try:
        if fault is None and os.stat(temporary).st_nlink == 1:  # A file of two names is not ours alone.
            with temporary.open("ab") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
    except OSError as refused:
        fault = refused
    return fault if fault is not None and fault.errno in DISK_FAULTS else None


def real_path(path: Path) -> Path:
    """The absolute path of a file without links among its folders; the file keeps the name that it has there.

    A link to the file itself is not followed, because a name tells what a file is, and what the link points
    to may be called anything: Hugging Face's cache calls the contents of all files by their hashes.
    """
    return path.parent.resolve() / path.name


def full_path(path: str | Path) -> str:
    """The path from the root on, with the home folder in the place of `~`."""
    return str(Path(path).expanduser().absolute())


def full_path_of_file(path: str) -> str:
    """A file's full path; what is no file (a URL, a Google Drive id) stays as it is."""
    return full_path(path) if Path(path).expanduser().exists() else path


def user_cache() -> Path:
    """The folder of what may be made again: $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def size_and_time(path: Path) -> tuple[int, int]:
    """A file's bytes and when it was last written (ns); zeros where there is none, or it cannot be looked at.

    A link that leads nowhere is found in a folder as a file is. Whoever reads it says what is wrong.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def remove_abandoned(folder: Path) -> None:
    """Remove what is left in a folder of `atomic_path` and `temporary_folder` whose process was killed.

    What is still being written is locked, and stays.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for named in filter(None, map(TEMPORARY.fullmatch, names)):
        temporary = Path(folder) / named.string
        is_ours = temporary.is_file() or (temporary.is_dir() and named["suffix"] is None)
        if is_ours and not temporary.is_symlink():
            with suppress(OSError):
                handle = os.open(temporary, os.O_RDONLY if temporary.is_dir() else os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
                finally:
                    os.close(handle)


def hidden_name(name: str) -> str:
    """The name with a dot before it, cut where it is long, so that there is room for what is added to it."""
    return os.fsdecode(os.fsencode(f".{name}")[:NAME_BYTES])


def _new_locked(place: Path, name: str, suffix: str = "", *, is_folder: bool = False) -> tuple[Path, int]:
    """A new file or folder with a name like those of `TEMPORARY`, and the handle of its lock."""
    flags = os.O_RDONLY if is_folder else os.O_CREAT | os.O_EXCL | os.O_WRONLY
    while True:
        temporary = place / f"{hidden_name(name)}{MARK}{secrets.token_hex(TOKEN_BYTES)}{suffix}"
        if is_folder:
            temporary.mkdir()
        # Before it is locked, another process may take it for an abandoned one.
        try:
            handle = os.open(temporary, flags | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if is_folder and place.is_dir():
                continue
            raise
        with suppress(OSError):  # There are file systems without locks.
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, handle
        os.close(handle)


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
