"""VoxCeleb1's check names every fault that would stop s3prl's speaker identification or spoil a result."""

from __future__ import annotations

import shutil

import pytest

from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.corpora.voxceleb import (
    check_voxceleb,
    find_split_file,
    read_split_file,
)
from s3prl_melhubert.errors import MelHuBERTError


def faults(voxceleb) -> str:
    """The report of a check that has to find something."""
    problems = Problems()
    check_voxceleb(*voxceleb, problems)
    with pytest.raises(MelHuBERTError) as error:
        problems.raise_if_any("VoxCeleb1")
    return str(error.value)


def add_line(voxceleb, line: str) -> None:
    voxceleb[1].write_text(voxceleb[1].read_text() + line + "\n")


def test_good_corpus_is_what_s3prl_finds(voxceleb, tmp_path, monkeypatch):
    """s3prl's own dataset, which looks each file up, has the same files, labels and names."""
    from s3prl.downstream.voxceleb1 import dataset as s3prl_dataset

    monkeypatch.setattr(s3prl_dataset, "CACHE_PATH", str(tmp_path / "cache"))
    problems = Problems()
    checked = check_voxceleb(*voxceleb, problems)
    problems.raise_if_any("VoxCeleb1")
    assert {split: len(files) for split, files in checked.items()} == {"train": 12, "dev": 3, "test": 3}
    for split, files in checked.items():
        theirs = s3prl_dataset.SpeakerClassifiDataset(split, *voxceleb)
        assert theirs.dataset == [str(each.path) for each in files]
        assert theirs.label == [each.label for each in files]
        wave, _, name = theirs[0]
        assert (len(wave), name) == (files[0].samples, files[0].prediction_name)
    assert checked["test"][-1].label == 1250


def test_real_speech_is_read_whole(spoken_voxceleb):
    problems = Problems()
    checked = check_voxceleb(*spoken_voxceleb, problems)
    problems.raise_if_any("VoxCeleb1")
    assert [len(checked[split]) for split in ("train", "dev", "test")] == [427, 51, 59]


def test_absent_file_is_named(voxceleb):
    (voxceleb[0] / "dev/wav/id10002/video1/00003.wav").unlink()
    assert "listed but not there: 1 (id10002/video1/00003.wav)" in faults(voxceleb)


def test_absent_archive_is_counted_whole(voxceleb):
    shutil.rmtree(voxceleb[0] / "test")
    told = faults(voxceleb)
    assert "listed but not there: 6 (id11251/video0/00000.wav, " in told
    assert "ROOT/test/wav" in told


def test_file_in_two_places_is_named(voxceleb, write_audio):
    write_audio(voxceleb[0] / "test/wav/id10002/video1/00003.wav")
    assert "there twice: 1 (id10002/video1/00003.wav)" in faults(voxceleb)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"rate": 44100}, "not at 16000 Hz: 1 (id10002/video1/00003.wav at 44100)"),
        ({"channels": 2}, "more than one channel: 1 (id10002/video1/00003.wav of 2)"),
    ],
)
def test_audio_that_s3prl_would_read_wrongly_is_named(voxceleb, write_audio, how, told):
    write_audio(voxceleb[0] / "dev/wav/id10002/video1/00003.wav", **how)
    assert told in faults(voxceleb)


def test_wav_cut_short_is_named(voxceleb):
    path = voxceleb[0] / "dev/wav/id10002/video1/00003.wav"
    path.write_bytes(path.read_bytes()[:3000])
    assert (
        "cannot be read to their end: 1 (id10002/video1/00003.wav: cut short: its header tells of "
        in faults(voxceleb)
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "lines of the split file that are not `1|2|3 idNNNNN/VIDEO/FILE`: 1 (line 19: '')"),
        ("4 id10001/video0/00000.wav", "(line 19: '4 id10001/video0/00000.wav')"),
        ("1 id10001/00000.wav", "(line 19: '1 id10001/00000.wav')"),
        ("1 id11252/video0/00000.wav", "speakers outside id10001 to id11251: 1 (id11252)"),
        ("3 id10009/video0/00000.wav", "without a training file: 1 (id10009)"),
        ("2 id10001/video0/00000.wav", "listed more than once: 1 (id10001/video0/00000.wav)"),
        (
            "2 id10001/video0/00000.flac",
            "one name: 1 (id10001/video0/00000.wav and id10001/video0/00000.flac)",
        ),
    ],
)
def test_faulty_line_is_named(voxceleb, line, told):
    add_line(voxceleb, line)
    assert told in faults(voxceleb)


def test_empty_split_is_named(voxceleb):
    lines = voxceleb[1].read_text().splitlines(keepends=True)
    voxceleb[1].write_text("".join(line for line in lines if not line.startswith("2")))
    assert "splits without a file: 1 (dev)" in faults(voxceleb)


def test_split_file_is_found_in_the_corpus_or_beside_it(voxceleb):
    root, split_file = voxceleb
    assert find_split_file(root) == split_file
    beside = split_file.rename(root.parent / split_file.name)
    assert find_split_file(root) == beside
    beside.rename(root.parent / "mine.txt")
    with pytest.raises(MelHuBERTError, match=r"no iden_split.txt here or beside it.*--split-file"):
        find_split_file(root)
    assert find_split_file(root, root.parent / "mine.txt").name == "mine.txt"
    with pytest.raises(MelHuBERTError, match="no such file"):
        find_split_file(root, root / "nowhere.txt")


def test_wrong_folder_says_what_is_there(voxceleb, tmp_path):
    with pytest.raises(MelHuBERTError, match="expected dev/wav and test/wav in this folder, found wav"):
        check_voxceleb(voxceleb[0] / "dev", voxceleb[1], Problems())
    with pytest.raises(MelHuBERTError, match="no such folder"):
        check_voxceleb(tmp_path / "nowhere", voxceleb[1], Problems())


def test_unreadable_split_file_is_told(tmp_path):
    with pytest.raises(MelHuBERTError, match=r"none.txt: cannot be read .*No such file"):
        read_split_file(tmp_path / "none.txt", Problems())
