"""Synthesized speech for the tests of this folder, and ways to compare what is made of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000


def _sweep(seed: int, seconds: float) -> np.ndarray:
    """A gliding tone with bursts of noise: frames of many kinds, never silent."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    low, high = np.sort(random.uniform(100, 7000, 2))
    tone = np.sin(2 * np.pi * (low + (high - low) * time / (2 * max(seconds, 1e-3))) * time)
    gate = np.sin(2 * np.pi * random.uniform(2, 6) * time) > 0
    return (0.3 * tone + random.normal(0, 0.01 + 0.1 * gate)).astype(np.float32)


@pytest.fixture(scope="session")
def sweep() -> Callable[[int, float], np.ndarray]:
    """`sweep(seed, seconds)`: (n,) float32 samples at 16 kHz."""
    return _sweep


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Path]:
    """`make_corpus(folder, files=12)`: LibriSpeech's layout, two subsets of that many files of 0.3 to 1 s."""

    def make(
        folder: Path, files: int = 12, subsets: tuple[str, ...] = ("train-clean-100", "dev-clean")
    ) -> Path:
        for s, subset in enumerate(subsets):
            for i in range(files):
                chapter = folder / subset / str(100 + i % 3) / "7"
                chapter.mkdir(parents=True, exist_ok=True)
                seed = 1000 * s + i
                path = chapter / f"{100 + i % 3}-{7 + s}-{i:04d}.flac"
                soundfile.write(path, _sweep(seed, 0.3 + 0.06 * (seed % 12)), RATE)
        return folder

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, make_corpus) -> Path:
    """Subsets train-clean-100 and dev-clean, 12 files each. Not to be changed."""
    return make_corpus(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="session")
def folder_bytes() -> Callable[[Path], dict[str, str]]:
    """`folder_bytes(folder)`: a hash of every file, hidden ones too, by its path below the folder."""

    def read(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read


@pytest.fixture
def melhubert(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """`melhubert(ARGUMENT, ...)`: the command, in a process of its own and outside the checkout."""

    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "s3prl_melhubert", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)

    return run
