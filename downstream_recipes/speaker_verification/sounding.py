"""How long each training file of speaker verification is without its pauses.

s3prl trains on the files that have over two seconds left when SoX's effects have taken their pauses out, and
keeps the lengths in its own folder for whatever corpus comes next. Here they are kept for each corpus:
computing them reads all of VoxCeleb1, 1 ms a second of audio, which is 20 minutes of one core.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.speaker_verification.trials import VoiceFile
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.progress import progress

CHUNK = 64  # files that a worker process gets at a time


def sounding_lengths(files: Sequence[VoiceFile], workers: int) -> list[int]:
    """Return the samples of each file without its pauses, from the user's cache if they were computed before.

    Args:
        files: checked ones.
        workers: processes that compute; 0 and 1 mean this one.
    """
    import torch

    cache = _cache_file(files)
    if cache.is_file():
        return torch.load(cache, weights_only=True)
    lengths = _compute([str(file.path) for file in files], workers)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(cache) as temporary:
        torch.save(lengths, temporary)
    return lengths


def write_lengths(path: Path, files: Sequence[VoiceFile], lengths: Sequence[int]) -> None:
    """Write the lengths as s3prl's `sv_voxceleb1` keeps them, beside the last three parts of each path."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save([[file.path.parts[-3:] for file in files], list(lengths)], temporary)


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
        digest.update(f"{file.path.absolute()} {file.samples}\n".encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "s3prl-melhubert/superb" / f"asv-lengths-{digest.hexdigest()[:12]}.pt"
