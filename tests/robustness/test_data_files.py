"""Any damage to a prepared set, its settings or its audio: read as what it was, or refused with its name."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import STRANGE, damaged_bytes, damaged_fields, same_or_refused

from s3prl_melhubert import MelHuBERTConfig
from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.pretrain.data.description import DatasetInfo, read_dataset_info, write_dataset_info
from s3prl_melhubert.pretrain.data.kmeans import load_centroids
from s3prl_melhubert.pretrain.data.manifest import Utterance, read_manifest, write_manifest
from s3prl_melhubert.pretrain.training.settings import Settings, config_folder
from s3prl_melhubert.statistics import FeatureStats

STATS = FeatureStats.load("librispeech-100h")
COLUMNS = ["file_path", "label_path", "length", "start", "label_start", "id"]


class Whole:
    """Whole files by their names; Hypothesis prints it with a finding, so its text is short."""

    def __init__(self, folder: Path):
        self.folder = folder
        random = np.random.default_rng(0)
        for name, subtype in (("a.wav", "PCM_16"), ("f.wav", "FLOAT"), ("a.flac", None), ("a.ogg", None)):
            soundfile.write(folder / name, random.normal(0, 0.1, 3000), 16_000, subtype=subtype)
        np.save(folder / "kmeans.npy", random.normal(size=(5, 40)).astype(np.float32))
        shards = Path("features/0.npy"), Path("labels/0.npy")
        rows = [Utterance(f"u{i}", *shards, 10 + i, 20 * i, 20 * i) for i in range(5)]
        write_manifest(folder / "manifest.csv", rows)
        write_dataset_info(folder / "dataset.yaml", DatasetInfo(STATS, 5, utterances=5, frames=60))

    def __repr__(self) -> str:
        return "Whole(...)"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def read_text_mapping(path: Path) -> None:
    read_dataset_info(path)


READERS = {
    "a.wav": read_audio,
    "f.wav": read_audio,
    "a.flac": read_audio,
    "a.ogg": read_audio,
    "kmeans.npy": load_centroids,
    "manifest.csv": read_manifest,
    "dataset.yaml": read_text_mapping,
}


def try_bytes(whole: Whole, name: str, data: st.DataObject) -> None:
    path = whole.folder / f"damaged-{name}"
    path.write_bytes(data.draw(damaged_bytes((whole.folder / name).read_bytes())))
    same_or_refused(path, READERS[name])


def try_rows(whole: Whole, data: st.DataObject) -> None:
    rows = list(csv.reader(io.StringIO((whole.folder / "manifest.csv").read_text())))
    changed = data.draw(damaged_fields(rows))
    path = whole.folder / "rows.csv"
    with path.open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows(row if isinstance(row, list) else [row] for row in changed)
    same_or_refused(path, read_manifest)


YAMLS = {
    "dataset.yaml": read_text_mapping,
    "config_runner.yaml": Settings.from_yaml,
    "config_model.yaml": MelHuBERTConfig.from_yaml,
    "stats.yaml": FeatureStats.load,
}


def try_yaml(whole: Whole, name: str, data: st.DataObject) -> None:
    if name == "stats.yaml":
        content = STATS.to_mapping()
    else:
        folder = whole.folder if name == "dataset.yaml" else config_folder()
        content = yaml.safe_load((folder / name).read_text())
    path = whole.folder / f"fields-{name}"
    path.write_text(yaml.safe_dump(data.draw(damaged_fields(content, STRANGE))))
    same_or_refused(path, YAMLS[name])


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_damaged_bytes(whole, name, data):
    try_bytes(whole, name, data)


@given(data=st.data())
def test_strange_rows_of_a_manifest(whole, data):
    try_rows(whole, data)


@pytest.mark.parametrize("name", YAMLS)
@given(data=st.data())
def test_strange_values_in_settings(whole, name, data):
    try_yaml(whole, name, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=600)
@given(data=st.data())
def test_much_damaged_bytes(whole, name, data):
    try_bytes(whole, name, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=600)
@given(data=st.data())
def test_many_strange_rows_of_a_manifest(whole, data):
    try_rows(whole, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", YAMLS)
@settings(max_examples=600)
@given(data=st.data())
def test_many_strange_values_in_settings(whole, name, data):
    try_yaml(whole, name, data)
