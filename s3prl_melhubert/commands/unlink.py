"""`melhubert unlink`: the files of `melhubert link` out of a checkout of s3prl again."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkout", metavar="CHECKOUT", help="a checkout of s3prl: its root or folder s3prl")


def run(args: argparse.Namespace) -> int:
    from s3prl_melhubert.pretrain.link import unlink

    folders = unlink(args.checkout)
    for folder in folders:
        print(f"{folder}: removed")
    if not folders:
        print(f"{args.checkout}: nothing to remove")
    return 0
