"""SUPERB's speech recognition: s3prl's `asr` on LibriSpeech."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora import (
    LIBRISPEECH,
    check_superb_librispeech,
    full_path,
    size_differences,
    summary,
)
from s3prl_melhubert.downstream_recipes.librispeech import librispeech_root
from s3prl_melhubert.downstream_recipes.problems import Problems
from s3prl_melhubert.downstream_recipes.recipe import Corpus, Decoding, Recipe
from s3prl_melhubert.downstream_recipes.speech_recognition import language_model
from s3prl_melhubert.downstream_recipes.speech_recognition.buckets import write_buckets


class SpeechRecognition(Recipe):
    task = "asr"
    downstream = "asr"
    test_split = test_name = "test-clean"
    best_checkpoint = "dev-clean-best.ckpt"
    score = "wer"
    scale = 1.0
    predictions = "test-clean-noLM-hyp.ark"
    disk = 2 * 1024**3  # four checkpoints of 43 M parameters with Adam's two moments
    corpus_argument = "librispeech"

    def add_corpus_arguments(self, parser: argparse.ArgumentParser, required: bool = True) -> None:
        corpus = parser.add_argument_group("corpus")
        corpus.add_argument("--librispeech", required=required, metavar="DIR", help="holds the splits")
        if required:  # decoding is s3prl's -m evaluate, for which `superb config` has nothing to prepare
            corpus.add_argument(
                "--kenlm", metavar="ARPA", help="also test with this language model of KenLM's"
            )
            corpus.add_argument(
                "--kenlm-lexicon", metavar="FILE", help="its words, as lines WORD<tab>W O R D |"
            )

    def corpus_identity(self, args: argparse.Namespace) -> dict[str, Any]:
        return {"--librispeech": full_path(args.librispeech)}

    def check(self, args: argparse.Namespace) -> Corpus:
        problems = Problems()
        splits = check_superb_librispeech(args.librispeech, problems)
        problems.raise_if_any(f"LibriSpeech in {args.librispeech}")
        return Corpus(
            path=full_path(librispeech_root(args.librispeech, LIBRISPEECH)),
            summary=summary(splits),
            test_utterances=[utterance.name for utterance in splits["test-clean"]],
            differences=size_differences(splits, LIBRISPEECH),
            content=splits,
        )

    def fill_in(
        self, settings: dict[str, Any], corpus: Corpus | None, folder: Path, args: argparse.Namespace
    ) -> None:
        datarc = settings["downstream_expert"]["datarc"]
        datarc["dict_path"] = str(self.folder / "char.dict")
        datarc["num_workers"] = args.workers
        if corpus is None:
            return
        buckets = folder / "len_for_bucket"
        write_buckets(buckets, corpus.content, Path(corpus.path))
        datarc["libri_root"], datarc["bucket_file"] = corpus.path, str(buckets)

    def decoding(self, args: argparse.Namespace) -> Decoding | None:
        return language_model.decoding(args)
