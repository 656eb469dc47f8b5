"""`melhubert hub`: a checkpoint as a folder for the Hugging Face Hub, and the folder as a repository."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_melhubert.commands.checkpoints.arguments import add_stats_argument
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import sha256_of

if TYPE_CHECKING:
    from s3prl_melhubert.checkpoint import Checkpoint
    from s3prl_melhubert.downstream_recipes.report.results import Result
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
        nargs="+",
        metavar="EXP",
        help="experiments of `melhubert superb` with this checkpoint, whose results README.md shows",
    )
    card.add_argument("--license", metavar="ID", help="as the Hub has it, such as cc-by-4.0 (default: mit)")
    card.add_argument("--license-file", metavar="FILE", help="its text, for any license but mit")


def run(args: argparse.Namespace) -> int:
    """Write a checkpoint as a folder that transformers, s3prl and SUPERB's hidden set read, or upload it.

    Example: melhubert hub melhubert.ckpt --out melhubert-base --results exp/pr exp/sid
    """
    from s3prl_melhubert.checkpoint import open_checkpoint, resolve_stats
    from s3prl_melhubert.hub.export import License, export_folder, refuse_filled
    from s3prl_melhubert.support.huggingface import push_folder, repository_of

    if args.push is not None:
        repository_of(args.push)
    written = Path(args.checkpoint)
    if args.private and args.push is None:
        raise MelHuBERTError("--private: is of the repository that --push makes; give --push ORG/NAME, too")
    if (written / "config.json").is_file() and (written / "expert.py").is_file():
        if args.push is None or args.out is not None:
            raise MelHuBERTError(
                f"{written}: is a folder for the Hub already; upload it with --push ORG/NAME"
            )
        for name in ("stats", "name", "results", "license", "license_file"):
            if getattr(args, name) is not None:
                raise MelHuBERTError(
                    f"--{name.replace('_', '-')}: {written} is a folder for the Hub already and is uploaded "
                    "as it is; leave it out and edit the files, or give the checkpoint"
                )
        print(push_folder(written, args.push, UPLOADED, args.private or None))
        return 0
    if args.out is None and args.push is None:
        raise MelHuBERTError("hub: neither --out nor --push found; give --out DIR, --push ORG/NAME, or both")
    license = License.of(args.license, args.license_file)
    if args.out is not None:
        refuse_filled(args.out)
    checkpoint = open_checkpoint(args.checkpoint)
    stats = resolve_stats(checkpoint, args.stats)
    scores = _scores(args.results or [], checkpoint, stats)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out if args.out is not None else Path(temporary) / "folder"
        files = export_folder(
            checkpoint,
            folder,
            stats=stats,
            name=args.name or args.push,
            license=license,
            scores=scores,
        )
        if args.out is not None:
            print(f"{folder}: {', '.join(file.name for file in files)}")
        if args.push is not None:
            print(push_folder(folder, args.push, UPLOADED, args.private or None))
    return 0


def _scores(experiments: Sequence[str], checkpoint: Checkpoint, stats: FeatureStats) -> list[Score]:
    """Read the results of SUPERB's tasks with this checkpoint and these statistics.

    Raises:
        MelHuBERTError: a folder holds no result, that of another model or of other statistics, that of an
            upstream which was trained with the task, or that of a single part of a task; or two are of the
            same task.
    """
    from s3prl_melhubert.hub.card import Score

    if not experiments:
        return []
    from s3prl_melhubert.downstream_recipes.report.report import find_experiments
    from s3prl_melhubert.downstream_recipes.report.results import read_result
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    sha256 = sha256_of(checkpoint.path)
    folders: dict[str, Path] = {}  # by the task's key
    scores = []
    for folder in find_experiments(experiments):
        result = read_result(folder)
        if result.checkpoint_sha256 != sha256 and not _is_of(result, folder, checkpoint):
            of = result.upstream if result.checkpoint is None else f"{result.upstream}, {result.checkpoint}"
            raise MelHuBERTError(
                f"{folder}: its result is of another model ({of}), expected one of {checkpoint.path}; name "
                "the experiments of this checkpoint alone"
            )
        # An older result has only what -g named. A checkpoint's own came before that, then as now.
        own = checkpoint.stats is not None and result.checkpoint_sha256 == sha256
        used = result.statistics_sha256 or (None if own else result.named_statistics_sha256)
        if used not in (None, stats.digest()):
            raise MelHuBERTError(
                f"{folder}: its result was made with other log-Mel statistics than {stats.name}, which this "
                "folder would have; leave it out, or give its statistics (--stats, where CKPT holds none)"
            )
        if result.upstream_trained:  # It began as this checkpoint, and what was tested has other weights.
            raise MelHuBERTError(
                f"{folder}: its upstream was trained with the task (upstream_trainable), so that the score "
                f"is not one of {checkpoint.path}; leave it out, or name an experiment with a frozen upstream"
            )
        if all_tasks()[result.task].parts and not result.parts:
            raise MelHuBERTError(
                f"{folder}: its result is that of a single part of {all_tasks()[result.task].name}; name the "
                "experiment of all parts"
            )
        if result.task in folders:
            raise MelHuBERTError(
                f"{folder}: a second result of {result.task}, besides {folders[result.task]}; name one of "
                "them"
            )
        folders[result.task] = folder
        scores.append(
            Score(
                task=result.task,
                name=all_tasks()[result.task].name,
                metric=result.metric,
                value=result.value,
                split=result.test_split,
                differences=tuple(map(str, result.differences)),
                notes=tuple(" ".join(note.split()) for note in result.notes),
            )
        )
    return scores


def _is_of(result: Result, folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether an experiment's upstream, which was another file, had the weights of this checkpoint.

    Raises:
        MelHuBERTError: the file that it was is not there any more, or has changed.
    """
    from s3prl_melhubert.checkpoint import open_checkpoint
    from s3prl_melhubert.downstream_recipes.experiment_files import read_identity
    from s3prl_melhubert.downstream_recipes.running.identity import sha256_of_file
    from s3prl_melhubert.published import DEFAULT, PUBLISHED, recognize
    from s3prl_melhubert.upstream_expert.download import fetch_upstream

    if result.checkpoint is None:  # It was fetched by its name.
        name = DEFAULT if result.upstream == "melhubert" else result.upstream
        return name in PUBLISHED and recognize(checkpoint.path) == PUBLISHED[name]
    # They may have been in another format, in a folder, or on the Hub.
    source = read_identity(folder).get("-k") or result.checkpoint  # the first is its full path
    if result.checkpoint_sha256 is not None and sha256_of_file(source) != result.checkpoint_sha256:
        raise MelHuBERTError(
            f"{folder}: its result is of {source}, which is not there as it was, so that nobody can tell "
            f"whether it held the weights of {checkpoint.path}; leave it out, or put that file back"
        )
    try:
        of_hub = result.upstream == "melhubert_hf"
        other = open_checkpoint(fetch_upstream(result.upstream, source) if of_hub else source)
    except MelHuBERTError:
        return False
    return other.weights_digest() == checkpoint.weights_digest()
