"""`melhubert superb make-sd`: mixtures for speaker diarization."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--librispeech", type=Path, required=True, metavar="DIR", help="holds the splits")
    parser.add_argument(
        "--mixtures", type=Path, required=True, metavar="DIR", help="holds LibriMix's libri2mix_*.csv"
    )
    parser.add_argument(
        "--turns",
        type=Path,
        metavar="DIR",
        help="holds train_clean_100.rttm, ...; default: an utterance is one turn",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for train, dev and test")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="threads (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Mix LibriSpeech for speaker diarization, in Kaldi's layout.

    Example: melhubert superb make-sd --librispeech LibriSpeech --mixtures LibriMix/metadata/Libri2Mix
    --out libri2mix
    """
    from s3prl_melhubert.downstream_recipes.running.options import check_workers
    from s3prl_melhubert.downstream_recipes.speaker_diarization.mixing import make_libri2mix

    check_workers(args.workers)
    sets = make_libri2mix(args.librispeech, args.mixtures, args.turns, args.out, args.workers)
    for name, mixtures in sets.items():
        print(f"{args.out / name}: {mixtures} mixtures")
    print(f"next: melhubert superb sd --libri2mix {args.out} ...")
    return 0
