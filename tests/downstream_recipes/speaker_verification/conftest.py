"""What tests of speaker verification share: a small corpus, and a cache of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

LIST = "voxceleb1_test_v2.txt"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache, in which lengths are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hummed(tmp_path, write_audio) -> Path:
    """VoxCeleb1's layout: two speakers of three files each in dev/, two of two in test/; and six trials."""
    root = tmp_path / "VoxCeleb1"
    files = {}
    for speaker, part in ((10001, "dev"), (10002, "dev"), (10270, "test"), (10271, "test")):
        for i in range(3 if part == "dev" else 2):
            name = f"id{speaker}/video{i % 2}/{i:05d}.wav"
            write_audio(root / part / "wav" / name, samples=33_000 + 1000 * i, seed=speaker % 7 + i)
            files.setdefault(part, []).append(name)
    trials = itertools.combinations(files["test"], 2)
    (root / LIST).write_text("".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in trials))
    return root
