"""Arguments that several of these commands declare."""

from __future__ import annotations

import argparse


def add_stats_argument(parser: argparse.ArgumentParser, checkpoint: str = "the checkpoint") -> None:
    """Declare the log-Mel statistics.

    Args:
        parser: of the command.
        checkpoint: what the command's help calls it.
    """
    parser.add_argument(
        "--stats",
        metavar="NAME|FILE",
        help=f"log-Mel statistics, where {checkpoint} holds none: librispeech-360h, ..., or a .yaml or .npy",
    )


def layer_numbers(text: str) -> list[int]:
    """Read the type of an argument that takes layers, such as 0,6,12.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} found, expected numbers such as 6 or 0,6,12") from None


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how long recordings are read, which other commands read in the same way."""
    from s3prl_melhubert.extraction.windows import DEFAULT_OVERLAP

    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="read longer recordings in windows of this length: memory does not grow with them, and time in "
        "proportion (default: every recording at once; 30 is a good choice)",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SECONDS",
        help="that two windows share, and of which each gives half "
        f"(default: {DEFAULT_OVERLAP:g}, or a quarter of a shorter window)",
    )
