"""The text files of a corpus, which list its audio or say something of it; and what else is in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.problems import NAMED
from s3prl_melhubert.downstream_recipes.s3prl_files import s3prl_folder
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
    """Read the lines of a text file of a corpus; the arguments and errors are those of `read_text`.

    As for s3prl, a line ends at a line feed alone. A broken letter such as U+0085 would end one for
    `splitlines`.
    """
    text = read_text(path, what, remedy, encoding)
    return text.removesuffix("\n").split("\n") if text else []


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """The reason why a text file cannot be read, in a few words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"


def named_in(folder: Path) -> str:
    """The first names in a folder, in words, for an error that expected others there."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:NAMED]) or "nothing"


def find_list(
    root: str | Path,
    given: str | Path | None,
    *,
    names: Sequence[str],
    of_s3prl: str,
    what: str,
    remedy: str,
) -> Path:
    """Find a list of a corpus: the file that is given, or one in the corpus' folder, beside it or in s3prl.

    Args:
        root: the corpus' folder.
        given: the file that the user names; None to look for it.
        names: what the file may be called in `root` or beside it.
        of_s3prl: the same list's path in the package of a checkout of s3prl.
        what: what the file is, for the error: "a list of trials".
        remedy: where the user gets the file, and how to give it.

    Raises:
        MelHuBERTError: there is none.
    """
    if given is not None:
        given = Path(given).expanduser()
        if not given.is_file():
            raise MelHuBERTError(f"{given}: no such file, expected {what}")
        return given
    root = Path(root).expanduser()
    places = [folder / name for folder in (root, root.absolute().parent) for name in names]
    for path in (*places, s3prl_folder() / of_s3prl):
        if path.is_file():
            return path
    absent = f"no {names[0]}" if len(names) == 1 else f"neither {' nor '.join(names)}"
    raise MelHuBERTError(f"{root}: {absent} here or beside it; {remedy}")
