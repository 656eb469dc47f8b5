"""The folder of s3prl, and which paths its `-o` can pass on.

The folder of a checkout holds files that pip's lacks: lexicons, the VoxCeleb1 split.
"""

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


def check_passable(path: str | Path, named: str) -> None:
    """Look whether s3prl's `-o` gives a path on as it is.

    Args:
        path: from the root on.
        named: what an error calls it.

    Raises:
        MelHuBERTError: `=` or `,,` in it would end it there, and s3prl takes spaces at its end away, so that
            it would be the path of something else.
    """
    text = str(path)
    if "=" in text or ",," in text:
        raise MelHuBERTError(f"{named}: s3prl's -o cannot pass a path with = or ,, in it; give another")
    if text != text.strip():
        raise MelHuBERTError(f"{named!r}: s3prl's -o cannot pass a path that ends in a space; give another")
