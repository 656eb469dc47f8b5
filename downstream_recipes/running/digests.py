"""Hashes of what the user gives of an upstream: its checkpoint, its settings, and the statistics in these."""

from __future__ import annotations

import hashlib
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.statistics import FeatureStats, stats_named_in
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.settings import read_yaml_mapping

# Of a folder as an upstream's checkpoint. Its card and its code may be written anew for the same model.
FOLDER_WEIGHTS, FOLDER_SETTINGS = (".safetensors", ".bin"), ".json"


def sha256_of_file(path: str | None) -> str | None:
    """The hash of the content of a file, or of a folder in transformers' layout: of its weights and settings.

    Returns:
        None where there is no such file, and no such folder with weights.
    """
    if path is None:
        return None
    place = Path(path).expanduser()
    if place.is_file():
        return sha256_of(place)
    found = sorted(each for each in place.glob("[!.]*") if each.is_file())
    if not any(each.suffix in FOLDER_WEIGHTS for each in found):
        return None
    parts = (each for each in found if each.suffix in (*FOLDER_WEIGHTS, FOLDER_SETTINGS))
    hashes = "".join(f"{sha256_of(each)}  {each.name}\n" for each in parts)
    return hashlib.sha256(hashes.encode()).hexdigest()


def statistics_digest(path: str | None, copy_of: str | None = None) -> str | None:
    """The hash of the statistics that the upstream's settings name, which may lie in a file of their own.

    Args:
        path: the settings.
        copy_of: the settings of which these are a copy: from there, the path of that file is seen.

    Returns:
        None where the settings name none that can be read. Those of other upstreams than MelHuBERT may be
        files of any kind, and what is wrong with MelHuBERT's is said when it is loaded.
    """
    if path is None:
        return None
    settings = Path(path).expanduser()
    try:
        named = stats_named_in(copy_of or settings, read_yaml_mapping(settings).get("feature_stats"))
        return None if named is None else FeatureStats.load(named).digest()
    except MelHuBERTError:
        return None
