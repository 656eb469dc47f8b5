"""The corpus of phones works in s3prl's own `ctc`: its tokenizer, its loaders, and what they expect."""

from __future__ import annotations

import sys

import pytest
import torch

from s3prl_melhubert.downstream_recipes.phone_recognition.corpus import libriphone
from s3prl_melhubert.downstream_recipes.phone_recognition.corpus.libriphone import LibriPhoneDataset
from s3prl_melhubert.downstream_recipes.phone_recognition.lexicon import PHONEMES
from s3prl_melhubert.errors import MelHuBERTError


@pytest.fixture(scope="session")
def tokenizer():
    from s3prl.downstream.ctc.text import load_text_encoder

    return load_text_encoder(mode="word", vocab_file=str(PHONEMES))


@pytest.fixture
def in_s3prl(monkeypatch):
    """s3prl's `ctc.data`, with the module in the place where it imports it."""
    import s3prl.downstream.ctc.data as data

    monkeypatch.setitem(sys.modules, "s3prl.downstream.ctc.corpus", libriphone)
    monkeypatch.setitem(sys.modules, "s3prl.downstream.ctc.corpus.libriphone", libriphone)
    return data


def corpus_settings(root, lexicon, **more):
    return {
        "name": "libriphone",
        "path": str(root),
        "lexicon": [str(lexicon)],
        "bucketing": True,
        "batch_size": 2,
        "num_workers": 0,
        "train": ["train-clean-100"],
        "dev": ["dev-clean"],
        "test": ["test-clean"],
        **more,
    }


def test_items_are_first_pronunciations_longest_first(librispeech, lexicon_file, tokenizer):
    dataset = LibriPhoneDataset(["dev-clean"], tokenizer, 1, librispeech, [lexicon_file])
    spoken = [tokenizer.decode(tokens) for _, tokens in dataset]
    assert spoken[0] == "DH AH0 B OY1 L AE1 F T AE1 T DH AH0 D AO1 G"
    assert spoken[-1] == "OW1 AH0 B OY1"  # A is AH0, its first pronunciation
    assert [len(phones.split()) for phones in spoken] == [15, 13, 9, 5, 4]
    assert all(type(item) is tuple and path.is_file() for item in dataset for path in item[:1])


def test_s3prls_loaders_train_on_buckets_and_evaluate_one_by_one(
    in_s3prl, librispeech, lexicon_file, tokenizer
):
    settings = corpus_settings(librispeech, lexicon_file)
    train = list(in_s3prl.load_dataset("train", tokenizer, dict(settings)))
    assert len(train) == 5  # a bucket at each index, two utterances each
    assert {len(waves) for waves, _, _ in train} == {2}
    for waves, labels, names in train:
        assert len(waves[0]) >= len(waves[1])
        assert len(labels) == len(names) == 2
    dev = list(in_s3prl.load_dataset("dev", tokenizer, dict(settings)))
    assert [len(waves) for waves, _, _ in dev] == [1] * 5
    waves, labels, names = dev[0]
    assert (len(waves[0]), names) == (8000, ("20-7-0002",))
    assert tokenizer.decode(labels[0].tolist()).startswith("DH AH0 B OY1 L AE1 F T")


def test_loaders_without_buckets(in_s3prl, librispeech, lexicon_file, tokenizer):
    settings = corpus_settings(librispeech, lexicon_file, bucketing=False)
    assert [len(waves) for waves, _, _ in in_s3prl.load_dataset("train", tokenizer, settings)] == [2, 2, 1]


def test_bucket_larger_than_the_corpus_is_the_corpus(librispeech, lexicon_file, tokenizer):
    dataset = LibriPhoneDataset(["dev-clean"], tokenizer, 16, librispeech, [lexicon_file])
    assert [len(dataset[i]) for i in range(len(dataset))] == [5] * 5


def test_last_buckets_are_full(librispeech, lexicon_file, tokenizer):
    dataset = LibriPhoneDataset(["dev-clean"], tokenizer, 3, librispeech, [lexicon_file])
    assert dataset[0] == dataset.items[:3]
    assert dataset[4] == dataset[3] == dataset[2] == dataset.items[2:]


def test_missing_word_names_word_utterance_and_lexicon(librispeech, lexicon_file, tokenizer):
    lexicon_file.write_text(lexicon_file.read_text().replace("LAUGHED", "LAUGHS"))
    with pytest.raises(MelHuBERTError, match=r"20-7-0002.flac: the word LAUGHED is not in the .*lexicon.txt"):
        LibriPhoneDataset(["dev-clean"], tokenizer, 1, librispeech, [lexicon_file])


def test_phone_outside_the_vocabulary_is_named(librispeech, lexicon_file, tmp_path):
    from s3prl.downstream.ctc.text import load_text_encoder

    (tmp_path / "few.txt").write_text(PHONEMES.read_text().replace("OY1\n", ""))
    few = load_text_encoder(mode="word", vocab_file=str(tmp_path / "few.txt"))
    with pytest.raises(MelHuBERTError, match=r"the phone OY1 .* is not in the vocabulary file"):
        LibriPhoneDataset(["dev-clean"], few, 1, librispeech, [lexicon_file])


def test_mismatched_transcripts_are_told(librispeech, lexicon_file, tokenizer):
    (librispeech / "dev-clean/20/7/20-7-0002.flac").unlink()
    with pytest.raises(MelHuBERTError, match="whose FLAC is not there: 1"):
        LibriPhoneDataset(["dev-clean"], tokenizer, 1, librispeech, [lexicon_file])


def test_module_stands_alone_under_s3prls_name(run_python, librispeech, lexicon_file):
    """It is loaded from its file under another name, and its loader's workers get it as well."""
    code = """
import importlib.util, sys, types
path, root, lexicon, phonemes = sys.argv[1:]
name = "s3prl.downstream.ctc.corpus.libriphone"
import s3prl.downstream.ctc.data as data
from s3prl.downstream.ctc.text import load_text_encoder
spec = importlib.util.spec_from_file_location(name, path)
module = importlib.util.module_from_spec(spec)
sys.modules["s3prl.downstream.ctc.corpus"] = types.ModuleType("s3prl.downstream.ctc.corpus")
sys.modules[name] = module
spec.loader.exec_module(module)
settings = dict(name="libriphone", path=root, lexicon=[lexicon], bucketing=True, batch_size=2, num_workers=1,
                train=["train-clean-100"])
tokenizer = load_text_encoder(mode="word", vocab_file=phonemes)
assert len(list(data.load_dataset("train", tokenizer, settings))) == 5
"""
    result = run_python("-c", code, libriphone.__file__, librispeech, lexicon_file, PHONEMES)
    assert result.returncode == 0, result.stderr


def test_real_speech_in_s3prls_loader(in_s3prl, spoken_librispeech, tokenizer):
    settings = corpus_settings(spoken_librispeech, spoken_librispeech.parent / "lexicon.txt", batch_size=16)
    loader = in_s3prl.load_dataset("train", tokenizer, settings)
    assert len(loader) == 427
    waves, labels, _ = next(iter(loader))
    assert len(waves) == 16
    assert all(torch.as_tensor(label).min() >= 3 or label[-1] == tokenizer.eos_idx for label in labels)
