"""The names of audio files, which a set is known by, and how little is kept of each of millions."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from s3prl_melhubert.pretrain.data import audio_files
from s3prl_melhubert.pretrain.data.audio_files import AudioFiles, find_audio_files
from s3prl_melhubert.pretrain.data.manifest import columns


def everything(files: AudioFiles) -> slice:
    return slice(0, len(files))


def make(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(number))


@pytest.mark.parametrize(
    ("files", "given", "ids", "places"),
    [
        (["a/1.wav", "a/2.flac", "b/3.x.wav"], ["."], ["1", "2", "3.x"], None),
        (["a/1.wav", "b/1.wav", "c.d/x..wav"], ["."], ["a/1", "b/1", "c.d/x."], None),
        (["a/1.wav", "a/1.flac"], ["a"], ["1.flac", "1.wav"], ["1.flac", "1.wav"]),
        (["a/1.wav", "b/1.wav"], ["a/1.wav", "b/1.wav"], ["a/1", "b/1"], ["1.wav", "1.wav"]),
        (["a/1.wav", "b/2.wav"], ["b", "a/1.wav"], ["2", "1"], ["2.wav", "1.wav"]),
        (["a/b/1.wav", "a/c/1.wav"], ["a/b", "a/c"], ["b/1.wav", "c/1.wav"], ["1.wav", "1.wav"]),
        (["a/b/1.wav", "a/c"], ["a/b/1.wav", "a/c"], ["1", "c"], ["1.wav", "c"]),
        (["\udcff/1.wav", "é/1.wav"], ["."], ["é/1", "\udcff/1"], None),
    ],
    ids=[
        "stems",
        "below the folder",
        "with the suffix",
        "given files",
        "both",
        "two folders",
        "no suffix",
        "bytes",
    ],
)
def test_names_and_places(files, given, ids, places, tmp_path, monkeypatch):
    make(tmp_path, *files)
    monkeypatch.chdir(tmp_path)
    found = find_audio_files(given)
    assert found.ids(everything(found)) == ids
    paths = [Path(os.path.relpath(path)) for path in found.paths(everything(found))]
    sizes = [path.stat().st_size for path in paths]
    assert found.sizes.tolist() == sizes
    assert found.times.tolist() == [path.stat().st_mtime_ns for path in paths]
    # The sets of earlier versions hold these hashes.
    assert found.digest == digest(paths, sizes)
    assert found.digest_of_places == digest(ids, paths if places is None else places, sizes)


@pytest.mark.parametrize(
    "given",
    [["a"], ["a/b", "a/c"], ["a/b/1.wav", "a/b/1.flac", "a/c/1.wav"]],
    ids=["folder", "folders", "files"],
)
def test_files_of_one_stem_keep_their_names_where_they_are_moved(given, tmp_path, monkeypatch):
    """A set is known by them, and a command that was killed goes on with them."""
    make(tmp_path, "a/b/1.wav", "a/b/1.flac", "a/c/1.wav")
    monkeypatch.chdir(tmp_path)
    here = find_audio_files(given)
    (tmp_path / "a").rename(tmp_path / "moved")
    there = find_audio_files([tmp_path / "moved" / Path(each).relative_to("a") for each in given])
    assert here.ids(everything(here)) == there.ids(everything(there))
    assert here.digest_of_places == there.digest_of_places


def digest(*columns) -> str:
    lines = "".join("\t".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def test_millions_of_files_fit_into_memory(tmp_path, monkeypatch):
    """15 million utterances, which 60 000 hours have, would otherwise take 13 GB."""
    number = 4000
    monkeypatch.setattr(columns, "BLOCK", 64)  # as much smaller as there are fewer files here
    make(tmp_path, *(f"{n // 100:04d}/{n // 100:04d}-0000-{n % 100:04d}.wav" for n in range(number)))
    find_audio_files([tmp_path])  # What is loaded once counts for none of them.
    tracemalloc.start()
    found = find_audio_files([tmp_path])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    path = len(str(found.paths(slice(0, 1))[0]))
    assert len(found) == number
    assert kept / number < 1.2 * path + 40
    assert peak / number < 1.2 * path + 120


@pytest.mark.parametrize(
    ("most", "ends"), [(128, [2, 3, 4, 7]), (2, [2, 3, 4, 6, 7]), (1, [1, 2, 3, 4, 5, 6, 7])]
)
def test_a_shard_ends_after_so_many_files_or_bytes(most, ends, tmp_path, monkeypatch):
    """So it has an hour of audio at the most, or a single file that is longer."""
    for number, size in enumerate((40, 60, 30, 200, 10, 10, 10)):
        (tmp_path / f"{number}.wav").write_bytes(bytes(size))
    monkeypatch.setattr(audio_files, "SHARD_BYTES", 100)
    shards = list(find_audio_files([tmp_path]).shards(most))
    assert [shard.stop for shard in shards] == ends
    assert [shard.start for shard in shards] == [0, *ends[:-1]]
