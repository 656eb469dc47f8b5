"""`melhubert relabel`: a prepared set gets new labels from a hidden layer of a trained model (stage 2).

melhubert relabel --data data/train --checkpoint EXP/last.ckpt --layer 8 --out data/stage2
"""

from __future__ import annotations

import argparse
import time

from s3prl_melhubert.commands.prepare import warn_of_no_sample
from s3prl_melhubert.pretrain.data.kmeans import CLUSTERS, SAMPLE_FRAMES
from s3prl_melhubert.pretrain.data.relabel import relabel
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="a prepared folder, or a published CSV")
    parser.add_argument(
        "--checkpoint", required=True, metavar="CKPT", help="the model, or ORG/NAME on the Hub"
    )
    parser.add_argument(
        "--layer",
        type=int,
        required=True,
        metavar="N",
        help="0 is the projected input, 1 the first layer, -1 the last",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to fill; the same command continues it"
    )
    parser.add_argument("--clusters", type=int, metavar="K", help=f"how many (default: {CLUSTERS})")
    parser.add_argument("--seed", type=int, help="of the sample and of K-means (default: 0)")
    parser.add_argument(
        "--kmeans",
        metavar="SRC",
        help="use the clusters of this folder, as a validation set must, or .npy file",
    )
    parser.add_argument(
        "--stats", metavar="SRC", help="what the model was trained with, where its file does not say"
    )
    parser.add_argument(
        "--sample-frames",
        type=int,
        metavar="N",
        help=f"frames that K-means sees (default: {SAMPLE_FRAMES})",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        default="fp32",
        help="of matrix products (default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="model frames of a batch, padding included"
    )


def run(args: argparse.Namespace) -> int:
    """Give a prepared set new cluster labels, from a layer of a trained model (stage 2).

    Example: melhubert relabel --data data/train --checkpoint EXP/last.ckpt --layer 8 --out data/stage2
    """
    begin = time.monotonic()
    warn_of_no_sample(args)
    prepared = relabel(
        args.data,
        args.checkpoint,
        args.layer,
        args.out,
        clusters=args.clusters,
        seed=0 if args.seed is None else args.seed,
        kmeans=args.kmeans,
        stats=args.stats,
        sample_frames=SAMPLE_FRAMES if args.sample_frames is None else args.sample_frames,
        device=args.device,
        precision=args.precision,
        max_frames=args.max_frames,
    )
    print(f"{prepared.folder}: {prepared.info}, in {time.monotonic() - begin:.0f} s")
    return 0
