"""Training and testing one downstream model with s3prl, in a folder from which both continue.

The folder is s3prl's (states-*.ckpt, *-best.ckpt, predictions, ...), with `config.yaml`, what s3prl prints in
`log.txt`, and the hours so far in `training.json`.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.experiment_files import read_score
from s3prl_melhubert.downstream_recipes.predictions import sha256_of_predictions
from s3prl_melhubert.downstream_recipes.running.checkpoints import (
    layer_weights,
    read_checkpoint,
    refuse_of_another,
    saved_steps,
)
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG, run_downstream
from s3prl_melhubert.downstream_recipes.running.settings import flat
from s3prl_melhubert.downstream_recipes.task import Metric, SecondTesting, Task, Tested
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import (
    atomic_path,
    full_path_of_file,
    read_json,
    write_json,
    write_text,
)
from s3prl_melhubert.support.progress import from_here, say
from s3prl_melhubert.support.settings import put

CONFIG, TIMES = "config.yaml", "training.json"
# Arguments of a new experiment that are paths, by s3prl's names of them.
PATHS = {"-c": "config", "-p": "expdir", "-k": "upstream_ckpt", "-g": "upstream_model_config"}
TESTED, SCORE = "tested", "score.json"  # of each checkpoint, where every one is tested


@dataclass(frozen=True)
class Test:
    """The outcome of testing a downstream checkpoint."""

    score: float  # percent
    checkpoint: Path
    layer_weights: list[float]  # of the upstream's hidden states
    # Percent, by the names of the task's further metrics.
    further: dict[str, float] = field(default_factory=dict)


class Training:
    """One s3prl experiment: a task with one learning rate. `layers.LayerTest` is one without training.

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
        self._share = 1.0
        self._begun = False  # by this process, which may do so again with fewer learning rates in a pass
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def ended(self) -> bool:
        """Whether it was trained to the last step."""
        return bool(self._read_times()["ended"])

    def run(self) -> None:
        """Train with s3prl's own program, from the last checkpoint on; do nothing if it has ended before."""
        if self.ended:
            return
        states = self._states()
        self.begin(states)
        if states is None:
            self._run(self.start_arguments())
        else:
            say(
                f"{from_here(self.folder)}: s3prl's own program goes on, which saves neither the random "
                "generators nor the place in the data; the result is not, bit for bit, that of a training "
                "without a break"
            )
            override = _joined(self._override(), f"args.expdir={self.folder}")
            self._run(["-m", "train", "-e", str(states), "--device", self.device, "-o", override])
        self.end()

    def begin(self, states: Path | None, share: float = 1.0) -> None:
        """Say that training begins or goes on; write the time.

        Args:
            states: the checkpoint after which it goes on; None at its start.
            share: of the time from now on that counts for this learning rate.
        """
        done = self._read_times()
        if states is None and done["started"] and not self._begun:
            say(f"{from_here(self.folder)}: was begun before, but holds no checkpoint; training begins anew")
        self._begun = True
        if states is not None:
            # What was computed after the last save is lost, and so is its time, which nobody knows.
            done["seconds"] += share * max(0.0, states.stat().st_mtime - done["started"])
            say(f"{from_here(self.folder)}: continuing from {states.name}")
        self._share = share
        self._write_times({**done, "started": time.time()})
        total = self.settings["runner"]["total_steps"]
        say(
            f"{self.task.key}: {total} steps at a learning rate of {self.rate:g}; log: {from_here(self.log)}",
        )

    def end(self) -> None:
        """Say that training has ended, and how long it took."""
        done = self._read_times()
        done["seconds"] += self._share * (time.time() - done["started"])
        self._write_times({**done, "ended": True})

    def start_arguments(self) -> list[str]:
        """Write the settings; return s3prl's arguments for training this learning rate from its start."""
        override = self._override()
        arguments = ["-m", "train", *self._new_experiment(), "--device", self.device]
        return [*arguments, "-o", override] if override else arguments

    def _override(self) -> str:
        """What the user overrides of s3prl's arguments; the file of the settings has the rest."""
        parts = (self.options.override or "").split(",,")
        return ",,".join(part.strip() for part in parts if part.strip().startswith("args."))

    def _new_experiment(self) -> list[str]:
        """Write the settings; return s3prl's arguments of an experiment with them."""
        options, config = self.options, self.folder / CONFIG
        write_text(config, yaml.safe_dump(self.settings, sort_keys=False))
        arguments = ["-d", self.task.downstream, "-c", str(config), "-p", str(self.folder)]
        arguments += ["-u", options.upstream, "--seed", str(options.seed)]
        if options.checkpoint_place is not None:
            arguments += ["-k", options.checkpoint_place]
        if options.upstream_model_config is not None:
            arguments += ["-g", full_path_of_file(options.upstream_model_config)]
        return arguments

    def refuse_checkpoints_of_another(self, arguments: Mapping[str, Any], places: Collection[str]) -> bool:
        """Look whether the checkpoints that this would go on from, or test, are of this training.

        Args:
            arguments: s3prl's, those of `settings.S3PRL_ARGUMENTS`.
            places: of the settings that hold paths.

        Returns:
            Whether a checkpoint has other paths.

        Raises:
            MelHuBERTError: one is of another training.
        """
        options = self.options
        expected = {"downstream": self.task.downstream, "upstream": options.upstream, "seed": options.seed}
        config = options.upstream_model_config
        files = {"upstream_ckpt": options.checkpoint_place}
        files["upstream_model_config"] = config and full_path_of_file(config)
        as_read = yaml.safe_load(yaml.safe_dump(self.settings))  # a tuple of -o is a list to s3prl
        about = {**arguments, **expected}, files, dict(flat(as_read)), places
        checkpoints = list(saved_steps(self.folder).values())
        if self.task.best_checkpoint is not None:
            checkpoints.append(self.folder / self.task.best_checkpoint)
        found = [refuse_of_another(each, *about) for each in filter(Path.is_file, checkpoints)]
        return any(found)

    def move(self, places: Sequence[str]) -> None:
        """Give the checkpoints the paths as they are now, so that s3prl's program goes on from them, too.

        Args:
            places: of the settings that hold paths.
        """
        words = self._new_experiment()
        given = dict(zip(words[::2], words[1::2], strict=True))
        arguments = {name: given[word] for word, name in PATHS.items() if word in given}
        settings = dict(flat(self.settings))
        for checkpoint in sorted(self.folder.glob("[!.]*.ckpt")):
            written = checkpoint.stat()
            content = read_checkpoint(checkpoint)
            vars(content["Args"]).update(arguments)
            there = dict(flat(content["Config"]))
            for place in places:
                if place in there:
                    put(content["Config"], place, settings[place])
            write_checkpoint(checkpoint, content)
            os.utime(checkpoint, ns=(written.st_atime_ns, written.st_mtime_ns))  # training's hours go by it

    def named(self, checkpoint: Path) -> str:
        """A checkpoint in words: with the folder of its learning rate, where there are several."""
        return checkpoint.relative_to(self.shared).as_posix()

    def must_have_ended(self) -> None:
        """Raise MelHuBERTError unless training has ended."""
        if not self.ended:
            raise MelHuBERTError(f"{self.folder}: its training has not ended; run it without --stage test")

    def forget_tests(self) -> None:
        """Remove what was found in testing every checkpoint, so that each is tested again."""
        shutil.rmtree(self.folder / TESTED, ignore_errors=True)

    def dev_score(self) -> float | None:
        """Return the best score on the dev split in percent, or None if s3prl kept no best checkpoint."""
        if self.task.best_checkpoint is None:
            return None
        best = self.folder / self.task.best_checkpoint
        if not best.is_file():
            return None
        metric = self.task.dev_metric or self.task.metric
        return float(read_checkpoint(best)["Downstream"]["best_score"]) * metric.scale

    def test(self) -> Test:
        """Score the checkpoint to test with s3prl's own program.

        Where the task has no dev split, every saved checkpoint is scored, and the best score is returned.
        """
        if self.task.tests_every_checkpoint:
            return self._test_every_checkpoint()
        checkpoint = self.checkpoint_to_test()
        lines = self._evaluate(checkpoint)
        weights = layer_weights(read_checkpoint(checkpoint))
        return Test(self.score(lines), checkpoint, weights, self.further_scores(lines))

    def checkpoint_to_test(self) -> Path:
        """Find the best checkpoint on the dev split, or the last one where none is called best.

        Raises:
            MelHuBERTError: there is none.
        """
        if self.task.best_checkpoint is not None and (self.folder / self.task.best_checkpoint).is_file():
            return self.folder / self.task.best_checkpoint
        last = self._states()
        if last is None:
            raise MelHuBERTError(
                f"{self.folder}: no checkpoint to test; is runner.eval_step over total_steps?"
            )
        return last

    def _test_every_checkpoint(self) -> Test:
        """Score each saved checkpoint in a folder of its own; put the best one's predictions above them.

        A checkpoint that was scored before an interruption is not scored again.
        """
        task = self.task
        checkpoints = [path for _, path in sorted(saved_steps(self.folder).items())]
        if not checkpoints:
            raise MelHuBERTError(
                f"{self.folder}: no checkpoint to test; is runner.save_step over total_steps?"
            )
        scores = []
        for checkpoint in checkpoints:
            folder = self.folder / TESTED / checkpoint.stem
            score = folder / SCORE
            if not all(
                file.is_file() for file in (score, *(folder / each.name for each in task.predictions))
            ):
                folder.mkdir(parents=True, exist_ok=True)
                value = self.score(self._evaluate(checkpoint, folder=folder), folder=folder)
                write_json(score, value)
            scores.append(read_score(score, "remove it, and give the same command again"))
            say(f"{task.key} {task.metric.name} of {self.named(checkpoint)}: {scores[-1]:.2f} %")
        best = task.metric.best(scores)
        for file in task.predictions:
            with atomic_path(self.folder / file.name) as temporary:
                shutil.copyfile(self.folder / TESTED / checkpoints[best].stem / file.name, temporary)
        weights = layer_weights(read_checkpoint(checkpoints[best]))
        return Test(scores[best], checkpoints[best], weights)

    def test_again(self, checkpoint: Path, testing: SecondTesting) -> dict[str, Any]:
        """Score the checkpoint once more as the task's second test does.

        Returns:
            For the result: the score in percent (`value`), predictions and files used, and hashes of both.
        """
        assert self.task.second_test is not None
        override = ",,".join(f"{name}={value}" for name, value in testing.override.items())
        files = self.task.second_test.predictions
        return {
            "value": self.score(self._evaluate(checkpoint, override)),
            "predictions": files[0].name,
            "predictions_sha256": sha256_of_predictions(self.folder / files[0].name, files, []),
            **testing.files,
            **testing.digests,
        }

    def _evaluate(
        self, checkpoint: Path, override: str | None = None, folder: Path | None = None
    ) -> list[str]:
        """Let s3prl test a checkpoint; return the lines that it printed."""
        say(f"{self.task.key}: testing {self.named(checkpoint)} on {self.task.test_name}")
        return self._run(self.test_arguments(checkpoint, override, folder))

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
        return self._evaluation(experiment, self.task.test_split, folder or self.folder, override)

    def _evaluation(
        self, experiment: Sequence[str], split: str, folder: Path, override: str | None
    ) -> list[str]:
        override = _joined(f"args.expdir={folder}", override)
        return ["-m", "evaluate", "-t", split, *experiment, "--device", self.device, "-o", override]

    def score(self, lines: Sequence[str], split: str | None = None, folder: Path | None = None) -> float:
        """Find the score of a test, in percent.

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
        """Find the task's further scores of a test in what s3prl printed, in percent.

        Raises:
            MelHuBERTError: the lines hold no such score.
        """
        task = self.task
        return {metric.name: self._printed(lines, task.test_split, metric) for metric in task.further_metrics}

    def _printed(self, lines: Sequence[str], split: str, metric: Metric) -> float:
        printed = metric.line.format(split=split, printed=metric.printed)
        pattern = re.compile(rf"{re.escape(printed)}(\S+)")
        scores = [match[1] for line in lines if (match := pattern.fullmatch(line.strip()))]
        if not scores:
            raise MelHuBERTError(f"{self.log}: no line `{printed}...` from s3prl")
        return float(scores[-1]) * metric.scale

    def _run(self, arguments: Sequence[str]) -> list[str]:
        return run_downstream(arguments, self.log, self.task.replacements(self.shared))

    def hours(self) -> float:
        return self._read_times()["seconds"] / 3600

    def _states(self) -> Path | None:
        """Find the newest checkpoint to continue from; None if there is none."""
        saved = saved_steps(self.folder)
        return saved[max(saved)] if saved else None

    def _read_times(self) -> dict[str, Any]:
        path = self.folder / TIMES
        times = {"seconds": 0.0, "started": 0.0, "ended": False}
        if not path.is_file():
            return times
        remedy = "remove it, and give the same command again: the hours so far are lost, and nothing else"
        found = read_json(path, remedy)
        if not isinstance(found, dict) or not all(isinstance(found.get(name), int | float) for name in times):
            raise MelHuBERTError(f"{path}: {shown(found)} found, expected {', '.join(times)}; {remedy}")
        return found

    def _write_times(self, times: dict[str, Any]) -> None:
        write_json(self.folder / TIMES, times)


def _joined(*overrides: str | None) -> str:
    """Join several of s3prl's `-o` to one."""
    return ",,".join(filter(None, overrides))
