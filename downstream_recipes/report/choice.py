"""Which experiments of a folder tree are submitted: one of each task that there is, all of them ended."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from s3prl_melhubert.downstream_recipes.experiment_files import read_identity
from s3prl_melhubert.downstream_recipes.report.results import RESULTS, Result, read_result
from s3prl_melhubert.downstream_recipes.report.search import experiments_below, names_of_parts
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.settings import nearest


def choose_experiments(
    tree: str | Path, upstream: str | None = None, given: Collection[str] = ()
) -> dict[str, Path]:
    """Find the experiment of each task at or below a folder.

    Args:
        tree: the folder.
        upstream: s3prl's name of the upstream whose experiments count; None where there is only one.
        given: keys of tasks whose experiments the user names; those found here do not count.

    Returns:
        The folder of each task's experiment, by the task's key, in SUPERB's order.

    Raises:
        MelHuBERTError: there is none, one that has not ended, or several of a task.
    """
    folders = _search(Path(tree))
    results = {folder: read_result(folder) for folder, lacks in folders.items() if lacks is None}
    if not folders:
        raise MelHuBERTError(f"{tree}: no {RESULTS} here or below; give a folder of `melhubert superb TASK`")
    if upstream is not None:
        there = {result.upstream for result in results.values()}
        if there and upstream not in there:
            raise MelHuBERTError(f"--upstream {upstream}: none in {tree} ({nearest(upstream, there)})")
        results = {folder: result for folder, result in results.items() if result.upstream == upstream}
    found = {
        key: {folder: result for folder, result in results.items() if result.task == key}
        for key in all_tasks()
        if key not in given
    }
    faults = [
        f"{folder}: {lacks}; run its command again, or give what shall be submitted with --TASK EXP"
        for folder, lacks in folders.items()
        if lacks is not None and _counts(folder, upstream, given)
    ]
    faults += [_several(key, experiments) for key, experiments in found.items() if len(experiments) > 1]
    if faults:
        raise MelHuBERTError("\n  ".join([f"{tree}: cannot be submitted", *faults]))
    return {key: folder for key, experiments in found.items() for folder in experiments}


def _search(tree: Path) -> dict[Path, str | None]:
    """Find the experiments, with what those that have not ended lack, in words."""
    found: dict[Path, str | None] = {}
    of_parts = names_of_parts()
    for folder, below, files in experiments_below(tree):
        if folder.name in of_parts and folder.parent in found:
            continue  # The whole is told of.
        parts = [name for name in below if name in of_parts and (folder / name / RESULTS).is_file()]
        lacks = f"of its parts, only {', '.join(parts)} ended" if parts else f"no {RESULTS}"
        found[folder] = None if RESULTS in files else lacks
    return {folder: found[folder] for folder in sorted(found)}


def _counts(folder: Path, upstream: str | None, given: Collection[str]) -> bool:
    """Whether an experiment that has not ended would be submitted if it had."""
    identity = read_identity(folder)
    return identity.get("task") not in given and upstream in (None, identity.get("-u"))


def _several(key: str, experiments: dict[Path, Result]) -> str:
    named = ", ".join(f"{folder} ({result.label})" for folder, result in experiments.items())
    upstreams = {result.upstream for result in experiments.values()}
    choose = f"--{key} EXP" + (" or --upstream NAME" if len(upstreams) == len(experiments) else "")
    return f"{len(experiments)} experiments in {all_tasks()[key].name}: {named}; choose one with {choose}"
