"""SUPERB's phone recognition: s3prl's `ctc` on LibriSpeech's phones."""

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
from s3prl_melhubert.downstream_recipes.lexicon import (
    PHONEMES,
    check_words,
    load_lexicon,
    s3prl_lexicons,
    write_lexicon,
)
from s3prl_melhubert.downstream_recipes.librispeech import librispeech_root
from s3prl_melhubert.downstream_recipes.problems import Problems
from s3prl_melhubert.downstream_recipes.recipe import Corpus, Recipe
from s3prl_melhubert.downstream_recipes.results import Difference


class PhoneRecognition(Recipe):
    task = "pr"
    downstream = "ctc"
    test_split = "test"
    test_name = "test-clean"
    best_checkpoint = "dev-best.ckpt"
    score = "per"
    scale = 100.0
    predictions = "test-hyp.ark"
    disk = 100 * 1024**2
    corpus_argument = "librispeech"

    def add_corpus_arguments(self, parser: argparse.ArgumentParser, required: bool = True) -> None:
        corpus = parser.add_argument_group("corpus")
        corpus.add_argument("--librispeech", required=required, metavar="DIR", help="holds the splits")
        corpus.add_argument(
            "--lexicon",
            nargs="+",
            metavar="FILE",
            help="lines WORD<tab>PHONES; default: those in a checkout of s3prl, otherwise CMUdict",
        )

    def corpus_identity(self, args: argparse.Namespace) -> dict[str, Any]:
        lexicon = None if args.lexicon is None else [full_path(path) for path in args.lexicon]
        return {"--librispeech": full_path(args.librispeech), "--lexicon": lexicon}

    def check(self, args: argparse.Namespace) -> Corpus:
        problems = Problems()
        splits = check_superb_librispeech(args.librispeech, problems)
        words = {word for split in splits.values() for utterance in split for word in utterance.words}
        lexicon = load_lexicon(words, args.lexicon)
        check_words(splits, lexicon, problems)
        problems.raise_if_any(f"LibriSpeech in {args.librispeech}")
        differences = size_differences(splits, LIBRISPEECH)
        if not lexicon.files:
            differences.append(Difference("lexicon", "LibriSpeech's, in a checkout of s3prl", lexicon.source))
        return Corpus(
            path=full_path(librispeech_root(args.librispeech, LIBRISPEECH)),
            summary=[*summary(splits), f"lexicon: {len(words)} words, from {lexicon.source}"],
            test_utterances=[utterance.name for utterance in splits["test-clean"]],
            differences=differences,
            content=(lexicon, words),
            lexicon=lexicon.source,
        )

    def fill_in(
        self, settings: dict[str, Any], corpus: Corpus | None, folder: Path, args: argparse.Namespace
    ) -> None:
        settings["downstream_expert"]["text"]["vocab_file"] = str(PHONEMES)
        place = settings["downstream_expert"]["corpus"]
        place["num_workers"] = args.workers
        if corpus is None:
            files = [full_path(path) for path in args.lexicon or s3prl_lexicons()]
            place["lexicon"] = files or None
            return
        lexicon, words = corpus.content
        place["path"] = corpus.path
        place["lexicon"] = [str(write_lexicon(folder / "lexicon.txt", lexicon, words))]
