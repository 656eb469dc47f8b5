"""The tables of lengths and the characters work in s3prl's own `asr`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import s3prl_melhubert.downstream_recipes.speech_recognition as speech_recognition
from s3prl_melhubert.downstream_recipes.corpora.librispeech import check_librispeech
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.speech_recognition.buckets import write_buckets

SPLITS = ["train-clean-100", "dev-clean", "test-clean"]


@pytest.fixture(scope="session")
def dictionary():
    from s3prl.downstream.asr.dictionary import Dictionary

    return Dictionary.load(str(Path(speech_recognition.__file__).parent / "char.dict"))


def dataset_of(split, root, folder, dictionary, batch):
    from s3prl.downstream.asr.dataset import SequenceDataset

    settings = {"train": ["train-clean-100"], "dev": ["dev-clean"], "test": ["test-clean"]}
    return SequenceDataset(split, batch, dictionary, str(root), str(folder), **settings)


def test_table_is_longest_first_with_lengths_in_samples(librispeech, tmp_path):
    write_buckets(tmp_path / "len", check_librispeech(librispeech, SPLITS, Problems()), librispeech)
    assert sorted(path.name for path in (tmp_path / "len").iterdir()) == sorted(f"{s}.csv" for s in SPLITS)
    lines = (tmp_path / "len/dev-clean.csv").read_text().splitlines()
    assert lines[:2] == [",file_path,length,label", "0,dev-clean/20/7/20-7-0004.flac,12000,"]
    assert pd.read_csv(tmp_path / "len/dev-clean.csv")["length"].tolist() == [12000, 10000, 8000, 6000, 4000]


def test_characters_stand_in_the_order_of_a_checkouts_dictionary(dictionary):
    """A trained model knows them by their numbers, so that another order would make nonsense of its words."""
    # Four special symbols of the format come first: <s> (the blank), <pad>, </s>, <unk>.
    assert dictionary.symbols[4:] == ["|", *"ETAONIHSRDLUMCWGFYPBVK'XJQZ"]
    assert dictionary.bos() == 0


def test_s3prls_dataset_reads_audio_and_characters(librispeech, tmp_path, dictionary):
    write_buckets(tmp_path / "len", check_librispeech(librispeech, SPLITS, Problems()), librispeech)
    one_by_one = dataset_of("test", librispeech, tmp_path / "len", dictionary, 1)
    waves, labels, names = one_by_one[2]
    assert (len(one_by_one), len(waves[0]), names) == (5, 8000, ["30-7-0002"])
    assert dictionary.string(labels[0]) == "T H E | B O Y | L A U G H E D | A T | T H E | D O G |"
    batches = dataset_of("train", librispeech, tmp_path / "len", dictionary, 4)
    # s3prl halves a batch whose longest is over 2000 samples, and drops a last utterance that is alone.
    assert [len(batch) for batch in batches.X] == [2, 2]


def test_s3prls_dataset_reads_real_speech(spoken_librispeech, tmp_path, dictionary):
    checked = check_librispeech(spoken_librispeech, SPLITS, Problems())
    write_buckets(tmp_path / "len", checked, spoken_librispeech)
    tested = dataset_of("test", spoken_librispeech, tmp_path / "len", dictionary, 1)
    assert len(tested) == 59
    lengths = [len(tested[i][0][0]) for i in range(len(tested))]
    assert lengths == sorted((each.samples for each in checked["test-clean"]), reverse=True)
    assert all(tested[i][1][0].max() < len(dictionary.symbols) for i in range(3))
