"""`melhubert manifest`: what is in a set."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.pretrain.data.description import DATASET, KMEANS, REJECTED, PreparedSet, read_prepared
from s3prl_melhubert.pretrain.data.integrity import SUMS
from s3prl_melhubert.pretrain.data.manifest import MANIFEST, columns_folder, write_columns
from s3prl_melhubert.pretrain.data.manifest.listing import Choice, summary, write_choice, write_listing
from s3prl_melhubert.pretrain.data.manifest.rows import is_written_list

SET_FILES = (DATASET, MANIFEST, KMEANS, REJECTED, SUMS)  # names that no list may have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="a prepared folder, or a CSV file in its format")
    parser.add_argument(
        "--id",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only utterances with such names, as `103-*`; may be repeated",
    )
    parser.add_argument("--min-seconds", type=float, metavar="S", help="only utterances of at least so long")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="only utterances of at most so long")
    parser.add_argument(
        "--head", type=int, default=5, metavar="N", help="rows to print (default: 5; -1 for all, 0 for none)"
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="write the chosen utterances to FILE, a manifest to train on"
    )
    parser.add_argument(
        "--columns",
        action="store_true",
        help="make the columns, by which a set opens at once, or make them anew",
    )


def run(args: argparse.Namespace) -> int:
    """Print what is in a prepared set, or a choice of its utterances; write the choice as a manifest.

    Example: melhubert manifest data/train --max-seconds 20 --csv data/train/short.csv
    """
    if args.head < -1:
        raise MelHuBERTError(f"--head {args.head}: expected a number of rows, or -1 for all")
    prepared = read_prepared(args.data)
    if args.csv:
        _check_target(prepared, Path(args.csv))
    utterances = prepared.utterances
    if args.columns:
        utterances = write_columns(prepared.manifest)
        folder = columns_folder(prepared.manifest)
        print(f"{folder}: columns of {len(utterances)} utterances", file=sys.stderr)
    choice = Choice(args.id, args.min_seconds, args.max_seconds)
    rows = choice.rows(utterances)
    everything = len(rows) == len(utterances)
    print(f"{args.data}: {summary(utterances)}", file=sys.stderr)
    if not everything:
        print(f"chosen: {summary(utterances, rows)}", file=sys.stderr)
    if args.csv:
        write_choice(utterances, rows, args.csv)
        print(f"{args.csv}: {len(rows)} utterances", file=sys.stderr)
        if prepared.info is not None and Path(args.csv).parent.resolve() != prepared.folder.resolve():
            warnings.warn(
                f"{args.csv}: no {DATASET} beside it says what its features were normalized with; written "
                f"into {prepared.folder}, it would be trained on as the set is",
                MelHuBERTWarning,
                stacklevel=2,
            )
        return 0
    shown = rows if args.head < 0 else rows[: args.head]
    if args.head:
        write_listing(utterances, shown, sys.stdout)
    return 0


def _check_target(prepared: PreparedSet, target: Path) -> None:
    """Refuse to write a list where it would be read wrongly, or over something else than such a list.

    Raises:
        MelHuBERTError: it is in the folder of another set, whose statistics, clusters and label period would
            be taken for those of the list; it has the name of one of a set's own files; or it is there, and
            is what is being chosen from, or no list that this command wrote.
    """
    folder = target.parent
    in_a_set = (folder / DATASET).is_file()
    if in_a_set and folder.resolve() != prepared.folder.resolve():
        raise MelHuBERTError(
            f"{target}: {folder} holds another set, and its {DATASET} would be taken to speak of this list; "
            f"write it into {prepared.folder}, or into a folder without a {DATASET}"
        )
    # A folder that is no set may get a manifest.csv, by which it is read as a published CSV is.
    if target.name in SET_FILES and (in_a_set or target.name != MANIFEST):
        raise MelHuBERTError(f"{target}: a set has a file of its own by this name; give the list another one")
    if not target.exists() or target.is_dir():  # Folders are refused when they are written to.
        return
    if target.samefile(prepared.manifest):
        raise MelHuBERTError(
            f"{target}: is the list that utterances are chosen from; give the new one another name"
        )
    # A list may be replaced, so that the command can be repeated with another choice.
    if not target.is_file() or (target.stat().st_size and not is_written_list(target)):
        raise MelHuBERTError(
            f"{target}: is there already, and is no list that this command wrote; give another name, or "
            "remove it"
        )
