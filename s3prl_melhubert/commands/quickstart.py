"""`melhubert quickstart`: the whole path on a small synthesized corpus."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("melhubert-quickstart"),
        metavar="DIR",
        help="folder to fill; run again, it continues (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the corpus and of all training (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Go the whole path on a small synthesized corpus, on a CPU, in minutes.

    Example: melhubert quickstart --out first-steps
    """
    from s3prl_melhubert.downstream_recipes.quickstart.quickstart import quickstart

    return quickstart(args.out, args.seed)
