"""A published set, and training processes, for the tests of this folder."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def make_published(tmp_path, make_utterance) -> Callable[..., Path]:
    """`make_published(lengths)`: a CSV in the published layout: absolute paths, a file per utterance."""

    def make(lengths: list[int], label_step: int = 1) -> Path:
        folder = tmp_path / "published"
        folder.mkdir()
        rows = ["file_path,label_path,length"]
        for i, length in enumerate(lengths):
            frames, labels = make_utterance(i, length)
            paths = folder / f"{i}.npy", folder / f"{i}.label.npy"
            np.save(paths[0], frames)
            np.save(paths[1], labels[::label_step].astype(np.int64))
            rows.append(f"{paths[0]},{paths[1]},{length}")
        csv = folder / "train.csv"
        csv.write_text("\n".join(rows) + "\n")
        return csv

    return make


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """`start(ARGUMENT, ..., launcher=[...])`: `python -m s3prl_melhubert ...` in a process of its own."""

    def begin(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "s3prl_melhubert", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::RuntimeWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin


@pytest.fixture
def killed_after() -> Callable[[int], tuple[str, ...]]:
    """`start(..., launcher=killed_after(STEP))`: it dies of SIGKILL after that step, also in mid-write."""
    code = """
import os, signal, sys
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.training.runner import Pretraining

take = Pretraining._step

def step(training, batches):
    take(training, batches)
    if training.progress.step == {}:
        os.kill(os.getpid(), signal.SIGKILL)

Pretraining._step = step
sys.exit(main(sys.argv[sys.argv.index("s3prl_melhubert") + 1 :]))
"""
    return lambda step: ("-c", code.format(step))


@pytest.fixture
def finish() -> Callable[..., str]:
    """`finish(process, status=0)`: wait for it; its output, if it ended with that status."""

    def wait(process: subprocess.Popen, status: int = 0) -> str:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == status, output
        return output

    return wait


@pytest.fixture
def same_training() -> Callable[..., None]:
    """`same_training(a, b, name="last.ckpt")`: assert that two experiments have the same bits there."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    def compare(first: Path, second: Path, name: str = "last.ckpt") -> None:
        a, b = (torch.load(folder / name, weights_only=False) for folder in (first, second))
        assert a["Step"] == b["Step"]
        for key in ("model", "Optimizer", "Progress"):
            assert equal(a[key], b[key]), key

    return compare


# What a repeated run logs again, unlike how fast it was.
SAME = ("step", "epoch", "loss", "masked_accuracy", "unmasked_loss", "unmasked_accuracy", "learning_rate")
SAME += ("skipped_steps",)


@pytest.fixture(scope="session")
def repeated(log) -> Callable[[Path], list[dict[str, str]]]:
    """`repeated(folder)`: the rows of an experiment's log.csv, of which a repeated run has the same."""
    return lambda folder: [{name: row[name] for name in SAME} for row in log(folder)]


@pytest.fixture(scope="session")
def log() -> Callable[[Path], list[dict[str, str]]]:
    """`log(folder)`: the rows of an experiment's log.csv."""

    def read(folder: Path) -> list[dict[str, str]]:
        with (folder / "log.csv").open() as file:
            return list(csv.DictReader(file))

    return read
