"""The text files of a corpus, which list its audio or say something of it."""

from __future__ import annotations

from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError


def read_text(path: str | Path, what: str = "", remedy: str = "", encoding: str = "utf-8") -> str:
    """Read a text file of a corpus.

    Args:
        path: the file.
        what: what it should be, for the error: "a list of trials".
        remedy: what the user can do about it.
        encoding: how Python calls it.

    Raises:
        MelHuBERTError: the file is not there, cannot be read, or is in another encoding.
    """
    try:
        return Path(path).read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        meant = f" as {what}" if what else ""
        advice = f"; {remedy}" if remedy else ""
        raise MelHuBERTError(f"{path}: cannot be read{meant} ({why_unreadable(error)}){advice}") from None


def read_lines(path: str | Path, what: str = "", remedy: str = "", encoding: str = "utf-8") -> list[str]:
    """Read the lines of a text file of a corpus; the arguments and errors are those of `read_text`."""
    return read_text(path, what, remedy, encoding).splitlines()


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """The reason why a text file cannot be read, in a few words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"
