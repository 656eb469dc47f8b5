"""The quickstart's sentences: short and plain English, of 154 words that `lexicon.txt` covers.

`words.yaml` holds templates and words. `lexicon.txt` has lines `WORD<tab>PHONES`; its pronunciations are the
first ones of the CMU Pronouncing Dictionary (ARPAbet, with stress).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from s3prl_melhubert.support.settings import read_yaml_mapping

LEXICON = Path(__file__).parent / "lexicon.txt"
WORDS = Path(__file__).parent / "words.yaml"


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences in lower case without punctuation, in an order that the seed sets; none comes twice."""
    words = read_yaml_mapping(WORDS)
    templates = words.pop("templates")
    choice = random.Random(seed).choice
    seen = set()
    while True:
        sentence = re.sub(r"\{(\w+)\}", lambda match: choice(words[match[1]]), choice(templates))
        if sentence not in seen:
            seen.add(sentence)
            yield sentence
