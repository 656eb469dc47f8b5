"""SUPERB's speech recognition: s3prl's `asr` on LibriSpeech, without and with a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from s3prl_melhubert.downstream_recipes.outputs import Labels, Transcript
from s3prl_melhubert.downstream_recipes.prediction_files import LineFormat, PredictionFile
from s3prl_melhubert.downstream_recipes.speech_recognition import language_model
from s3prl_melhubert.downstream_recipes.speech_recognition.buckets import write_buckets
from s3prl_melhubert.downstream_recipes.task import Metric, Preparation, SecondTest, Task, TaskOptions

CHARACTERS = Path(__file__).with_name("char.dict")


def check(options: TaskOptions) -> LibriSpeechCorpus:
    """Check LibriSpeech.

    Raises:
        MelHuBERTError: something is missing or cannot be used; it names what.
    """
    problems = problems_of(options, UNTRANSCRIBED)
    return superb_librispeech(options, read_superb_librispeech(options, problems), problems)


def fill_in(settings: dict[str, Any], preparation: Preparation[LibriSpeechCorpus]) -> None:
    """Write the tables of lengths; set the paths of the corpus, of the tables and of the characters."""
    section = settings["downstream_expert"]["datarc"]
    section["dict_path"], section["num_workers"] = str(CHARACTERS), preparation.workers
    corpus = preparation.corpus
    if corpus is None:
        return
    buckets = preparation.folder / "len_for_bucket"
    write_buckets(buckets, corpus.splits, Path(corpus.path))
    section["libri_root"] = root_for_s3prl(corpus, preparation.folder)
    section["bucket_file"] = str(buckets)


def fault_in_words(words: Sequence[str]) -> str | None:
    return next((repr(word) for word in words if not re.fullmatch("[A-Z']+", word)), None)


def labels(settings: Mapping[str, Any]) -> Labels:
    """The characters, in the order of s3prl's outputs."""
    lines = (
        Path(settings["downstream_expert"]["datarc"]["dict_path"]).read_text(encoding="utf-8").splitlines()
    )
    return {"characters": [line.split(" ")[0] for line in lines]}


def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
    """Write the characters, which is all that s3prl reads; the counts beside them do not matter."""
    characters = folder / CHARACTERS.name
    characters.write_text("".join(f"{each} 1\n" for each in labels["characters"]), encoding="utf-8")
    settings["downstream_expert"]["datarc"]["dict_path"] = str(characters)


WORDS = LineFormat("`UTTERANCE WORD WORD ...` (A-Z and the apostrophe)", fault_in_words)

TASK = Task(
    key="asr",
    name="speech recognition",
    column=6,
    downstream="asr",
    folder=Path(__file__).parent,
    arguments=(ARGUMENT, SKIP),
    check=check,
    fill_in=fill_in,
    metric=Metric("WER", higher_is_better=False, printed="wer", scale=1.0),
    test_split="test-clean",
    test_name=TEST,
    best_checkpoint="dev-clean-best.ckpt",
    predictions=(PredictionFile("test-clean-noLM-hyp.ark", "asr_public/predict.ark", WORDS),),
    sizes=SIZES,
    published={"FBANK": 23.18, "wav2vec 2.0 Base": 6.43, "HuBERT Base": 6.42},
    disk=2 * 1024**3,  # four checkpoints of 43 M parameters with Adam's two moments
    second_test=SecondTest(
        label="LM",
        arguments=(language_model.KENLM, language_model.KENLM_LEXICON),
        predictions=(PredictionFile("test-clean-LM-hyp.ark", "asr_lm_public/predict.ark", WORDS),),
        from_options=language_model.decoding,
    ),
    outputs=Transcript(
        kinds=("characters",),
        labels=labels,
        stand_in=stand_in,
        record="pred_words",
        parts=lambda said: {"words": said},
    ),
)
