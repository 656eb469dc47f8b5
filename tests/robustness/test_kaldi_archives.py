"""Any damage to the published archive: the prepared set is what it was, or the file at fault is named."""

from __future__ import annotations

import ast
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import STRANGE, damaged_bytes, damaged_fields, same_or_refused

from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi
from s3prl_melhubert.pretrain.data.manifest import utterance_features, utterance_labels
from s3prl_melhubert.pretrain.data.workers import Workers

LENGTHS = {"utt-a": 31, "utt-b": 40, "utt-c": 17}
FEATURES, LABELS, STATS = "train.scp", "train-k512.bas.scp", "train.mean-var"
FIGURES = [0.0, -0.0, 1.0, 1e30, 3e38, -3e38, 1e-45, float("inf"), float("-inf"), float("nan")]

Prepared = dict[str, tuple[bytes, bytes]]  # frames and labels, by the utterance


class Archive:
    """A whole archive, and the folder for its damaged copies; Hypothesis prints it, so its text is short."""

    def __init__(self, folder: Path):
        self.folder, self.copy, self.out = (folder / name for name in ("whole", "damaged", "out"))
        self.count = 0
        self.folder.mkdir()
        random = np.random.default_rng(0)
        self.matrices = {key: random.normal(8, 3, (n, 40)).astype(np.float32) for key, n in LENGTHS.items()}
        self.write_matrices(self.folder)
        write_labels(self.folder, {key: list(range(90, 90 + n)) for key, n in LENGTHS.items()})
        frames = np.concatenate(list(self.matrices.values())).astype(np.float64)
        sums = [frames.sum(0).tolist(), np.square(frames).sum(0).tolist(), len(frames)]
        (self.folder / STATS).write_text("\n".join(map(str, sums)) + "\n")
        self.content = self.prepare(self.folder)

    def __repr__(self) -> str:
        return "Archive(...)"

    def write_matrices(self, folder: Path, changed: np.ndarray | None = None) -> None:
        """Write the three matrices, the last one compressed and, if given, the second one changed."""
        middle = self.matrices["utt-b"] if changed is None else changed
        parts = {"a": self.matrices["utt-a"], "b": middle}
        kaldiio.save_ark(
            str(folder / "1.ark"), {f"utt-{k}": v for k, v in parts.items()}, str(folder / "1.txt")
        )
        last = {"utt-c": self.matrices["utt-c"]}
        kaldiio.save_ark(str(folder / "2.ark"), last, str(folder / "2.txt"), compression_method=2)
        lists = [folder / "1.txt", folder / "2.txt"]
        (folder / FEATURES).write_text("".join(path.read_text() for path in lists))
        for path in lists:
            path.unlink()

    def prepare(self, folder: Path) -> Prepared:
        """The prepared set of an archive; its figures are asserted to be finite."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.count += 1  # The manifest's readers keep files open, by their paths.
        data = prepare_kaldi(folder, self.out / str(self.count), workers=Workers(jobs=1))
        content = {}
        for utterance in data.utterances:
            features = utterance_features(utterance)
            assert np.isfinite(features).all()
            labels = utterance_labels(utterance, data.info.label_period_ms)
            assert 0 <= labels.min() <= labels.max() < 512
            content[utterance.id] = (features.tobytes(), labels.astype(np.int64).tobytes())
        return content

    def damaged(self) -> Path:
        """A fresh copy of the whole archive."""
        shutil.rmtree(self.copy, ignore_errors=True)
        return Path(shutil.copytree(self.folder, self.copy))


def write_labels(folder: Path, ids: dict[str, list]) -> None:
    """Write a line of ids for each utterance, and the list of where the lines begin."""
    lines, position = [], 0
    with (folder / "train-k512.bas").open("wb") as file:
        for key, values in ids.items():
            lines.append(f"{key} /home/somebody/train-k512.bas:{position}\n")
            position += file.write((" ".join(map(str, values)) + "\n").encode())
    (folder / LABELS).write_text("".join(lines))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[Archive]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # The machine will not fail while it is tried.
        yield Archive(tmp_path_factory.mktemp("archive"))


# What is read of these must be the same. A figure in one of the others may become another figure.
LISTS = (FEATURES, LABELS)
FILES = (*LISTS, "1.ark", "2.ark", "train-k512.bas", STATS)


def try_bytes(archive: Archive, name: str, data: st.DataObject) -> None:
    folder = archive.damaged()
    (folder / name).write_bytes(data.draw(damaged_bytes((archive.folder / name).read_bytes())))
    same = (lambda read: read == archive.content) if name in LISTS else None
    same_or_refused(folder, archive.prepare, same)


def try_rows(archive: Archive, name: str, data: st.DataObject) -> None:
    """Keys, paths and offsets of a list become strange."""
    folder = archive.damaged()
    rows = []
    for line in (archive.folder / name).read_text().splitlines():
        key, _, place = line.partition(" ")
        rows.append([key, *place.rsplit(":", 1)])
    changed = data.draw(damaged_fields(rows))
    lines = []
    for row in changed:
        key, path, offset = [*(row if isinstance(row, list) else [row]), "", "", ""][:3]
        lines.append(f"{key} {path}:{offset}\n")
    (folder / name).write_text("".join(lines))
    same_or_refused(folder, archive.prepare, lambda read: read == archive.content)


def try_ids(archive: Archive, data: st.DataObject) -> None:
    """Cluster ids become strange; where all are ids, they are read as those."""
    folder = archive.damaged()
    ids = {key: list(range(90, 90 + n)) for key, n in LENGTHS.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        values = ids[data.draw(st.sampled_from(sorted(ids)))]
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.sampled_from(STRANGE))
    write_labels(folder, ids)

    def same(read: Prepared) -> bool:
        return all(read[key][1] == np.array(values, np.int64).tobytes() for key, values in ids.items())

    same_or_refused(folder, archive.prepare, same)


def try_stats(archive: Archive, data: st.DataObject) -> None:
    folder = archive.damaged()
    lines = [ast.literal_eval(line) for line in (archive.folder / STATS).read_text().splitlines()]
    changed = data.draw(damaged_fields(lines))
    (folder / STATS).write_text("\n".join(map(str, changed)) + "\n")
    same_or_refused(folder, archive.prepare)


def try_matrix(archive: Archive, data: st.DataObject) -> None:
    """Frames become infinite, huge or tiny; a header claims other sizes or another format."""
    folder = archive.damaged()
    changed = archive.matrices["utt-b"].copy()
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(changed) - 1)), data.draw(st.integers(0, 39))
        changed[place] = data.draw(st.sampled_from(FIGURES))
    archive.write_matrices(folder, changed.astype(data.draw(st.sampled_from(["float32", "float64"]))))
    name = data.draw(st.sampled_from(["1.ark", "2.ark"]))
    content = bytearray((folder / name).read_bytes())
    begin = content.index(b"\0B")
    for _ in range(data.draw(st.integers(0, 2))):
        size = data.draw(st.sampled_from([0, 1, -1, 39, 41, 2**31 - 1, -(2**31), 10**6]))
        at = begin + data.draw(st.sampled_from([6, 11, 13, 17]))
        content[at : at + 4] = struct.pack("<i", size)
    if data.draw(st.booleans()):
        kind = data.draw(
            st.sampled_from([b"\0BFM ", b"\0BDM ", b"\0BCM ", b"\0BFV ", b"\0B\4aa", b"PKL\0\0", b"NPYxx"])
        )
        content[begin : begin + 5] = kind
    (folder / name).write_bytes(content)
    same_or_refused(folder, archive.prepare)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_damaged_bytes(archive, name, data):
    try_bytes(archive, name, data)


@pytest.mark.parametrize("name", LISTS)
@given(data=st.data())
def test_strange_rows_of_a_list(archive, name, data):
    try_rows(archive, name, data)


@given(data=st.data())
def test_strange_cluster_ids(archive, data):
    try_ids(archive, data)


@given(data=st.data())
def test_strange_statistics(archive, data):
    try_stats(archive, data)


@given(data=st.data())
def test_strange_matrices(archive, data):
    try_matrix(archive, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=1000)
@given(data=st.data())
def test_much_damaged_bytes(archive, name, data):
    try_bytes(archive, name, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=1000)
@given(data=st.data())
def test_many_strange_rows_of_a_list(archive, name, data):
    try_rows(archive, name, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=2000)
@given(data=st.data())
def test_many_strange_figures(archive, data):
    kind = data.draw(st.sampled_from([try_ids, try_stats, try_matrix]))
    kind(archive, data)
