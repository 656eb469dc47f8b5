"""The folder of s3prl. That of a checkout holds files that pip's lacks: lexicons, the VoxCeleb1 split."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError


def s3prl_folder() -> Path:
    """Find the folder of the package `s3prl` that an import would load, without importing it.

    Raises:
        MelHuBERTError: s3prl is not installed.
    """
    spec = find_spec("s3prl")
    if spec is None or not spec.submodule_search_locations:
        raise MelHuBERTError("s3prl is not installed: pip install s3prl")
    return Path(next(iter(spec.submodule_search_locations)))
