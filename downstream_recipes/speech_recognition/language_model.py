"""Decoding with a word language model of KenLM's: s3prl's settings, and what can be checked beforehand.

The language model is an ARPA file (also .gz); the lexicon has the words that can be recognized, as lines
`WORD<tab>W O R D |`. SUPERB takes the 4-gram of openslr.org/11 and wav2letter's librispeech_lexicon.lst.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from s3prl_melhubert.compat.experts.kenlm_decoding import check_flashlight_text
from s3prl_melhubert.downstream_recipes.corpora.librispeech import LETTERS
from s3prl_melhubert.downstream_recipes.corpora.listing import read_lines
from s3prl_melhubert.downstream_recipes.corpora.problems import NAMED
from s3prl_melhubert.downstream_recipes.s3prl_files import check_passable
from s3prl_melhubert.downstream_recipes.task import Argument, SecondTesting, TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path, sha256_of, suffix_of
from s3prl_melhubert.support.progress import progress

# The names and values of s3prl's own asr/config.yaml. Its decoder needs all of them.
SETTINGS = {
    "decoder_type": "kenlm",
    "nbest": 1,
    "criterion": "ctc",
    "beam": 5,
    "beam_threshold": 25,
    "lm_weight": 2,
    "word_score": -1,
    "unk_weight": "-math.inf",
    "sil_weight": 0,
}
# The place of these settings in s3prl's.
SECTION = "config.downstream_expert.datarc.decoder_args"
# How many words of an ARPA file are looked at, to see whether it knows the lexicon's words; LibriSpeech's
# model has 200 000.
LOOKED_AT = 100_000
END, TAIL = b"\\end\\", 4096  # what an ARPA file ends with, and the bytes in which it is looked for

KENLM = Argument("kenlm", "ARPA", "a language model of KenLM's to decode with")
KENLM_LEXICON = Argument("kenlm-lexicon", "FILE", "its words, as lines WORD<tab>W O R D |")


def decoding(options: TaskOptions) -> SecondTesting | None:
    """Find out what `--kenlm` and `--kenlm-lexicon` ask for; None where neither was given.

    Raises:
        MelHuBERTError: one without the other, flashlight-text is not installed, or the files do not go
            together with each other and with the task's letters.
    """
    given = options.one(KENLM.name), options.one(KENLM_LEXICON.name)
    if given == (None, None):
        return None
    if given[0] is None or given[1] is None:
        raise MelHuBERTError("--kenlm and --kenlm-lexicon: one needs the other")
    check_flashlight_text()
    model, lexicon = Path(full_path(given[0])), Path(full_path(given[1]))
    for path in (model, lexicon):
        if not path.is_file():
            raise MelHuBERTError(f"{path}: no such file")
        check_passable(path, str(path))
    words = read_words(lexicon)
    # Words that the model does not know are all alike to it: with another case, it would decide nothing.
    if not any(word in words for word in islice(unigrams(model), LOOKED_AT)):
        shown = ", ".join(islice(sorted(words), NAMED))
        raise MelHuBERTError(
            f"{model}: knows none of the words of {lexicon} ({shown}, ...); both must be in capitals"
        )
    check_end(model)
    values = {**SETTINGS, "kenlm_model": str(model), "lexicon": str(lexicon)}
    return SecondTesting(
        override={f"{SECTION}.{name}": value for name, value in values.items()},
        files={"kenlm": str(model), "lexicon": str(lexicon)},
        digests={"kenlm_sha256": sha256_of(model), "lexicon_sha256": sha256_of(lexicon)},
    )


def read_words(path: Path) -> set[str]:
    """Read the words of a lexicon.

    Raises:
        MelHuBERTError: a line is not a word with its letters and the word boundary.
    """
    words = set()
    for number, line in enumerate(read_lines(path, "a lexicon"), 1):
        word, *spelling = line.split() or [""]
        if not spelling or set(spelling) - LETTERS - {"|"}:
            raise MelHuBERTError(
                f"{path} line {number}: {line.strip()!r} found, expected WORD<tab>W O R D | in capitals"
            )
        words.add(word)
    if not words:
        raise MelHuBERTError(f"{path}: no words in it, expected lines WORD<tab>W O R D |")
    return words


def unigrams(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file, in its order.

    Raises:
        MelHuBERTError: it is no ARPA file, or knows no pairs of words, which KenLM asks for.
    """
    open_text = gzip.open if suffix_of(path) == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8") as file:
            header = [line.strip() for line in islice(file, 20)]
            if not any(line.startswith("ngram 2=") for line in header):
                raise MelHuBERTError(
                    f"{path}: expected an ARPA file (or .arpa.gz), of pairs of words at least (`ngram 2=`)"
                )
            file.seek(0)
            inside = False
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        return
                    inside = line.startswith("\\1-grams:")
                elif inside and len(columns := line.split()) >= 2:
                    yield columns[1]
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise MelHuBERTError(f"{path}: cannot be read as an ARPA file ({error})") from None


def check_end(path: Path) -> None:
    """Make sure that an ARPA file was not cut short: KenLM reads it after the training, and would stop then.

    Raises:
        MelHuBERTError: it does not end as such a file does, or cannot be read to its end.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file, progress(size, f"check {path.name}", "B", unit_scale=True) as bar:
            if suffix_of(path) == ".gz":
                tail = b""
                with gzip.open(file) as unpacked:
                    while chunk := unpacked.read(1 << 20):
                        tail = (tail + chunk)[-TAIL:]
                        bar.update(file.tell() - bar.n)
            else:
                file.seek(max(0, size - TAIL))
                tail = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise MelHuBERTError(f"{path}: cannot be read to its end ({error}); fetch it again") from None
    if tail.split()[-1:] != [END]:
        raise MelHuBERTError(f"{path}: does not end with {END.decode()} as an ARPA file does; fetch it again")
