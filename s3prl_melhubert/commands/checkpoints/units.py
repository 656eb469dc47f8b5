"""`melhubert units`: discrete units of audio files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s3prl_melhubert.commands.checkpoints.arguments import add_stats_argument, add_window_arguments
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="AUDIO", help="audio files, or folders of them")
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
        help="NAME.npz: an array for each utterance id; NAME.jsonl: a manifest, a line of JSON each; any "
        "other name: text, a line `id u1 u2 ...` each",
    )
    parser.add_argument(
        "--kmeans",
        metavar="DATA|FILE",
        help="centroids in place of the checkpoint's: a folder that relabel made with it or prepare, or a "
        ".npy with --layer",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="of a --kmeans FILE.npy: 1 to the last layer, -1 the last; 0 for log-Mel frames (40 columns) or "
        "the projected input",
    )
    parser.add_argument(
        "--collapse",
        action="store_true",
        help="put each run of one unit into one, and write its frames, too: NAME.durations beside a text, "
        "`durations` in a manifest, a second row in a .npz",
    )
    add_stats_argument(parser)
    add_window_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        default="fp32",
        help="bf16 is faster on a GPU, and gives some frames another unit (default: fp32)",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="frames of a batch, with padding")


def run(args: argparse.Namespace) -> int:
    """Write discrete units of audio files: the nearest centroid of each frame.

    Example: melhubert units -c melhubert.ckpt speech/ --out units.txt
    """
    from s3prl_melhubert.checkpoint import open_checkpoint
    from s3prl_melhubert.support.devices import resolve_device
    from s3prl_melhubert.units.files import units_of_files

    device = resolve_device(args.device)
    checkpoint = open_checkpoint(args.checkpoint)
    written = units_of_files(
        checkpoint,
        args.paths,
        args.out,
        quantizer=_given_quantizer(args, checkpoint),
        collapsed=args.collapse,
        stats=args.stats,
        device=device,
        precision=args.precision,
        max_frames=args.max_frames,
        window=args.window,
        overlap=args.overlap,
    )
    written.notes.print(written.files)
    figures = written.figures
    if not figures.utterances:
        print("melhubert: none of the inputs could be read; nothing was written", file=sys.stderr)
        return 1
    again = f" ({written.taken_up} of them done before)" if written.taken_up else ""
    print(
        f"{args.out}: {figures.utterances} utterance{'s' * (figures.utterances > 1)}{again}, "
        f"{figures.seconds:.1f} s of audio, {figures.units} units of {written.quantizer.what_frames()}, "
        f"{figures.in_use} of {figures.clusters} in use; "
        + ("runs collapsed" if args.collapse else f"one every {written.period} ms")
    )
    print(f"unit_rate        {figures.unit_rate:.2f} units a second")
    print(f"entropy          {figures.entropy:.3f} bits a unit")
    print(f"bits per second  {figures.bits_per_second:.1f} (entropy of the units' frequencies x unit_rate)")
    return 1 if written.notes.skipped else 0


def _given_quantizer(args, checkpoint):
    """The quantizer of --kmeans and --layer; None where the checkpoint's own is to be used."""
    from s3prl_melhubert.checkpoint import resolve_stats
    from s3prl_melhubert.config import N_MELS
    from s3prl_melhubert.extraction import resolve_layers
    from s3prl_melhubert.pretrain.data.clusters import set_quantizer
    from s3prl_melhubert.units.nearest import read_centroids
    from s3prl_melhubert.units.quantizer import LOG_MEL, MODEL, Quantizer

    if args.kmeans is None or Path(args.kmeans).expanduser().is_dir():
        if args.layer is not None:
            raise MelHuBERTError(
                f"--layer {args.layer}: a checkpoint's quantizer and a prepared folder know their layer; "
                "leave it out, or give --kmeans FILE.npy"
            )
        if args.kmeans is None:
            return None
        return set_quantizer(args.kmeans, checkpoint, resolve_stats(checkpoint, args.stats))
    if args.layer is None:
        raise MelHuBERTError(f"--kmeans {args.kmeans}: give --layer, too: whose centroids they are")
    [layer] = resolve_layers([args.layer], checkpoint.config)
    centroids = read_centroids(args.kmeans)
    is_log_mel = layer == 0 and centroids.shape[1] == N_MELS != checkpoint.config.encoder_embed_dim
    return Quantizer.from_arrays(
        layer, centroids, LOG_MEL if is_log_mel else MODEL, {"file": args.kmeans}, f"--kmeans {args.kmeans}"
    )
