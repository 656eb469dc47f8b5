"""SUPERB's speaker identification: s3prl's `voxceleb1`."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora import VOXCELEB1, full_path, size_differences, summary
from s3prl_melhubert.downstream_recipes.problems import Problems
from s3prl_melhubert.downstream_recipes.recipe import Corpus, Recipe
from s3prl_melhubert.downstream_recipes.s3prl_files import s3prl_folder
from s3prl_melhubert.downstream_recipes.voxceleb import SpeakerUtterance, check_voxceleb, find_split_file
from s3prl_melhubert.files import atomic_path


class SpeakerIdentification(Recipe):
    task = "sid"
    downstream = "voxceleb1"
    test_split = test_name = "test"
    best_checkpoint = "dev-best.ckpt"
    score = "acc"
    scale = 100.0
    predictions = "test_predict.txt"
    disk = 100 * 1024**2
    corpus_argument = "voxceleb"

    def add_corpus_arguments(self, parser: argparse.ArgumentParser, required: bool = True) -> None:
        corpus = parser.add_argument_group("corpus")
        corpus.add_argument("--voxceleb", required=required, metavar="DIR", help="holds dev/wav and test/wav")
        corpus.add_argument(
            "--split-file", metavar="FILE", help="default: iden_split.txt in DIR or beside it"
        )

    def corpus_identity(self, args: argparse.Namespace) -> dict[str, Any]:
        return {
            "--voxceleb": full_path(args.voxceleb),
            "--split-file": full_path(find_split_file(args.voxceleb, args.split_file)),
        }

    def check(self, args: argparse.Namespace) -> Corpus:
        problems = Problems()
        split_file = find_split_file(args.voxceleb, args.split_file)
        splits = check_voxceleb(args.voxceleb, split_file, problems)
        problems.raise_if_any(f"VoxCeleb1 in {args.voxceleb}")
        return Corpus(
            path=full_path(args.voxceleb),
            summary=summary(splits),
            test_utterances=[utterance.prediction_name for utterance in splits["test"]],
            differences=size_differences(splits, VOXCELEB1),
            content=(full_path(split_file), splits),
        )

    def fill_in(
        self, settings: dict[str, Any], corpus: Corpus | None, folder: Path, args: argparse.Namespace
    ) -> None:
        datarc = settings["downstream_expert"]["datarc"]
        datarc["num_workers"] = args.workers
        if corpus is None:
            return
        split_file, splits = corpus.content
        datarc["file_path"], datarc["meta_data"] = corpus.path, split_file
        self._write_file_lists(splits, self.file_lists(folder))

    def trap(self) -> str | None:
        cache = s3prl_folder() / "downstream/voxceleb1/.cache"
        if not cache.is_dir():
            return None
        return (
            f"{cache}: s3prl takes its files from these lists, of whatever corpus they are; remove the folder"
        )

    def file_lists(self, folder: Path) -> Path:
        return folder / "file_lists"

    def _write_file_lists(self, splits: dict[str, list[SpeakerUtterance]], folder: Path) -> None:
        """s3prl's cache of where the files are: it would look for each of 153 516 lines by a glob."""
        folder.mkdir(exist_ok=True)
        for split, utterances in splits.items():
            with atomic_path(folder / f"{split}.pkl") as temporary:
                temporary.write_bytes(pickle.dumps([str(utterance.path) for utterance in utterances]))
