"""Training and testing one downstream model with s3prl, in a folder from which both continue.

The folder is s3prl's (states-*.ckpt, *-best.ckpt, predictions, ...), with `config.yaml`, what s3prl prints in
`log.txt`, and the hours so far in `training.json`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.downstream_recipes.running.options import RunOptions, full_path_of_file
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG, run_downstream
from s3prl_melhubert.downstream_recipes.task import Metric, Task
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path

CONFIG, TIMES = "config.yaml", "training.json"


@dataclass(frozen=True)
class Test:
    """The outcome of testing a downstream checkpoint."""

    score: float  # percent
    checkpoint: Path
    layer_weights: list[float]  # of the upstream's hidden states
    further: dict[str, float]  # percent, by the names of the task's further metrics


class Training:
    """One s3prl experiment: a task with one learning rate.

    Args:
        task: one of SUPERB's.
        options: the user's.
        device: torch's name of the device.
        settings: what s3prl gets as its configuration.
        folder: s3prl's experiment directory; it is made.
        shared: the folder of the files that all learning rates use, such as lists of files.
    """

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
        self.rate: float = settings["optimizer"]["lr"]
        self.log = folder / LOG
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train, from the last checkpoint on if there is one; do nothing if training has ended before."""
        done = self._read_times()
        if done["ended"]:
            return
        config = self.folder / CONFIG
        with atomic_path(config) as temporary:
            temporary.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        states = self._states()
        if states is not None:
            # What was computed after the last save is lost, and so is its time, which nobody knows.
            done["seconds"] += max(0.0, states.stat().st_mtime - done["started"])
            print(f"{self.folder}: continuing from {states.name}")
        done["started"] = time.time()
        self._write_times(done)
        total = self.settings["runner"]["total_steps"]
        print(
            f"{self.task.key}: {total} steps at a learning rate of {self.rate:g}; log: {self.log}",
            flush=True,
        )
        override = _joined(self.options.override, f"args.expdir={self.folder}")
        start = ["-e", str(states)] if states is not None else self._new_experiment(config)
        self._run(["-m", "train", *start, "--device", self.device, "-o", override])
        done["seconds"] += time.time() - done["started"]
        self._write_times({**done, "ended": True})

    def _new_experiment(self, config: Path) -> list[str]:
        options = self.options
        arguments = ["-d", self.task.downstream, "-c", str(config), "-p", str(self.folder)]
        arguments += ["-u", options.upstream, "--seed", str(options.seed)]
        if options.upstream_ckpt is not None:
            arguments += ["-k", full_path_of_file(options.upstream_ckpt)]
        if options.upstream_model_config is not None:
            arguments += ["-g", full_path_of_file(options.upstream_model_config)]
        return arguments

    def must_have_ended(self) -> None:
        """Raise MelHuBERTError unless training has ended."""
        if not self._read_times()["ended"]:
            raise MelHuBERTError(f"{self.folder}: its training has not ended; run it without --stage test")

    def dev_score(self) -> float | None:
        """Return the best score on the dev split in percent, or None if s3prl kept no best checkpoint."""
        best = self.folder / self.task.best_checkpoint
        if not best.is_file():
            return None
        return float(_load(best)["Downstream"]["best_score"]) * self.task.metric.scale

    def test(self) -> Test:
        """Score the best checkpoint on the test split, or the last one where none is called best."""
        checkpoint = self.folder / self.task.best_checkpoint
        if not checkpoint.is_file():
            states = self._states()
            if states is None:
                raise MelHuBERTError(
                    f"{self.folder}: no checkpoint to test; is runner.eval_step over total_steps?"
                )
            checkpoint = states
        weights = _load(checkpoint)["Featurizer"].get("weights")
        layers = [] if weights is None else weights.softmax(0).tolist()
        lines = self._evaluate(checkpoint)
        return Test(
            self._score(lines, self.task.metric),
            checkpoint,
            [round(weight, 6) for weight in layers],
            {metric.name: self._score(lines, metric) for metric in self.task.further_metrics},
        )

    def test_again(self, checkpoint: Path) -> dict[str, Any] | None:
        """Score the checkpoint once more as the task's second test does, where the user asked for that.

        Returns:
            For the result: the score in percent (`value`), the file of predictions, and the files used.
        """
        second = self.task.second_test
        testing = second.from_options(self.options.task_options) if second else None
        if second is None or testing is None:
            return None
        override = ",,".join(f"{name}={value}" for name, value in testing.override.items())
        return {
            "value": self._score(self._evaluate(checkpoint, override), self.task.metric),
            "predictions": second.predictions[0].name,
            **testing.files,
        }

    def _evaluate(self, checkpoint: Path, override: str | None = None) -> list[str]:
        """Let s3prl test a checkpoint; return the lines that it printed."""
        task = self.task
        print(f"{task.key}: testing {checkpoint.name} on {task.test_name}", flush=True)
        override = _joined(f"args.expdir={self.folder}", override)
        arguments = ["-m", "evaluate", "-t", task.test_split, "-e", str(checkpoint)]
        return self._run([*arguments, "--device", self.device, "-o", override])

    def _score(self, lines: Sequence[str], metric: Metric) -> float:
        """Find a score in what s3prl printed, in percent."""
        printed = f"{self.task.test_split} {metric.printed}"
        pattern = re.compile(rf"{re.escape(printed)}: (\S+)")
        scores = [match[1] for line in lines if (match := pattern.fullmatch(line.strip()))]
        if not scores:
            raise MelHuBERTError(f"{self.log}: no line `{printed}: ...` from s3prl")
        return float(scores[-1]) * metric.scale

    def _run(self, arguments: Sequence[str]) -> list[str]:
        return run_downstream(arguments, self.log, self.task.replacements(self.shared))

    def hours(self) -> float:
        return self._read_times()["seconds"] / 3600

    def _states(self) -> Path | None:
        """Find the newest checkpoint to continue from; None if there is none."""
        found = {int(path.stem.split("-")[1]): path for path in self.folder.glob("states-*.ckpt")}
        return found[max(found)] if found else None

    def _read_times(self) -> dict[str, Any]:
        path = self.folder / TIMES
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        return {"seconds": 0.0, "started": 0.0, "ended": False}

    def _write_times(self, times: dict[str, Any]) -> None:
        with atomic_path(self.folder / TIMES) as temporary:
            temporary.write_text(json.dumps(times) + "\n", encoding="utf-8")


def _joined(*overrides: str | None) -> str:
    """Join several of s3prl's `-o` to one."""
    return ",,".join(filter(None, overrides))


def _load(checkpoint: Path) -> dict[str, Any]:
    """Read a downstream checkpoint of s3prl's."""
    import torch

    return torch.load(checkpoint, map_location="cpu", weights_only=True)
