"""`melhubert convert`: rewrite a checkpoint in another format, with its statistics, and free of code."""

from __future__ import annotations

import argparse
from pathlib import Path

NAMED = 8  # things left out that are named, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a published checkpoint, one of ours, or a .safetensors")
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="NAME.safetensors, or any other name for the published format",
    )
    parser.add_argument(
        "--stats",
        metavar="NAME|FILE",
        help="log-Mel statistics, where IN holds none: librispeech-360h, ..., or a .yaml or .npy",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that IN may hold (only if you trust where it comes from) and write what is plain "
        "data, so that OUT needs no trust",
    )


def run(args: argparse.Namespace) -> int:
    """Rewrite a checkpoint: in another format, with its statistics, without code.

    Example: melhubert convert published.ckpt model.safetensors --stats librispeech-960h
    """
    from s3prl_melhubert.conversion import convert_checkpoint
    from s3prl_melhubert.summary import si, statistics_name

    converted = convert_checkpoint(args.input, args.output, args.stats, args.trust)
    print(
        f"{args.output}: {si(args.output.stat().st_size)}B, {si(converted.parameters)} parameters, "
        f"a frame every {converted.frame_period} ms, "
        f"statistics {statistics_name(converted.stats) or converted.stats.name}, step {converted.step}"
    )
    left_out = converted.left_out
    if left_out:
        more = f", and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        print(f"left out ({converted.reason}): {', '.join(left_out[:NAMED])}{more}")
    return 0
