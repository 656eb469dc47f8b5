"""Looking for experiments in a tree of folders, through symbolic links, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from s3prl_melhubert.downstream_recipes.experiment_files import IDENTITY


def folders_below(tree: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Go through a folder and those below it, from the top down and by name.

    Links to folders are followed, but after the folders beside them, and each folder comes once: a link to
    one that was there before leads nowhere, so that links in a circle have an end. In an experiment's folder
    no link is followed, because s3prl's lead to the corpus.

    Yields:
        A folder, the names of those in it, and the names of its files. As with `os.walk`, what the caller
        removes from the former is not gone into.
    """
    seen = {os.path.realpath(tree)}
    for place, below, files in os.walk(tree, followlinks=True):
        folder = Path(place)
        links = [name for name in below if (folder / name).is_symlink()]
        below[:] = sorted(set(below) - set(links))
        if IDENTITY not in files:
            below += sorted(links)
        yield folder, below, files
        new = []
        for name in below:
            real = os.path.realpath(folder / name)
            if real not in seen:
                seen.add(real)
                new.append(name)
        below[:] = new
