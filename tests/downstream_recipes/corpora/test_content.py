"""The hash of a corpus is that of what is in it, so that an experiment knows its corpus wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.librispeech import Transcript


def content(*roots: Path) -> str:
    """The hash of two utterances, which lie in one folder or in two."""
    one = Transcript("10-7-0000", roots[0] / "train/10-7-0000.flac", ("A", "DOG"))
    other = Transcript("20-7-0000", roots[-1] / "dev/20-7-0000.flac", ("BARKED",))
    return content_of(roots[0] if len(roots) == 1 else roots, {"train": [one], "dev": [other]}, {"A", "DOG"})


@pytest.fixture
def place(tmp_path) -> Path:
    folder = tmp_path / "LibriSpeech"
    for name, length in (("train/10-7-0000.flac", 100), ("dev/20-7-0000.flac", 200)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(length))
    return folder


def test_a_corpus_that_was_moved_is_the_same(place, tmp_path, monkeypatch):
    before = content(place)
    monkeypatch.chdir(tmp_path)
    assert content(Path("LibriSpeech")) == before
    moved = place.rename(tmp_path / "moved")
    assert content(moved) == before


def test_a_corpus_of_two_folders_that_were_moved_apart_is_the_same(place, tmp_path):
    before = content(place, place)
    (tmp_path / "other").mkdir()
    (place / "dev").rename(tmp_path / "other/dev")
    assert content(place, tmp_path / "other") == before


def test_a_file_of_another_size_makes_another_corpus(place):
    """Audio of the same length differs in size, because FLAC packs another sound otherwise."""
    before = content(place)
    (place / "dev/20-7-0000.flac").write_bytes(bytes(201))
    assert content(place) != before


def test_what_is_said_and_in_which_split_is_part_of_a_corpus(place):
    path = place / "dev/20-7-0000.flac"
    said = Transcript("20-7-0000", path, ("BARKED",)), Transcript("20-7-0000", path, ("LAUGHED",))
    hashes = {content_of(place, {split: [each]}) for split in ("train", "dev") for each in said}
    assert len(hashes) == 4


def test_order_counts_in_lists_alone(tmp_path):
    assert content_of(tmp_path, {"b": 1, "a": 2}) == content_of(tmp_path, {"a": 2, "b": 1})
    assert content_of(tmp_path, [1, 2]) != content_of(tmp_path, [2, 1])
    assert content_of(tmp_path, [[1], 2]) != content_of(tmp_path, [[1, 2]])
