"""Reading a YAML file of settings, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.errors import MelHuBERTError


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose content is a mapping.

    Raises:
        MelHuBERTError: the file does not exist, is no YAML, or holds something else than a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MelHuBERTError(f"{path}: cannot be read as a YAML file ({reason})") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = " ".join(str(error).split())
        raise MelHuBERTError(f"{path}: not valid YAML ({first})") from None
    if not isinstance(content, dict):
        raise MelHuBERTError(
            f"{path}: {'nothing' if content is None else type(content).__name__} found, "
            "expected a YAML mapping (lines of `key: value`)"
        )
    return content
