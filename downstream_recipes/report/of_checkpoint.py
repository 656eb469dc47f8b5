"""The results of one checkpoint, as its model card shows them: its weights, its statistics, whole tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from s3prl_melhubert.checkpoint import Checkpoint, open_checkpoint
from s3prl_melhubert.downstream_recipes.experiment_files import read_identity
from s3prl_melhubert.downstream_recipes.report.report import find_experiments
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.running.digests import sha256_of_file
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.published import DEFAULT, PUBLISHED, recognize
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import sha256_of

FindUpstream = Callable[[str, str | None], str | Path]


def results_of(
    checkpoint: Checkpoint,
    stats: FeatureStats,
    experiments: Iterable[str | Path],
    find_upstream: FindUpstream,
) -> list[Result]:
    """Read the results of SUPERB's tasks with a frozen upstream of this checkpoint and these statistics.

    Args:
        checkpoint: as it was opened.
        stats: those for log-Mel, with which it is handed on.
        experiments: folders at or below which the results are.
        find_upstream: gives the checkpoint that an upstream of that name reads, by its `-k` in s3prl.

    Raises:
        MelHuBERTError: a folder holds no result, that of another model or of other statistics, that of an
            upstream which was trained with the task, or that of a single part of a task; or two are of the
            same task.
    """
    sha256 = sha256_of(checkpoint.path)
    folders: dict[str, Path] = {}  # by the task's key
    results = []
    for folder in find_experiments(experiments):
        result = read_result(folder)
        same_file = result.checkpoint_sha256 == sha256
        if not same_file and not _has_weights_of(result, folder, checkpoint, find_upstream):
            of = result.upstream if result.checkpoint is None else f"{result.upstream}, {result.checkpoint}"
            raise MelHuBERTError(
                f"{folder}: its result is of another model ({of}), expected one of {checkpoint.path}; name "
                "the experiments of this checkpoint alone"
            )
        # An older result has only what -g named. A checkpoint's own came before that, then as now.
        own = checkpoint.stats is not None and same_file
        used = result.statistics_sha256 or (None if own else result.named_statistics_sha256)
        if used not in (None, stats.digest()):
            raise MelHuBERTError(
                f"{folder}: its result was made with other log-Mel statistics than {stats.name}, which this "
                "folder would have; leave it out, or give its statistics (--stats, where CKPT holds none)"
            )
        _refuse_trained_or_partial(result, folder, checkpoint)
        if result.task in folders:
            raise MelHuBERTError(
                f"{folder}: a second result of {result.task}, besides {folders[result.task]}; name one of "
                "them"
            )
        folders[result.task] = folder
        results.append(result)
    return results


def _refuse_trained_or_partial(result: Result, folder: Path, checkpoint: Checkpoint) -> None:
    """Raise MelHuBERTError where a result is not that of a frozen upstream in a whole task."""
    if result.upstream_trained:  # It began as this checkpoint, and what was tested has other weights.
        raise MelHuBERTError(
            f"{folder}: its upstream was trained with the task (upstream_trainable), so that the score "
            f"is not one of {checkpoint.path}; leave it out, or name an experiment with a frozen upstream"
        )
    task = all_tasks()[result.task]
    if task.parts and not result.parts:
        raise MelHuBERTError(
            f"{folder}: its result is that of a single part of {task.name}; name the experiment of all parts"
        )


def _has_weights_of(
    result: Result, folder: Path, checkpoint: Checkpoint, find_upstream: FindUpstream
) -> bool:
    """Whether an experiment's upstream, which was another file, had the weights of this checkpoint.

    Raises:
        MelHuBERTError: the file that it was is not there any more, has changed, or cannot be fetched.
    """
    if result.checkpoint is None:  # It was fetched by its name.
        name = DEFAULT if result.upstream == "melhubert" else result.upstream
        return name in PUBLISHED and recognize(checkpoint.path) == PUBLISHED[name]
    if not result.upstream.startswith("melhubert"):
        return False
    # They may have been in another format, in a folder, on the Hub, or on the web.
    source = read_identity(folder).get("-k") or result.checkpoint  # the first is its full path
    if result.checkpoint_sha256 is not None and sha256_of_file(source) != result.checkpoint_sha256:
        raise MelHuBERTError(
            f"{folder}: its result is of {source}, which is not there as it was, so that nobody can tell "
            f"whether it held the weights of {checkpoint.path}; leave it out, or put that file back"
        )
    try:
        other = open_checkpoint(find_upstream(result.upstream, source))
    except MelHuBERTError as error:
        raise MelHuBERTError(
            f"{folder}: nobody can tell whether its result is of the weights of {checkpoint.path}: {error}"
        ) from None
    return other.weights_digest() == checkpoint.weights_digest()
