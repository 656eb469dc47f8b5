"""`melhubert link`: thin files in a checkout of s3prl, for its unmodified run_pretrain.py."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkout", metavar="CHECKOUT", help="a checkout of s3prl: its root or folder s3prl")


def run(args: argparse.Namespace) -> int:
    from s3prl_melhubert.pretrain.link import link

    folders = link(args.checkout)
    for folder in folders:
        print(f"{folder}: written")
    inner = folders[0].parent.parent
    print(f"now, for example: cd {inner} && python run_pretrain.py -u melhubert -n NAME")
    return 0
