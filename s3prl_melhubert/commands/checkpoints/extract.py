"""`melhubert extract`: hidden states of audio files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s3prl_melhubert.commands.checkpoints.arguments import (
    add_stats_argument,
    add_window_arguments,
    layer_numbers,
)
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.extraction import MAX_FRAMES, MAX_FRAMES_CUDA

    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, or folders of them")
    parser.add_argument(
        "-c",
        "--checkpoint",
        required=True,
        metavar="CKPT",
        help="a MelHuBERT checkpoint, or ORG/NAME on the Hub",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="NAME.npz: one file, an array for each utterance id; NAME.npy: one array, of a single input; "
        "else a folder with a .npy for each input. Arrays are float32 (layers, T, C), or (T, C) for a "
        "single --layer",
    )
    parser.add_argument(
        "-f",
        "--frame-period",
        "--frame_period",
        type=int,
        choices=(10, 20),
        help="ms; the checkpoint knows it, this only makes sure",
    )
    add_stats_argument(parser)
    parser.add_argument(
        "--layer",
        type=layer_numbers,
        action="extend",
        metavar="N[,N...]",
        help="0 is the projected input, -1 the last layer; may be repeated (default: all layers)",
    )
    add_window_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        default="fp32",
        help="bf16 is faster on a GPU and exact to about two digits (default: fp32)",
    )
    parser.add_argument(
        "--max-frames",
        type=_positive,
        metavar="N",
        help=f"frames of a batch, with padding (default: {MAX_FRAMES}, on a GPU {MAX_FRAMES_CUDA})",
    )


def run(args: argparse.Namespace) -> int:
    """Write hidden states of audio files.

    Example: melhubert extract -c melhubert.ckpt speech/ --out hidden_states.npz
    """
    from s3prl_melhubert.checkpoint import open_checkpoint
    from s3prl_melhubert.extraction.files import extract_files
    from s3prl_melhubert.support.devices import resolve_device

    device = resolve_device(args.device)
    checkpoint = open_checkpoint(args.checkpoint)
    if args.frame_period not in (None, checkpoint.frame_period):
        raise MelHuBERTError(
            f"-f {args.frame_period}: {args.checkpoint} reads a frame every {checkpoint.frame_period} ms; "
            f"leave -f out or give -f {checkpoint.frame_period}"
        )
    extracted = extract_files(
        checkpoint,
        args.paths,
        args.out,
        stats=args.stats,
        layers=args.layer,
        device=device,
        precision=args.precision,
        max_frames=args.max_frames,
        window=args.window,
        overlap=args.overlap,
    )
    extracted.notes.print(extracted.files)
    if not extracted.written:
        print("melhubert: none of the inputs could be read; nothing was written", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {extracted.written} utterance{'s' * (extracted.written > 1)}, "
        f"layer{'s' * (len(extracted.layers) > 1)} {', '.join(map(str, extracted.layers))}, "
        f"{checkpoint.config.encoder_embed_dim} wide, a frame every {checkpoint.frame_period} ms"
    )
    return 1 if extracted.notes.skipped else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} found, expected a whole number above 0")
    return int(text)
