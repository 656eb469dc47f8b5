"""What an experiment is, in `experiment.json`: by that its folder is continued, and another one refused.

It has two parts. What must not change: the task, the content of the upstream and of the corpus, the learning
rates, and so on. And where things were: they may be moved, the experiment's own folder among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.experiments.saving import is_made_by_the_one_above
from s3prl_melhubert.downstream_recipes.experiment_files import (
    CORPUS,
    FILES,
    FOLDER,
    IDENTITY,
    PART,
    STATISTICS,
    read_identity,
)
from s3prl_melhubert.downstream_recipes.running.digests import sha256_of_file, statistics_digest
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import write_json
from s3prl_melhubert.support.made_from import changes


class Identity:
    """What an experiment is, and what its folder says.

    Args:
        folder: of the experiment.
        task: one of SUPERB's.
        options: the user's.
        rates: the learning rates.

    Raises:
        MelHuBERTError: the folder's `experiment.json` cannot be read.
    """

    def __init__(self, folder: Path, task: Task[Any], options: RunOptions, rates: tuple[float, ...]):
        self.folder, self.before = folder, read_identity(folder)
        self.parts = [part.name for part in task.parts]
        given = {"-k": options.checkpoint_file, "-g": options.upstream_model_config}
        self.corpus = task.corpus_identity(options.task_options)  # paths, by the arguments' names
        self.where: dict[str, Any] = {
            FOLDER: str(folder),
            "-k": options.checkpoint_place,
            "-g": options.settings_place,
            **self.corpus,
        }
        self.what: dict[str, Any] = {
            "task": task.key,
            PART: task.part,
            "-u": options.upstream,
            **{FILES[name]: sha256_of_file(path) for name, path in given.items()},
            STATISTICS: statistics_digest(options.upstream_model_config),
            "--lr": list(rates),
            "--precision": options.precision,
            # None without it, as in folders of versions that did not have it.
            "--keep-states": options.keep_states or None,
            "--steps": options.steps,
            "--seed": options.seed,
            "-o": options.override,
        }

    @property
    def moved(self) -> bool:
        """Whether something is elsewhere than before; of older folders nobody knows where they were."""
        return bool(self.before) and any(self.before.get(name) != path for name, path in self.where.items())

    @property
    def moved_for_certain(self) -> bool:
        """The same, without what nobody knows."""
        return any(name in self.before and self.before[name] != path for name, path in self.where.items())

    def refuse_another(self) -> None:
        """Compare what can be compared before the corpus was looked at.

        Raises:
            MelHuBERTError: the folder holds an experiment with other arguments, or a part of one.
        """
        if not self.before:
            # It would go on from the checkpoints of another experiment, which may be at work on them.
            if is_made_by_the_one_above(self.folder):
                raise MelHuBERTError(
                    f"-p {self.folder}: belongs to the experiment in the folder above; give "
                    f"-p {self.folder.parent}, or another folder"
                )
            return
        # What has no content here, such as a URL, is known by its name; and so is what had none then, as
        # folders in older versions.
        unknown = [name for name, content in FILES.items() if self.before.get(content) is None]
        by_name = [name for name, content in FILES.items() if name in unknown or self.what[content] is None]
        if CORPUS not in self.before:
            by_name += self.corpus
        apart = (PART, STATISTICS, *(FILES[name] for name in unknown))
        what = {name: value for name, value in self.what.items() if name not in apart}
        self._compare({**what, **{name: self.where[name] for name in by_name}})
        # Folders of older versions do not say whether they are of a part, but lie in that of the whole.
        part = self.before.get(PART, self._part_by_place())
        if part != self.what[PART]:
            raise MelHuBERTError(
                f"{self.folder}: holds an experiment of {part or 'the whole'} of {self.what['task']}, not of "
                f"{self.what[PART] or 'the whole'}; give the folder of the whole with -p"
            )
        # Nor do they say which statistics they are of.
        before, now = self.before.get(STATISTICS), self.what[STATISTICS]
        if before is not None and now is not None and now != before:
            raise MelHuBERTError(
                f"{self.folder}: holds an experiment with other statistics than those that -g "
                f"{self.where['-g']} names; give the same statistics, or another folder with -p"
            )

    def _part_by_place(self) -> str | None:
        """The part that a folder is of, as far as what is asked for and the folder above tell."""
        inside = self.folder.name in self.parts and read_identity(self.folder.parent)
        is_of_whole = inside and inside.get("task") == self.what["task"]
        return self.folder.name if is_of_whole else self.what[PART]

    def refuse_another_corpus(self, content: str | None) -> None:
        """Compare the corpus, by its content.

        Args:
            content: a hash of it; None in a task that knows it by its path.

        Raises:
            MelHuBERTError: the experiment was begun on another corpus.
        """
        self.what[CORPUS] = content
        before = self.before.get(CORPUS)
        if content is not None and before is not None and content != before:
            paths = ", ".join(f"{name} {path}" for name, path in self.corpus.items() if path is not None)
            raise MelHuBERTError(
                f"{self.folder}: holds an experiment on another corpus than that of {paths}: files, their "
                "lengths or what is said in them differ; give the same corpus, or another folder with -p"
            )
        if content is None and self.before:
            self._compare(self.corpus)

    def _compare(self, values: Mapping[str, Any]) -> None:
        before = {name: self.before.get(name) for name in values}
        for change in changes(before, values):
            raise MelHuBERTError(
                f"{self.folder}: holds an experiment with {change}; give the same arguments, or another "
                "folder with -p"
            )

    def write(self) -> None:
        """Write what the experiment is, and where, after the corpus was looked at."""
        write_json(self.folder / IDENTITY, {**self.what, **self.where}, indent=2)
        self.before = {**self.what, **self.where}
