"""LibriSpeech's check names every fault that would stop s3prl or spoil a result, before any training."""

from __future__ import annotations

import pytest

from s3prl_melhubert.downstream_recipes.corpora.librispeech import check_librispeech, librispeech_root
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError

SPLITS = ["train-clean-100", "dev-clean", "test-clean"]


def faults(root, splits=SPLITS) -> str:
    """The report of a check that has to find something."""
    problems = Problems()
    check_librispeech(root, splits, problems)
    with pytest.raises(MelHuBERTError) as error:
        problems.raise_if_any("LibriSpeech here")
    return str(error.value)


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def transcripts(librispeech):
    return librispeech / "dev-clean/20/7/20-7.trans.txt"


@pytest.fixture
def flac(librispeech):
    return librispeech / "dev-clean/20/7/20-7-0002.flac"


def test_good_corpus_is_read_whole(librispeech):
    problems = Problems()
    checked = check_librispeech(librispeech, SPLITS, problems)
    problems.raise_if_any("LibriSpeech")
    assert list(checked) == SPLITS
    names = [utterance.name for utterance in checked["dev-clean"]]
    assert names == ["20-7-0000", "20-7-0002", "20-7-0004", "21-7-0001", "21-7-0003"]
    second = checked["dev-clean"][1]
    assert second.words == ("THE", "BOY", "LAUGHED", "AT", "THE", "DOG")
    assert (second.samples, second.path.name) == (8000, "20-7-0002.flac")


def test_real_speech_is_read_whole(spoken_librispeech):
    problems = Problems()
    checked = check_librispeech(spoken_librispeech, SPLITS, problems)
    problems.raise_if_any("LibriSpeech")
    assert [len(checked[split]) for split in SPLITS] == [427, 51, 59]


def test_lower_case_transcripts_are_read_in_capitals_as_s3prl_does(librispeech, transcripts):
    transcripts.write_text(transcripts.read_text().lower())
    checked = check_librispeech(librispeech, SPLITS, Problems())
    assert checked["dev-clean"][0].words == ("THE", "BOY'S", "DOG", "BARKED")


def test_folder_above_librispeech_is_accepted(librispeech):
    assert librispeech_root(librispeech.parent, SPLITS) == librispeech
    assert len(check_librispeech(librispeech.parent, SPLITS, Problems())["dev-clean"]) == 5


def test_a_split_given_as_root_is_told_from_the_folder_of_splits(librispeech):
    with pytest.raises(MelHuBERTError, match=r"is a split, expected the folder above it, .*/LibriSpeech"):
        librispeech_root(librispeech / "dev-clean", SPLITS)


def test_wrong_folder_says_what_is_there(tmp_path):
    (tmp_path / "music").mkdir()
    with pytest.raises(MelHuBERTError, match=r"none of the splits .*found music"):
        librispeech_root(tmp_path, SPLITS)
    with pytest.raises(MelHuBERTError, match="no such folder, expected one with train-clean-100"):
        librispeech_root(tmp_path / "nowhere", SPLITS)


def test_absent_split_is_named(librispeech):
    assert "splits that are not there: 1 (test-other)" in faults(librispeech, [*SPLITS, "test-other"])


def test_split_without_utterances_is_named(librispeech):
    (librispeech / "test-other").mkdir()
    assert "splits without utterances: 1 (test-other)" in faults(librispeech, [*SPLITS, "test-other"])


def test_absent_flac_is_named(librispeech, flac):
    flac.unlink()
    assert "transcripts whose FLAC is not there: 1 (dev-clean/20/7/20-7-0002.flac)" in faults(librispeech)


def test_flac_without_transcript_is_named(librispeech, write_audio):
    write_audio(librispeech / "dev-clean/20/7/20-7-0099.flac")
    expected = "FLAC files without a transcript: 1 (dev-clean/20/7/20-7-0099.flac)"
    assert expected in faults(librispeech)


def test_absent_transcripts_are_one_fault_not_one_a_file(librispeech, transcripts):
    transcripts.unlink()
    told = faults(librispeech)
    assert "dev-clean/20/7/20-7.trans.txt: No such file" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("20-7-0002 THE BOY LAUGHED AT THE DOG", "20-7-0002", "transcripts without a word: 1 (20-7-0002)"),
        ("LAUGHED AT", "LAUGHED @ 3", "apostrophe and space: 1 (20-7-0002: 3 @)"),
        ("20-7-0004", "20-7-0002", "utterances found twice: 1 (20-7-0002 in dev-clean/20/7/20-7.trans.txt)"),
        ("20-7-0004", "\n20-7-0004", "blank lines in transcripts: 1 (dev-clean/20/7/20-7.trans.txt line 3)"),
        ("20-7-0004", "20-7-0004.a", "names with a dot in them: 1 (20-7-0004.a)"),
    ],
)
def test_faulty_transcript_is_named(librispeech, transcripts, old, new, told):
    edit(transcripts, old, new)
    assert told in faults(librispeech)


def test_utterance_in_two_splits_is_named(librispeech, write_audio):
    write_audio(librispeech / "test-clean/20/7/20-7-0002.flac")
    (librispeech / "test-clean/20/7/20-7.trans.txt").write_text("20-7-0002 A DOG\n")
    assert "found twice: 1 (20-7-0002 in dev-clean and test-clean)" in faults(librispeech)


@pytest.mark.parametrize("kept", [0, 50, 0.5, 0.99])
def test_flac_cut_short_is_named(librispeech, flac, kept):
    content = flac.read_bytes()
    flac.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    told = faults(librispeech)
    assert "audio files that cannot be read to their end: 1 (dev-clean/20/7/20-7-0002.flac: " in told


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"rate": 44100}, "not at 16000 Hz: 1 (dev-clean/20/7/20-7-0002.flac at 44100)"),
        ({"channels": 2}, "more than one channel: 1 (dev-clean/20/7/20-7-0002.flac of 2)"),
    ],
)
def test_audio_that_s3prl_would_read_wrongly_is_named(librispeech, flac, write_audio, how, told):
    write_audio(flac, **how)
    assert told in faults(librispeech)


def test_hidden_files_and_folders_of_something_else_are_passed_over(librispeech, flac):
    (flac.parent / f"._{flac.name}").write_bytes(b"a Mac's")
    (flac.parent.parent / "notes").mkdir()
    (flac.parent.parent / "notes/speaker.txt").write_text("a speaker of 20 years")
    problems = Problems()
    check_librispeech(librispeech, SPLITS, problems)
    assert len(problems) == 0


def test_all_faults_are_counted_and_the_first_ten_named():
    problems = Problems()
    for i in range(12):
        problems.add(Kind("bad things", "mend them"), f"thing{i:02d}")
    with pytest.raises(MelHuBERTError) as error:
        problems.raise_if_any("corpus")
    names = ", ".join(f"thing{i:02d}" for i in range(10))
    assert str(error.value) == f"corpus: bad things: 12 ({names}, and 2 more); mend them"


def test_faults_of_several_kinds_take_a_line_each(librispeech, flac, transcripts, write_audio):
    write_audio(flac, rate=44100)
    edit(transcripts, "20-7-0004", "20-7-0005")
    lines = faults(librispeech).splitlines()
    assert lines[0] == "LibriSpeech here: 3 faults of 3 kinds"
    assert len(lines) == 4
