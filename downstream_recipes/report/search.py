"""Looking for experiments in a tree of folders, through symbolic links, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from s3prl_melhubert.downstream_recipes.experiment_files import IDENTITY
from s3prl_melhubert.downstream_recipes.report.results import RESULTS
from s3prl_melhubert.downstream_recipes.tasks import all_tasks


def names_of_parts() -> set[str]:
    """The names of the folders in which the parts of any task lie inside its experiment."""
    return {part.name for task in all_tasks().values() for part in task.parts}


def experiments_below(tree: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Find the experiments at and below a folder, ended or not, from the top down and by name.

    One may lie inside another, and has an `experiment.json` there: a result alone is something that the outer
    one keeps. The parts of an experiment that has ended are not looked at.

    Links to folders are followed, but after the folders beside them, and each folder comes once: a link to
    one that was there before leads nowhere, so that links in a circle have an end. Inside an experiment no
    link is followed, because s3prl's lead to the corpus.

    Yields:
        An experiment's folder, the names of those in it that are no links, and the names of its files.
    """
    parts, found = names_of_parts(), list[Path]()
    seen = {os.path.realpath(tree)}
    for place, below, files in os.walk(tree, followlinks=True):
        folder = Path(place)
        inside = any(outer in folder.parents for outer in found)
        links = [name for name in below if (folder / name).is_symlink()]
        below[:] = sorted(set(below) - set(links))
        if IDENTITY in files or (RESULTS in files and not inside):
            yield folder, list(below), files
            found.append(folder)
            if RESULTS in files:
                below[:] = [name for name in below if name not in parts]
        elif not inside:
            below += sorted(links)
        new = []
        for name in below:
            real = os.path.realpath(folder / name)
            if real not in seen:
                seen.add(real)
                new.append(name)
        below[:] = new
