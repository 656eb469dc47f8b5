"""`melhubert label-quality`: how well cluster labels agree with phones.

melhubert label-quality --data data/train --alignments train-phones.txt
"""

from __future__ import annotations

import argparse

from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.data.label_quality import label_quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="a prepared folder, or a published CSV")
    parser.add_argument(
        "--alignments",
        required=True,
        nargs="+",
        metavar="FILE",
        help="text files, a line per utterance: its id, then a phone for each 10 ms",
    )


def run(args: argparse.Namespace) -> int:
    """Measure phone purity, cluster purity and PNMI of cluster labels against frame alignments.

    Example: melhubert label-quality --data data/train --alignments phones.txt
    """
    quality, coverage = label_quality(read_prepared(args.data), args.alignments)
    print(f"phone purity    {quality.phone_purity:.4f}")
    print(f"cluster purity  {quality.cluster_purity:.4f}")
    print(f"PNMI            {quality.pnmi:.4f}")
    print(f"clusters in use {quality.clusters_in_use} of {quality.clusters}")
    print(f"over            {quality.frames} labels, {quality.phones} phones, {coverage}")
    return 0
