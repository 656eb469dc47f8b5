"""What the three recipes have in common: arguments, and the parts in which they differ.

A `Recipe` knows its corpus and s3prl's names; `experiment` runs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.results import Difference
from s3prl_melhubert.downstream_recipes.settings import superb_settings


@dataclass(frozen=True)
class Corpus:
    """A checked corpus."""

    path: str
    summary: list[str]  # a line a split, for the user
    test_utterances: list[str]  # names, as they are in s3prl's prediction file
    differences: list[Difference]  # from SUPERB's corpus
    content: Any  # what the recipe's `fill_in` needs
    lexicon: str | None = None  # where pronunciations came from
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decoding:
    """Testing once more with a language model."""

    override: dict[str, Any]  # of s3prl's settings
    predictions: str  # the file that s3prl writes then
    files: dict[str, str]  # the model, for the result


class Recipe(ABC):
    """One of SUPERB's tasks.

    Attributes:
        task: pr, sid or asr.
        downstream: s3prl's name of it (`-d`).
        test_split: s3prl's name of the split that is scored (`-t`).
        best_checkpoint: what s3prl calls the best checkpoint on the dev split.
        test_name: the corpus' name of it, for people.
        score: what s3prl calls the metric in the lines that it prints, `SPLIT SCORE: VALUE`.
        scale: what makes percent of s3prl's values.
        predictions: the file that s3prl writes when it tests.
        disk: bytes that the experiment needs.
        corpus_argument: the argument that says where the corpus is, without its dashes.
    """

    task: str
    downstream: str
    test_split: str
    test_name: str
    best_checkpoint: str
    score: str
    scale: float
    predictions: str
    disk: int
    corpus_argument: str

    @property
    def folder(self) -> Path:
        """The recipe's own files, `superb.yaml` among them."""
        return Path(str(sys.modules[type(self).__module__].__file__)).parent

    def superb_settings(self) -> dict[str, Any]:
        return superb_settings(self.folder)

    @abstractmethod
    def add_corpus_arguments(self, parser: argparse.ArgumentParser, required: bool = True) -> None:
        """Add the arguments that say where the corpus is."""

    @abstractmethod
    def corpus_identity(self, args: argparse.Namespace) -> dict[str, Any]:
        """What of these arguments an experiment must not change between its runs."""

    @abstractmethod
    def check(self, args: argparse.Namespace) -> Corpus:
        """Look at the whole corpus.

        Raises:
            MelHuBERTError: something is missing or cannot be used; it names what.
        """

    @abstractmethod
    def fill_in(
        self, settings: dict[str, Any], corpus: Corpus | None, folder: Path, args: argparse.Namespace
    ) -> None:
        """Write what s3prl needs into `folder`, and paths into the settings (without a corpus, others)."""

    def trap(self) -> str | None:
        """What a user of s3prl's own program must know before, as things are on this machine."""
        return None

    def decoding(self, args: argparse.Namespace) -> Decoding | None:
        """How to decode with a language model, where the arguments name one."""
        return None

    def file_lists(self, folder: Path) -> Path | None:
        """The folder of s3prl's lists of files, where the task has such a cache."""
        return None


def add_arguments(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """The arguments of `melhubert superb TASK`; what s3prl's run_downstream.py has, too, by its names."""
    recipe.add_corpus_arguments(parser)
    upstream = parser.add_argument_group("upstream")
    upstream.add_argument("-u", "--upstream", required=True, help="any upstream of s3prl's, MelHuBERT or not")
    upstream.add_argument("-k", "--upstream_ckpt", metavar="FILE", help="its checkpoint, where it takes one")
    upstream.add_argument("-g", "--upstream_model_config", metavar="YAML", help="its settings")
    experiment = parser.add_argument_group("experiment")
    experiment.add_argument(
        "-p", "--expdir", type=Path, required=True, metavar="EXP", help="its folder; run again, it continues"
    )
    experiment.add_argument(
        "--stage",
        choices=("check", "train", "test"),
        help="only look at everything; stop after training; or only test. Default: all that is left to do",
    )
    experiment.add_argument("--device", help="default: cuda where there is a GPU, otherwise cpu")
    experiment.add_argument("--seed", type=int, default=1337, help="s3prl's default: 1337")
    experiment.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=min(4, max(1, (os.cpu_count() or 1) - 1)),
        help="processes that read audio (default: %(default)s)",
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--lr",
        type=learning_rates,
        metavar="X[,Y...]",
        help="learning rate; of several, the best on the dev split is tested",
    )
    settings.add_argument("--steps", type=int, metavar="N", help="train for fewer steps than SUPERB")
    settings.add_argument(
        "-o", "--override", metavar="OVERRIDE", help="s3prl's: config.runner.log_step=10,,args.NAME=VALUE"
    )


def learning_rates(text: str) -> tuple[float, ...]:
    """`1e-3,5e-4` as numbers.

    Raises:
        argparse.ArgumentTypeError: not numbers above zero, or one twice.
    """
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"{text!r}: expected different numbers above zero, as in 1e-3,5e-4")
    return rates
