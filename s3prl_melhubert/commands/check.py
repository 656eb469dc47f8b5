"""`melhubert check`: whether a prepared set is whole."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import check_set
from s3prl_melhubert.pretrain.data.integrity import NO_PROOFS, SUMS, Findings, Proofs

SHOWN = 20  # faults that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="a folder that `melhubert prepare` or `relabel` made")


def run(args: argparse.Namespace) -> int:
    """Read all of a prepared set, and tell which of its files are not what was written.

    Example: melhubert check data/train
    """
    prepared, findings = check_set(args.data)
    info, faults = prepared.info, findings.faults
    assert info is not None, "check_set refuses a set that says nothing of itself"
    for fault in faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more")
    if faults:
        raise MelHuBERTError(
            f"{prepared.folder}: {len(faults)} files are not whole; copy them again, or prepare the set again"
        )
    print(f"{prepared.folder}: {info}: {_verdict(info.proofs, findings)}")
    for line in _what_was_done(findings):
        print(line)
    return 0


def _verdict(proofs: Proofs, findings: Findings) -> str:
    if proofs == NO_PROOFS:
        return "its values can be right; it was made by an earlier version, without hashes to hold it to"
    if findings.looked_at or findings.audio:
        return f"{findings.compared} files are what was written"
    return "every file is what was written"


def _what_was_done(findings: Findings) -> Iterator[str]:
    """Yields a line for each kind of files that were not held to the set's own hashes."""
    for folder, count in findings.elsewhere.items():
        yield f"{count} of the files lie in {folder}, and are as its {SUMS} has them"
    if findings.looked_at:
        yield (
            f"{findings.looked_at} files have no hash to be compared with: they were looked at, and their "
            "shapes and values can be right"
        )
    if findings.audio:
        yield (
            f"{findings.audio} audio files have no hash to be compared with: their headers were read, and "
            "they are as long as what was labelled, as far as headers tell"
        )
