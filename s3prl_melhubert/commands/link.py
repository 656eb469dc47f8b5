"""`melhubert link` and `unlink`: thin files in a checkout of s3prl, for its unmodified run_pretrain.py."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkout", metavar="CHECKOUT", help="a checkout of s3prl: its root or folder s3prl")


def link(args: argparse.Namespace) -> int:
    """Put pretrain/melhubert and upstream/melhubert into a checkout of s3prl.

    Example: melhubert link s3prl/
    """
    from s3prl_melhubert.pretrain.link import link

    folders = link(args.checkout)
    for folder in folders:
        print(f"{folder}: written")
    inner = folders[0].parent.parent
    print(f"now, for example: cd {inner} && python run_pretrain.py -u melhubert -n NAME")
    return 0


def unlink(args: argparse.Namespace) -> int:
    """Take the files of `melhubert link` out again, leaving the checkout as it was.

    Example: melhubert unlink s3prl/
    """
    from s3prl_melhubert.pretrain.link import unlink

    folders = unlink(args.checkout)
    for folder in folders:
        print(f"{folder}: removed")
    if not folders:
        print(f"{args.checkout}: nothing to remove")
    return 0
