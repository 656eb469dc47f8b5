"""Small prepared sets, small models, and training processes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from s3prl_melhubert.pretrain.layout import (
    DatasetInfo,
    Utterance,
    label_count,
    write_dataset_info,
    write_manifest,
)
from s3prl_melhubert.statistics import FeatureStats

CLUSTERS = 16
STATS = FeatureStats.from_arrays(np.linspace(5, 9, 40), np.linspace(1, 3, 40), "of the tests")

TINY = {
    "feat_emb_dim": 80,
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "num_cluster": CLUSTERS,
}

RUNNER = {
    "runner": {
        "total_steps": 6,
        "gradient_accumulate_steps": 2,
        "log_step": 2,
        "save_every_x_epochs": -1,
        "save_minutes": 0,
    },
    "optimizer": {"name": "Adam", "lr": 1e-3},
    "datarc": {"train_batch_size": 2, "sequence_length": 40, "max_timestep": 0, "num_workers": 0},
}


def _utterance(number: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(F, 40) frames and (F,) labels; the labels count up, so that what is masked can be told."""
    random = np.random.default_rng([7, number])
    labels = (np.arange(length) // 6 + random.integers(CLUSTERS)) % CLUSTERS
    looks = np.random.default_rng(0).normal(size=(CLUSTERS, 40))
    frames = looks[labels] + random.normal(0, 0.3, (length, 40))
    return frames.astype(np.float32), labels.astype(np.int16)


@pytest.fixture(scope="session")
def make_utterance() -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """`make_utterance(number, length)`: (F, 40) frames and (F,) labels at 10 ms."""
    return _utterance


@pytest.fixture(scope="session")
def make_prepared() -> Callable[..., Path]:
    """`make_prepared(folder, lengths)`: a prepared set of utterances of these lengths (10 ms frames)."""

    def make(
        folder: Path,
        lengths: list[int],
        *,
        label_period_ms: int = 10,
        stats: FeatureStats = STATS,
        clusters: int = CLUSTERS,
    ) -> Path:
        (folder / "features").mkdir(parents=True)
        (folder / "labels").mkdir()
        made = [_utterance(i, length) for i, length in enumerate(lengths)]
        frames = np.concatenate([frames for frames, _ in made])
        labels = [labels[:: label_period_ms // 10] for _, labels in made]
        np.save(folder / "features" / "0.npy", frames)
        np.save(folder / "labels" / "0.npy", np.concatenate(labels))
        utterances, start, label_start = [], 0, 0
        for i, length in enumerate(lengths):
            shard = Path("features/0.npy"), Path("labels/0.npy")
            utterances.append(Utterance(f"u{i}", *shard, length, start, label_start))
            start += length
            label_start += label_count(length, label_period_ms)
        write_manifest(folder / "manifest.csv", utterances)
        write_dataset_info(folder / "dataset.yaml", DatasetInfo(stats, clusters, label_period_ms))
        return folder

    return make


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, make_prepared) -> Path:
    """Twenty utterances of 30 to 200 frames of 10 ms. Not to be changed."""
    lengths = [30 + (37 * i) % 171 for i in range(20)]
    return make_prepared(tmp_path_factory.mktemp("prepared") / "set", lengths)


@pytest.fixture
def make_published(tmp_path) -> Callable[..., Path]:
    """`make_published(lengths)`: a CSV in the published layout: absolute paths, a file per utterance."""

    def make(lengths: list[int], label_step: int = 1) -> Path:
        folder = tmp_path / "published"
        folder.mkdir()
        rows = ["file_path,label_path,length"]
        for i, length in enumerate(lengths):
            frames, labels = _utterance(i, length)
            paths = folder / f"{i}.npy", folder / f"{i}.label.npy"
            np.save(paths[0], frames)
            np.save(paths[1], labels[::label_step].astype(np.int64))
            rows.append(f"{paths[0]},{paths[1]},{length}")
        csv = folder / "train.csv"
        csv.write_text("\n".join(rows) + "\n")
        return csv

    return make


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) for key, value in base.items()}
    for section, values in changes.items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


@pytest.fixture
def yamls(tmp_path) -> Callable[..., list[str]]:
    """`yamls(model={...}, runner={...}, datarc={...})`: `-g FILE -c FILE`, the tiny settings so changed."""
    count = iter(range(1000))

    def write(model: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]) -> list[str]:
        number = next(count)
        files = {
            "-g": (tmp_path / f"model{number}.yaml", {"melhubert": {**TINY, **(model or {})}}),
            "-c": (tmp_path / f"runner{number}.yaml", _merge(RUNNER, sections)),
        }
        for path, content in files.values():
            path.write_text(yaml.safe_dump(content))
        return [text for flag, (path, _) in files.items() for text in (flag, str(path))]

    return write


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
def finish() -> Callable[..., str]:
    """`finish(process, status=0)`: wait for it; its output, if it ended with that status."""

    def wait(process: subprocess.Popen, status: int = 0) -> str:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == status, output
        return output

    return wait


@pytest.fixture
def same_training() -> Callable[[Path, Path], None]:
    """`same_training(a, b)`: assert that two experiments ended with the same bits."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    def compare(first: Path, second: Path) -> None:
        a, b = (torch.load(folder / "last.ckpt", weights_only=False) for folder in (first, second))
        assert a["Step"] == b["Step"]
        for key in ("model", "Optimizer", "Progress"):
            assert equal(a[key], b[key]), key

    return compare
