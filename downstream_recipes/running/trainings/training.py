"""Training one downstream model with s3prl, and testing it, in a folder from which both continue."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.experiment_files import read_score
from s3prl_melhubert.downstream_recipes.prediction_files import sha256_of_predictions
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import (
    layer_weights,
    read_checkpoint,
    saved_steps,
)
from s3prl_melhubert.downstream_recipes.running.trainings.s3prl_experiment import S3prlExperiment, joined
from s3prl_melhubert.downstream_recipes.running.trainings.times import Times
from s3prl_melhubert.downstream_recipes.task import SecondTesting
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path, write_json
from s3prl_melhubert.support.progress import from_here, say

BEST_SCORE = "best_score"  # in what the checkpoints of most of s3prl's tasks hold of their models
TESTED, SCORE = "tested", "score.json"  # of each checkpoint, where every one is tested

# What the log says of a batch for which a GPU had too little memory: here, and in s3prl's own program.
LEFT_OUT = "not enough memory on the GPU; the batch is left out"
S3PRLS_LEFT_OUT = "[Runner] - CUDA out of memory at step"


@dataclass(frozen=True)
class Test:
    """The outcome of testing a downstream checkpoint."""

    score: float  # in the unit of the task's metric
    checkpoint: Path
    layer_weights: list[float]  # of the upstream's hidden states
    # In their units, by the names of the task's further metrics.
    further: dict[str, float] = field(default_factory=dict)


class Training(S3prlExperiment):
    """One learning rate of a task. `layer_test.LayerTest` is one without training.

    Args:
        args, kwargs: those of `S3prlExperiment`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._share = 1.0
        self._begun = False  # by this process, which may do so again with fewer learning rates in a pass

    def run(self) -> None:
        """Train with s3prl's own program, from the last checkpoint on; do nothing if it has ended before."""
        if self.ended:
            return
        states = self._states()
        self.begin(states)
        if states is None:
            self.run_program(self.start_arguments())
        else:
            say(
                f"{from_here(self.folder)}: s3prl's own program goes on, which saves neither the random "
                "generators nor the place in the data; the result is not, bit for bit, that of a training "
                "without a break"
            )
            override = joined(self.arguments_override(), f"args.expdir={self.folder}")
            self.run_program(["-m", "train", "-e", str(states), "--device", self.device, "-o", override])
        self.end()

    def begin(self, states: Path | None, share: float = 1.0) -> None:
        """Say that training begins or goes on; write the time.

        Args:
            states: the checkpoint after which it goes on; None at its start.
            share: of the time from now on that counts for this learning rate.
        """
        times = Times.read(self.folder)
        if states is None and times.started and not self._begun:
            say(f"{from_here(self.folder)}: was begun before, but holds no checkpoint; training begins anew")
        self._begun = True
        seconds = times.seconds
        if states is not None:
            # What was computed after the last save is lost, and so is its time, which nobody knows.
            seconds += share * max(0.0, states.stat().st_mtime - times.started)
            say(f"{from_here(self.folder)}: continuing from {states.name}")
        self._share = share
        replace(times, seconds=seconds, started=time.time()).write(self.folder)
        total = self.settings["runner"]["total_steps"]
        say(
            f"{self.task.key}: {total} steps at a learning rate of {self.rate:g}; log: {from_here(self.log)}",
        )

    def end(self) -> None:
        """Say that training has ended, and how long it took."""
        times = Times.read(self.folder)
        seconds = times.seconds + self._share * (time.time() - times.started)
        replace(times, seconds=seconds, ended=True).write(self.folder)

    def left_out_batches(self) -> bool:
        """Whether training left out batches for which the GPU had too little memory, as s3prl does."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as lines:
                return any(LEFT_OUT in line or S3PRLS_LEFT_OUT in line for line in lines)
        except FileNotFoundError:
            return False

    def forget_tests(self) -> None:
        """Remove what was found in testing every checkpoint, so that each is tested again."""
        shutil.rmtree(self.folder / TESTED, ignore_errors=True)

    def dev_score(self) -> float | None:
        """Return the best score on the dev split, or None if s3prl kept no best checkpoint.

        Raises:
            MelHuBERTError: the best checkpoint does not say its score.
        """
        if self.task.best_checkpoint is None:
            return None
        best = self.folder / self.task.best_checkpoint
        if not best.is_file():
            return None
        score = read_checkpoint(best)["Downstream"].get(BEST_SCORE)
        if score is None:
            raise MelHuBERTError(
                f"{best}: holds no {BEST_SCORE}, because s3prl's {self.task.downstream} keeps its best score "
                f"elsewhere; the task needs an expert that has it in a buffer of that name (`replacements`)"
            )
        return float(score) * self.task.chosen_by.scale

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
            written = task.metric.written(scores[-1])
            say(f"{task.key} {task.metric.name} of {self.named(checkpoint)}: {written}")
        best = task.metric.best(scores)
        for file in task.predictions:
            with atomic_path(self.folder / file.name) as temporary:
                shutil.copyfile(self.folder / TESTED / checkpoints[best].stem / file.name, temporary)
        weights = layer_weights(read_checkpoint(checkpoints[best]))
        return Test(scores[best], checkpoints[best], weights)

    def test_again(self, checkpoint: Path, testing: SecondTesting) -> dict[str, Any]:
        """Score the checkpoint once more as the task's second test does.

        Returns:
            For the result: the score (`value`), predictions and files used, and hashes of both.
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
        return self.run_program(self.test_arguments(checkpoint, override, folder))

    def _states(self) -> Path | None:
        """Find the newest checkpoint to continue from; None if there is none."""
        saved = saved_steps(self.folder)
        return saved[max(saved)] if saved else None
