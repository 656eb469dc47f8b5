"""`melhubert info`: what a checkpoint is, or what the published models are, in figures."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CKPT",
        help="a checkpoint, or ORG/NAME on the Hub (default: the published base models)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with exact figures")


def run(args: argparse.Namespace) -> int:
    """Print parameters, multiply-accumulates, frame period and statistics of a checkpoint.

    Example: melhubert info melhubert.ckpt
    """
    from s3prl_melhubert.checkpoint import open_checkpoint
    from s3prl_melhubert.summary import checkpoint_facts, published_models, table

    if args.checkpoint is None:
        models = content = published_models()
    else:
        content = checkpoint_facts(open_checkpoint(args.checkpoint))
        models = {args.checkpoint: content}
    if args.json:
        print(json.dumps(content, indent=2))
    else:
        print("\n\n".join(table(title, facts) for title, facts in models.items()))
    return 0
