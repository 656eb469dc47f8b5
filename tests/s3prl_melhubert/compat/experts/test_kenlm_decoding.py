"""s3prl's own decoder with a language model, on a dictionary, a lexicon and an ARPA file of a few words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.compat.experts.kenlm_decoding import NAMES, check_flashlight_text, restore

LETTERS = "|ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
WORDS = ("I", "SEE", "SEA", "THE")
LIKELY_PAIRS = ("<s> I", "I SEE", "SEE THE", "THE SEA", "SEA </s>")

# s3prl's settings for decoding with a language model; in its YAML files, -math.inf is a text.
SETTINGS = {
    "decoder_type": "kenlm",
    "nbest": 1,
    "criterion": "ctc",
    "beam": 80,
    "beam_threshold": 200,
    "lm_weight": 2,
    "word_score": -1,
    "unk_weight": "-math.inf",
    "sil_weight": 0,
}


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder with char.dict, lexicon.txt and lm.arpa, in which `I SEE THE SEA` is the likely sentence."""
    (tmp_path / "char.dict").write_text("".join(f"{letter} 1\n" for letter in LETTERS))
    (tmp_path / "lexicon.txt").write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in WORDS))
    unigrams = ["-1\t<unk>", "0\t<s>\t-0.3", "-1\t</s>", *(f"-1\t{word}\t-0.3" for word in WORDS)]
    pairs = [f"-0.2\t{pair}" for pair in LIKELY_PAIRS]
    counts = [f"ngram 1={len(unigrams)}", f"ngram 2={len(pairs)}"]
    lines = ["\\data\\", *counts, "", "\\1-grams:", *unigrams, "", "\\2-grams:", *pairs, "", "\\end\\", ""]
    (tmp_path / "lm.arpa").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def decoder(files):
    """Make s3prl's decoder with some settings changed; its dictionary is at `.tgt_dict`."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from s3prl.downstream.asr import expert
    from s3prl.downstream.asr.dictionary import Dictionary

    restore(expert)
    dictionary = Dictionary.load(str(files / "char.dict"))
    paths = {"kenlm_model": str(files / "lm.arpa"), "lexicon": str(files / "lexicon.txt")}
    return lambda **changed: expert.get_decoder({**SETTINGS, **paths, **changed}, dictionary)


def log_probs(dictionary, text: str) -> torch.Tensor:
    """(1, 2 * letters, symbols) in which every `A` and `E` might as well, nearly, be the other."""
    frames = []
    for letter in text:
        frame = torch.full((len(dictionary),), 1e-4)
        for near in "AE" if letter in "AE" else "":
            frame[dictionary.index(near)] = 0.9
        frame[dictionary.index(letter)] = 1.0
        blank = torch.full((len(dictionary),), 1e-4)
        blank[dictionary.bos()] = 1.0
        frames += [frame, blank]
    frames = torch.stack(frames)
    return (frames / frames.sum(-1, keepdim=True)).log().unsqueeze(0)


@pytest.mark.parametrize("heard", ["I|SEE|THE|SEE|", "I|SEA|THE|SEA|"])
def test_language_model_decides_between_words_that_sound_alike(decoder, heard):
    kenlm = decoder()
    (best,) = kenlm.decode(log_probs(kenlm.tgt_dict, heard))[0]
    assert best["words"] == ["I", "SEE", "THE", "SEA"]


def test_without_weight_the_language_model_decides_nothing(decoder):
    kenlm = decoder(lm_weight=0)
    (best,) = kenlm.decode(log_probs(kenlm.tgt_dict, "I|SEA|THE|SEE|"))[0]
    assert best["words"] == ["I", "SEA", "THE", "SEE"]


def test_weight_of_unknown_words_may_be_text_or_number(decoder):
    weights = [decoder(unk_weight=weight).decoder_opts.unk_score for weight in ("-math.inf", -math.inf)]
    assert weights == [-math.inf, -math.inf]


def test_flashlight_text_is_left_alone_where_it_works():
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from s3prl.downstream.asr import w2l_decoder

    check_flashlight_text()
    assert not restore(w2l_decoder)
    assert all(getattr(w2l_decoder, name).__module__.startswith("flashlight") for name in NAMES[2:])


# Without flashlight-text, or without one of its names -------------------------------------------------------

DECODE = """
import json, sys
for name in sys.argv[2:]:
    sys.modules[name] = None  # importing it fails from now on
from s3prl.downstream.asr import expert, w2l_decoder
from s3prl.downstream.asr.dictionary import Dictionary
print(hasattr(expert, "math"), hasattr(w2l_decoder, "KenLM"))
kenlm = expert.get_decoder(json.loads(sys.argv[1]), Dictionary.load("char.dict"))
print(type(kenlm.decoder).__name__)
"""
ARGUMENTS = json.dumps({**SETTINGS, "kenlm_model": "lm.arpa", "lexicon": "lexicon.txt"})


@pytest.mark.parametrize("absent", ["flashlight.lib", "flashlight.lib.text.decoder.kenlm"])
def test_without_flashlight_text_or_its_kenlm_one_line_tells_what_to_install(run_python, files, absent):
    if absent != "flashlight.lib":
        pytest.importorskip(absent)
    done = run_python("-c", DECODE, ARGUMENTS, absent, cwd=files)
    assert done.stdout.endswith("True True\n"), done.stderr  # the hook has put something in their place
    last = done.stderr.splitlines()[-1]
    assert last.startswith("s3prl_melhubert.errors.MelHuBERTError: decoding with a language model needs")
    assert "ModuleNotFoundError" in last
    assert "`pip install flashlight-text`" in last


def test_decoder_works_where_flashlight_text_gives_kenlm_by_its_new_name_alone(run_python, files):
    """As when the old name is gone: its deprecation, as an error, makes s3prl's import fail."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    done = run_python("-W", "error::PendingDeprecationWarning", "-c", DECODE, ARGUMENTS, cwd=files)
    assert done.stdout.splitlines()[-2:] == ["True True", "LexiconDecoder"], done.stderr
