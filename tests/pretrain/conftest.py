"""Synthesized speech, small prepared sets and settings, and ways to compare what is made of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from s3prl_melhubert.pretrain.data.description import DatasetInfo, write_dataset_info
from s3prl_melhubert.pretrain.data.manifest import Utterance, label_count, write_manifest
from s3prl_melhubert.statistics import FeatureStats

RATE = 16_000
CLUSTERS = 16  # as `tiny_settings` has it
STATS = FeatureStats.from_arrays(np.linspace(5, 9, 40), np.linspace(1, 3, 40), "of the tests")

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


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) for key, value in base.items()}
    for section, values in changes.items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


@pytest.fixture
def yamls(tmp_path, tiny_settings) -> Callable[..., list[str]]:
    """`yamls(model={...}, runner={...}, datarc={...})`: `-g FILE -c FILE`, the tiny settings so changed."""
    count = iter(range(1000))

    def write(model: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]) -> list[str]:
        number = next(count)
        files = {
            "-g": (tmp_path / f"model{number}.yaml", {"melhubert": {**tiny_settings, **(model or {})}}),
            "-c": (tmp_path / f"runner{number}.yaml", _merge(RUNNER, sections)),
        }
        for path, content in files.values():
            path.write_text(yaml.safe_dump(content))
        return [text for flag, (path, _) in files.items() for text in (flag, str(path))]

    return write
