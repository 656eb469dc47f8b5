"""A task's settings as a file, for those who prefer s3prl's own command.

    python run_downstream.py -m train -d ctc -c $(melhubert superb config pr --librispeech DIR) ...

The corpus is checked as in a run of `melhubert superb`. What s3prl needs beside the settings (lexicon,
lengths) lies beside the file, by default in a cache folder under a name that stands for the corpus, so that
its path stays the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from s3prl_melhubert.downstream_recipes.running.options import check_workers
from s3prl_melhubert.downstream_recipes.running.settings import flat
from s3prl_melhubert.downstream_recipes.task import C, Preparation, Task, TaskOptions
from s3prl_melhubert.support.files import user_cache, write_text
from s3prl_melhubert.support.writable import check_writable


def write_settings_file(
    task: Task[C], options: TaskOptions, workers: int, out: Path | None = None
) -> tuple[Path, list[str]]:
    """Check the corpus, if one is named, and write the settings with their paths filled in.

    Args:
        out: the folder for the file; None for one in the user's cache.

    Returns:
        The file, and what its user must know, in lines.

    Raises:
        MelHuBERTError: the corpus has faults, or the folder cannot be written.
    """
    check_workers(workers)
    settings = task.superb_settings()
    place = task.arguments[0]  # the argument that names the corpus
    given = options.one(place.name) is not None
    identity = {"task": task.key, "workers": workers, **(task.corpus_identity(options) if given else {})}
    folder = (out or _cache_folder(identity)).expanduser().absolute()
    check_writable(folder, remedy="choose another folder with --out")
    corpus = task.check(options) if given else None
    task.fill_in(settings, Preparation(corpus, folder, options, workers))
    path = folder / f"{task.key}.yaml"
    write_text(path, yaml.safe_dump(settings, sort_keys=False))

    notes = [] if corpus is None else [*corpus.summary, *map(str, corpus.differences)]
    if open_settings := [name for name, value in flat(settings) if value is None]:
        notes.append(
            f"left to be set, with {place.option} here or in s3prl's -o as config.NAME=PATH: "
            f"{', '.join(open_settings)}"
        )
    if trap := task.trap():
        notes.append(trap)
    return path, notes


def _cache_folder(identity: Mapping[str, object]) -> Path:
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return user_cache() / "s3prl-melhubert" / "superb" / f"{identity['task']}-{name}"
