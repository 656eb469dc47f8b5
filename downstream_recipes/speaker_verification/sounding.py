"""How long each training file of speaker verification is without its pauses.

s3prl trains on the files that have over two seconds left when SoX's effects have taken their pauses out, and
keeps the lengths in its own folder for whatever corpus comes next. Here they are kept for each corpus:
computing them reads all of VoxCeleb1, 1 ms a second of audio, which is 20 minutes of one core.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.speaker_verification.trials import VoiceFile
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.support.files import atomic_path, size_and_time, user_cache
from s3prl_melhubert.support.progress import progress

CHUNK = 64  # files that a worker process gets at a time


def sounding_lengths(files: Sequence[VoiceFile], workers: int) -> list[int]:
    """Return the samples of each file without its pauses, from the user's cache if they were computed before.

    Warns where they cannot be kept there.

    Args:
        files: checked ones.
        workers: processes that compute; 0 and 1 mean this one.
    """
    cache = _cache_file(files)
    lengths = _kept(cache, len(files))
    if lengths is None:
        lengths = _compute([str(file.path) for file in files], workers)
        _keep(cache, lengths)
    return lengths


def write_lengths(path: Path, files: Sequence[VoiceFile], lengths: Sequence[int]) -> None:
    """Write the lengths as s3prl's `sv_voxceleb1` keeps them, beside the last three parts of each path."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save([[file.path.parts[-3:] for file in files], list(lengths)], temporary)


def _kept(cache: Path, number: int) -> list[int] | None:
    """Return what a file of the cache holds; None where it is not there, cannot be read or is damaged."""
    import torch

    from s3prl_melhubert.support.tensor_files import damage_in

    try:
        if damage_in(cache):
            return None
        lengths = torch.load(cache, weights_only=True)
    except Exception:  # torch has no one error for damaged files
        return None
    is_whole = isinstance(lengths, list) and len(lengths) == number
    return lengths if is_whole and all(isinstance(length, int) for length in lengths) else None


def _keep(cache: Path, lengths: list[int]) -> None:
    import torch

    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache) as temporary:
            torch.save(lengths, temporary)
    except (OSError, MelHuBERTError):
        warnings.warn(
            f"{cache.parent}: cannot be written, so that every run computes the files' lengths without their "
            "pauses again; let XDG_CACHE_HOME name a folder that can be",
            MelHuBERTWarning,
            stacklevel=3,
        )


def _compute(paths: Sequence[str], workers: int) -> list[int]:
    from joblib import Parallel, delayed

    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found: list[int] = []
    results = Parallel(n_jobs=max(1, workers), return_as="generator")(
        delayed(_lengths)(each) for each in chunks
    )
    with progress(len(paths), "lengths without pauses", "files") as bar:
        for lengths in results:
            found += lengths
            bar.update(len(lengths))
    return found


def _lengths(paths: Sequence[str]) -> list[int]:
    """Return the samples of each file as s3prl hears it."""
    finder.install()
    from s3prl.downstream.sv_voxceleb1.dataset import EFFECTS, apply_effects_file

    return [apply_effects_file(path, EFFECTS)[0].shape[-1] for path in paths]


def _cache_file(files: Sequence[VoiceFile]) -> Path:
    digest = hashlib.sha256()
    for file in files:
        # Other audio in the place of a file may be as long as it was.
        size, time = size_and_time(file.path)
        identity = f"{file.path.absolute()} {file.samples} {size} {time}\n"
        digest.update(identity.encode("utf-8", "surrogateescape"))
    return user_cache() / "s3prl-melhubert/superb" / f"asv-lengths-{digest.hexdigest()[:12]}.pt"
