"""One of s3prl's experiments: its folder, the command lines for it, and the score in what s3prl says.

The folder is s3prl's (states-*.ckpt, *-best.ckpt, predictions, ...), with `config.yaml`, what s3prl prints in
`log.txt`, and the hours so far in `training.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.compat.experiments.loading import WRITTEN
from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG, run_downstream
from s3prl_melhubert.downstream_recipes.running.settings import flat
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import (
    read_checkpoint,
    refuse_of_another,
    saved_steps,
)
from s3prl_melhubert.downstream_recipes.running.trainings.times import Times
from s3prl_melhubert.downstream_recipes.task import Metric, Task, Tested
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import write_text
from s3prl_melhubert.support.settings import put

CONFIG = "config.yaml"
# Arguments of a new experiment that are paths, by s3prl's names of them.
PATHS = {"-c": "config", "-p": "expdir", "-k": "upstream_ckpt", "-g": "upstream_model_config"}


class S3prlExperiment:
    """A task with one learning rate, or with one layer where nothing is trained, as s3prl's program runs it.

    Args:
        task: one of SUPERB's.
        options: the user's.
        device: torch's name of the device.
        settings: what s3prl gets as its configuration.
        folder: s3prl's experiment directory; it is made.
        shared: the folder of the files that all learning rates use, such as lists of files.
    """

    layer: int | None = None  # of the upstream, where a single one is tested

    def __init__(
        self,
        task: Task[Any],
        options: RunOptions,
        *,
        device: str,
        settings: dict[str, Any],
        folder: Path,
        shared: Path,
    ):
        self.task, self.options, self.device, self.settings = task, options, device, settings
        self.folder, self.shared = folder, shared
        self.rate: float | None = settings["optimizer"]["lr"] if task.trained else None
        self.log = folder / LOG
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def ended(self) -> bool:
        """Whether it was trained to the last step."""
        return Times.read(self.folder).ended

    def hours(self) -> float:
        """The hours of its training so far."""
        return Times.read(self.folder).seconds / 3600

    def must_have_ended(self) -> None:
        """Raise MelHuBERTError unless training has ended."""
        if not self.ended:
            raise MelHuBERTError(f"{self.folder}: its training has not ended; run it without --stage test")

    def named(self, checkpoint: Path) -> str:
        """A checkpoint in words: with the folder of its learning rate, where there are several."""
        return checkpoint.relative_to(self.shared).as_posix()

    # -- s3prl's command lines -----------------------------------------------------------------------------

    def start_arguments(self) -> list[str]:
        """Write the settings; return s3prl's arguments for training this learning rate from its start."""
        override = self.arguments_override()
        arguments = ["-m", "train", *self.new_experiment(), "--device", self.device]
        return [*arguments, "-o", override] if override else arguments

    def arguments_override(self) -> str:
        """What the user overrides of s3prl's arguments; the file of the settings has the rest."""
        parts = (self.options.override or "").split(",,")
        return ",,".join(part.strip() for part in parts if part.strip().startswith("args."))

    def new_experiment(self) -> list[str]:
        """Write the settings; return s3prl's arguments of an experiment with them."""
        options, config = self.options, self.folder / CONFIG
        write_text(config, yaml.safe_dump(self.settings, sort_keys=False))
        arguments = ["-d", self.task.downstream, "-c", str(config), "-p", str(self.folder)]
        arguments += ["-u", options.upstream, "--seed", str(options.seed)]
        if options.checkpoint_place is not None:
            arguments += ["-k", options.checkpoint_place]
        if options.settings_place is not None:
            arguments += ["-g", options.settings_place]
        return arguments

    def test_arguments(
        self, checkpoint: Path, override: str | None = None, folder: Path | None = None
    ) -> list[str]:
        """Return the arguments with which s3prl's own program would test a checkpoint.

        Args:
            checkpoint: of the downstream model.
            override: of s3prl's settings.
            folder: for what s3prl writes, where it is not the experiment's.
        """
        experiment = ["-e", str(checkpoint)]
        return self.evaluation(experiment, self.task.test_split, folder or self.folder, override)

    def evaluation(
        self, experiment: Sequence[str], split: str, folder: Path, override: str | None
    ) -> list[str]:
        """Return s3prl's arguments for testing an experiment, new or trained, on a split."""
        override = joined(f"args.expdir={folder}", override)
        return ["-m", "evaluate", "-t", split, *experiment, "--device", self.device, "-o", override]

    def run_program(self, arguments: Sequence[str]) -> list[str]:
        """Run s3prl's own program; return the lines that it printed."""
        return run_downstream(arguments, self.log, self.task.replacements(self.shared))

    # -- its checkpoints ----------------------------------------------------------------------------------

    def refuse_checkpoints_of_another(
        self, arguments: Mapping[str, Any], places: Collection[str], *, with_files: bool = True
    ) -> bool:
        """Look whether the checkpoints that this would go on from, or test, are of this training.

        Args:
            arguments: s3prl's, those of `settings.S3PRL_ARGUMENTS`.
            places: of the settings that hold paths.
            with_files: whether to compare the upstream's files, too.

        Returns:
            Whether a checkpoint has other paths.

        Raises:
            MelHuBERTError: one is of another training.
        """
        options = self.options
        expected = {"downstream": self.task.downstream, "upstream": options.upstream, "seed": options.seed}
        files: dict[str, str | None] = {}
        if with_files:
            files["upstream_ckpt"] = options.checkpoint_place
            files["upstream_model_config"] = options.settings_place
        as_read = yaml.safe_load(yaml.safe_dump(self.settings))  # a tuple of -o is a list to s3prl
        about = {**arguments, **expected}, files, dict(flat(as_read)), places
        checkpoints = list(saved_steps(self.folder).values())
        if self.task.best_checkpoint is not None:
            checkpoints.append(self.folder / self.task.best_checkpoint)
        found = [refuse_of_another(each, *about) for each in filter(Path.is_file, checkpoints)]
        return any(found)

    def move(self, places: Sequence[str]) -> None:
        """Give the checkpoints the paths as they are now, so that s3prl's program goes on from them, too.

        What else the user keeps beside them, such as a converted upstream, stays as it is.

        Args:
            places: of the settings that hold paths.
        """
        words = self.new_experiment()
        given = dict(zip(words[::2], words[1::2], strict=True))
        arguments = {name: given[word] for word, name in PATHS.items() if word in given}
        settings = dict(flat(self.settings))
        found = {path for name in WRITTEN for path in self.folder.glob(name)}
        for checkpoint in sorted(path for path in found if not path.name.startswith(".")):
            written = checkpoint.stat()
            content = read_checkpoint(checkpoint)
            vars(content["Args"]).update(arguments)
            there = dict(flat(content["Config"]))
            for place in places:
                if place in there:
                    put(content["Config"], place, settings[place])
            write_checkpoint(checkpoint, content)
            os.utime(checkpoint, ns=(written.st_atime_ns, written.st_mtime_ns))  # training's hours go by it

    # -- what it says --------------------------------------------------------------------------------------

    def score(self, lines: Sequence[str], split: str | None = None, folder: Path | None = None) -> float:
        """Find the score of a test, in the unit of the task's metric.

        Args:
            lines: what s3prl printed.
            split: s3prl's name of the split; without one, that of the test split.
            folder: where s3prl wrote, if not to the experiment's folder.

        Raises:
            MelHuBERTError: the lines hold no score.
        """
        task = self.task
        split, folder = split or task.test_split, folder or self.folder
        if task.score is not None:
            return task.score(Tested(folder, split, self.options.task_options)) * task.metric.scale
        return self._printed(lines, split, task.metric)

    def further_scores(self, lines: Sequence[str]) -> dict[str, float]:
        """Find the task's further scores of a test in what s3prl printed, in their units.

        Raises:
            MelHuBERTError: the lines hold no such score.
        """
        task = self.task
        return {metric.name: self._printed(lines, task.test_split, metric) for metric in task.further_metrics}

    def _printed(self, lines: Sequence[str], split: str, metric: Metric) -> float:
        printed = metric.line.format(split=re.escape(split), printed=re.escape(metric.printed))
        pattern = re.compile(rf"{printed}(\S+)")
        scores = [match[1] for line in lines if (match := pattern.fullmatch(line.strip()))]
        if not scores:
            raise MelHuBERTError(f"{self.log}: no line `{printed}...` from s3prl")
        return float(scores[-1]) * metric.scale


def joined(*overrides: str | None) -> str:
    """Join several of s3prl's `-o` to one."""
    return ",,".join(filter(None, overrides))
