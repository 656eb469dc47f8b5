"""Small JSON files: written whole, and read so that a damaged one is named with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import write_text


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


def read_score(path: Path, remedy: str) -> float:
    """Read a JSON file that holds a score in percent, and nothing else; arguments and errors as above."""
    score = read_json(path, remedy)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise MelHuBERTError(f"{path}: {shown(score)} found, expected a score; {remedy}")
    return float(score)
