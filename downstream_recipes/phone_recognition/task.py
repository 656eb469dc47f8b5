"""SUPERB's phone recognition: s3prl's `ctc` on LibriSpeech's phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.content import content_of
from s3prl_melhubert.downstream_recipes.corpora.librispeech import UNTRANSCRIBED
from s3prl_melhubert.downstream_recipes.corpora.superb_librispeech import (
    ARGUMENT,
    SIZES,
    TEST,
    LibriSpeechCorpus,
    read_superb_librispeech,
    root_for_s3prl,
    superb_librispeech,
)
from s3prl_melhubert.downstream_recipes.corpora.untranscribed import SKIP, problems_of
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.outputs import Labels, Transcript
from s3prl_melhubert.downstream_recipes.phone_recognition.lexicon import (
    PHONEMES,
    Lexicon,
    check_words,
    load_lexicon,
    s3prl_lexicons,
    write_lexicon,
)
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.task import (
    Argument,
    Metric,
    Preparation,
    Task,
    TaskOptions,
)
from s3prl_melhubert.support.files import full_path

LEXICON = Argument(
    "lexicon",
    "FILE",
    "lines WORD<tab>PHONES; default: those in a checkout of s3prl, otherwise CMUdict",
    several=True,
)


@dataclass(frozen=True, kw_only=True)
class PhoneCorpus(LibriSpeechCorpus):
    """LibriSpeech, and a pronunciation for each of its words."""

    pronunciations: Lexicon
    words: frozenset[str]  # those of the transcripts


def check(options: TaskOptions) -> PhoneCorpus:
    """Check LibriSpeech, and that the lexicon has all of its words.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = problems_of(options, UNTRANSCRIBED)
    splits = read_superb_librispeech(options, problems)
    words = frozenset(word for split in splits.values() for utterance in split for word in utterance.words)
    lexicon = load_lexicon(words, options.several(LEXICON.name))
    check_words(splits, lexicon, problems)
    librispeech = superb_librispeech(options, splits, problems)
    differences = list(librispeech.differences)
    if not lexicon.files:
        differences.append(Difference("lexicon", "LibriSpeech's, in a checkout of s3prl", lexicon.source))
    return PhoneCorpus(
        path=librispeech.path,
        summary=[*librispeech.summary, f"lexicon: {len(words)} words, from {lexicon.source}"],
        test_utterances=librispeech.test_utterances,
        differences=differences,
        content=content_of(librispeech.path, splits, {word: lexicon.pronunciations[word] for word in words}),
        lexicon=lexicon.source,
        splits=splits,
        left_out=librispeech.left_out,
        pronunciations=lexicon,
        words=words,
    )


def fill_in(settings: dict[str, Any], preparation: Preparation[PhoneCorpus]) -> None:
    """Write the lexicon of the corpus' words; set the paths of corpus, lexicon and vocabulary."""
    settings["downstream_expert"]["text"]["vocab_file"] = str(PHONEMES)
    section = settings["downstream_expert"]["corpus"]
    section["num_workers"] = preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        files = preparation.options.several(LEXICON.name) or s3prl_lexicons()
        section["lexicon"] = [full_path(path) for path in files] or None
        return
    path = write_lexicon(preparation.folder / "lexicon.txt", corpus.pronunciations, corpus.words)
    section["path"] = root_for_s3prl(corpus, preparation.folder)
    section["lexicon"] = [str(path)]


@cache
def _phones() -> frozenset[str]:
    # s3prl's vocabulary has a symbol for the unknown, too, which a model may say that is hardly trained.
    return frozenset([*PHONEMES.read_text(encoding="utf-8").split(), "<unk>"])


def fault_in_phones(symbols: Sequence[str]) -> str | None:
    return next((repr(symbol) for symbol in symbols if symbol not in _phones()), None)


def labels(settings: Mapping[str, Any]) -> Labels:
    """The phones, in the order of s3prl's outputs."""
    vocabulary = Path(settings["downstream_expert"]["text"]["vocab_file"])
    return {"phones": vocabulary.read_text(encoding="utf-8").splitlines()}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write the vocabulary, which is all that s3prl reads."""
    vocabulary = folder / PHONEMES.name
    vocabulary.write_text("\n".join(labels["phones"]), encoding="utf-8")
    settings["downstream_expert"]["text"]["vocab_file"] = str(vocabulary)


PHONES = LineFormat("`UTTERANCE PHONE PHONE ...` (the 71 phones of phoneme.txt)", fault_in_phones)

TASK = Task(
    key="pr",
    name="phone recognition",
    column=1,
    downstream="ctc",
    folder=Path(__file__).parent,
    arguments=(ARGUMENT, LEXICON, SKIP),
    check=check,
    fill_in=fill_in,
    metric=Metric("PER", higher_is_better=False, printed="per", scale=100.0),
    test_split="test",
    test_name=TEST,
    best_checkpoint="dev-best.ckpt",
    predictions=(PredictionFile("test-hyp.ark", "pr_public/predict.ark", PHONES),),
    sizes=SIZES,
    published={"FBANK": 82.01, "wav2vec 2.0 Base": 5.74, "HuBERT Base": 5.41},
    outputs=Transcript(
        kinds=("phones",),
        labels=labels,
        stand_in=stand_in,
        record="hypothesis",
        parts=lambda said: {"phones": said},
    ),
)
