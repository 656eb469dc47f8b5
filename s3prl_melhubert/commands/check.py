"""`melhubert check`: whether a prepared set is whole."""

from __future__ import annotations

import argparse

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import check_set
from s3prl_melhubert.pretrain.data.integrity import NO_PROOFS

SHOWN = 20  # faults that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="a folder that `melhubert prepare` or `relabel` made")


def run(args: argparse.Namespace) -> int:
    """Read all of a prepared set, and tell which of its files are not what was written.

    Example: melhubert check data/train
    """
    prepared, faults = check_set(args.data)
    info = prepared.info
    assert info is not None, "check_set refuses a set that says nothing of itself"
    for fault in faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more")
    if faults:
        raise MelHuBERTError(
            f"{prepared.folder}: {len(faults)} files are not whole; copy them again, or prepare the set again"
        )
    how = "every file is what was written"
    if info.proofs == NO_PROOFS:
        how = "its values can be right; it was made by an earlier version, without hashes to hold it to"
    print(f"{prepared.folder}: {info}: {how}")
    return 0
