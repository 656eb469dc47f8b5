"""`melhubert superb config`: a recipe's settings as a file, for those who prefer s3prl's own command.

    python run_downstream.py -m train -d ctc -c $(melhubert superb config pr --librispeech DIR) ...

The corpus is checked as in the recipe. What s3prl needs beside the settings (lexicon, lengths) lies beside
the file, by default in a cache folder under a name that stands for the corpus, so that the path holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from s3prl_melhubert.downstream_recipes.problems import check_writable
from s3prl_melhubert.downstream_recipes.recipe import Recipe
from s3prl_melhubert.downstream_recipes.settings import flat
from s3prl_melhubert.files import atomic_path


def add_arguments(parser: argparse.ArgumentParser, recipes: Mapping[str, Recipe]) -> None:
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for task, recipe in recipes.items():
        command = tasks.add_parser(task, help=f"for s3prl's -d {recipe.downstream}")
        recipe.add_corpus_arguments(command, required=False)
        command.add_argument("--workers", type=int, default=4, metavar="N", help="processes that read audio")
        command.add_argument("--out", type=Path, metavar="DIR", help="default: a folder in ~/.cache")


def run(args: argparse.Namespace, recipes: Mapping[str, Recipe]) -> int:
    """Write the file, print its path on stdout and all else on stderr; return the exit status."""
    recipe = recipes[args.task]
    settings = recipe.superb_settings()
    given = getattr(args, recipe.corpus_argument) is not None
    identity = {"task": args.task, "workers": args.workers, **(recipe.corpus_identity(args) if given else {})}
    folder = (args.out or _cache_folder(identity)).expanduser().absolute()
    check_writable(folder)
    corpus = recipe.check(args) if given else None
    recipe.fill_in(settings, corpus, folder, args)
    path = folder / f"{args.task}.yaml"
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for line in [] if corpus is None else [*corpus.summary, *map(str, corpus.differences)]:
        print(line, file=sys.stderr)
    if open_settings := [name for name, value in flat(settings) if value is None]:
        print(
            f"left to be set, with --{recipe.corpus_argument} here or in s3prl's -o as config.NAME=PATH: "
            f"{', '.join(open_settings)}",
            file=sys.stderr,
        )
    if trap := recipe.trap():
        print(trap, file=sys.stderr)
    print(path)
    return 0


def _cache_folder(identity: Mapping[str, object]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return cache / "s3prl-melhubert" / "superb" / f"{identity['task']}-{name}"
