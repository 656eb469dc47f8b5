"""`melhubert hub`: a checkpoint as a folder for the Hugging Face Hub, and the folder as a repository."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_melhubert.commands.checkpoints.arguments import add_stats_argument
from s3prl_melhubert.errors import MelHuBERTError

if TYPE_CHECKING:
    from s3prl_melhubert.checkpoint import Checkpoint
    from s3prl_melhubert.hub.card import Score
    from s3prl_melhubert.statistics import FeatureStats


UPLOADED = "Upload a MelHuBERT checkpoint"  # the message of the commit on the Hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="a checkpoint, ORG/NAME on the Hub, or (with --push) a folder that this command wrote",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder to write; it must not hold anything"
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload it as this repository (log in with `hf auth login`)"
    )
    parser.add_argument("--private", action="store_true", help="make the repository for its owners alone")
    add_stats_argument(parser, "CKPT")
    card = parser.add_argument_group("README.md")
    card.add_argument(
        "--name", metavar="ORG/NAME", help="the repository's name (default: that of --push, or of the folder)"
    )
    card.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="EXP",
        help="experiments of `melhubert superb` with this checkpoint, whose results README.md shows",
    )
    card.add_argument("--license", metavar="ID", help="as the Hub has it, such as cc-by-4.0 (default: mit)")
    card.add_argument("--license-file", type=Path, metavar="FILE", help="its text, for any license but mit")


def run(args: argparse.Namespace) -> int:
    """Write a checkpoint as a folder that transformers, s3prl and SUPERB's hidden set read, or upload it.

    Example: melhubert hub melhubert.ckpt --out melhubert-base --results exp/pr exp/sid
    """
    from s3prl_melhubert.support.huggingface import push_folder, repository_of

    if args.push is not None:
        repository_of(args.push)
    written = Path(args.checkpoint)
    if args.private and args.push is None:
        raise MelHuBERTError("--private: is of the repository that --push makes; give --push ORG/NAME, too")
    if (written / "config.json").is_file() and (written / "expert.py").is_file():
        _check_uploaded_as_it_is(args, written)
        print(push_folder(written, args.push, UPLOADED, args.private or None))
        return 0
    if args.out is None and args.push is None:
        raise MelHuBERTError("hub: neither --out nor --push found; give --out DIR, --push ORG/NAME, or both")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out if args.out is not None else Path(temporary) / "folder"
        files = _export(args, folder)
        if args.out is not None:
            print(f"{folder}: {', '.join(file.name for file in files)}")
        if args.push is not None:
            print(push_folder(folder, args.push, UPLOADED, args.private or None))
    return 0


def _check_uploaded_as_it_is(args: argparse.Namespace, written: Path) -> None:
    """Raise MelHuBERTError where more is asked for of a folder that this command wrote than its upload."""
    if args.push is None or args.out is not None:
        raise MelHuBERTError(f"{written}: is a folder for the Hub already; upload it with --push ORG/NAME")
    for name in ("stats", "name", "results", "license", "license_file"):
        if getattr(args, name) is not None:
            raise MelHuBERTError(
                f"--{name.replace('_', '-')}: {written} is a folder for the Hub already and is uploaded "
                "as it is; leave it out and edit the files, or give the checkpoint"
            )


def _export(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Write the folder; return its files."""
    from s3prl_melhubert.checkpoint import open_checkpoint, resolve_stats
    from s3prl_melhubert.hub.export import License, export_folder, refuse_filled

    license = License.of(args.license, args.license_file)
    refuse_filled(folder)
    checkpoint = open_checkpoint(args.checkpoint)
    stats = resolve_stats(checkpoint, args.stats)
    return export_folder(
        checkpoint,
        folder,
        stats=stats,
        name=args.name or args.push,
        license=license,
        scores=_scores(checkpoint, stats, args.results) if args.results else [],
    )


def _scores(checkpoint: Checkpoint, stats: FeatureStats, experiments: Sequence[Path]) -> list[Score]:
    """The scores of experiments, as the card shows them."""
    from s3prl_melhubert.downstream_recipes.report.of_checkpoint import results_of
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks
    from s3prl_melhubert.hub.card import Score
    from s3prl_melhubert.upstream_expert.download import fetch_upstream

    return [
        Score(
            task=result.task,
            name=all_tasks()[result.task].name,
            metric=result.metric,
            value=result.value,
            unit=all_tasks()[result.task].metric.unit,
            split=result.test_split,
            differences=tuple(map(str, result.differences)),
            notes=tuple(" ".join(note.split()) for note in result.notes),
        )
        for result in results_of(checkpoint, stats, experiments, fetch_upstream)
    ]
