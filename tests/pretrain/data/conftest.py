"""A prepared set of synthesized speech, for the tests of this folder."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s3prl_melhubert.pretrain.data.description import PreparedSet
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.workers import Workers


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory) -> PreparedSet:
    """The training subset, 12 files in 3 shards, with labels of 6 clusters. Not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    workers = Workers(jobs=1)
    return prepare_audio(
        [corpus], out, subsets=["train-clean-100"], clusters=6, shard_files=4, workers=workers
    )


@pytest.fixture
def cached(prepared, tmp_path) -> Path:
    """The same set as Hugging Face's cache keeps it: links to files that are called by their hashes."""
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "hub" / "snapshots" / "main"))
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.move(path, blob)
        path.symlink_to(blob)
    return folder


@pytest.fixture
def wait_for() -> Callable[[Path], int]:
    """Wait until somebody has made a file; made here, as workers could not import a function of a test."""

    def wait_for(path: Path) -> int:
        for _ in range(3000):
            if path.exists():
                return 1
            time.sleep(0.02)
        raise TimeoutError(path)

    return wait_for
