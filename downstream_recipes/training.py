"""Training and testing one downstream model with s3prl, in a folder from which both continue.

The folder is s3prl's (states-*.ckpt, *-best.ckpt, predictions, ...), with `config.yaml`, what s3prl prints in
`log.txt`, and the hours so far in `training.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.downstream_recipes.recipe import Recipe
from s3prl_melhubert.downstream_recipes.s3prl_run import LOG, run_downstream
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path

CONFIG, TIMES = "config.yaml", "training.json"


@dataclass(frozen=True)
class Test:
    """What testing a downstream checkpoint gave."""

    score: float  # percent
    checkpoint: Path
    layer_weights: list[float]  # of the upstream's hidden states


class Training:
    """One s3prl experiment: one learning rate of a recipe.

    Args:
        recipe: the task.
        args: those of `recipe.add_arguments`.
        settings: what s3prl gets as its configuration.
        folder: s3prl's experiment directory; made.
        file_lists: see `s3prl_run.run_downstream`.
    """

    def __init__(
        self,
        recipe: Recipe,
        args: argparse.Namespace,
        settings: dict[str, Any],
        folder: Path,
        file_lists: Path | None,
    ):
        self.recipe, self.args, self.settings = recipe, args, settings
        self.folder, self.file_lists = folder, file_lists
        self.rate: float = settings["optimizer"]["lr"]
        self.log = folder / LOG
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train, from the last checkpoint on if there is one; return at once if this has ended before."""
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
            f"{self.recipe.task}: {total} steps at a learning rate of {self.rate:g}; log: {self.log}",
            flush=True,
        )
        args = self.args
        override = ",,".join(filter(None, [args.override, f"args.expdir={self.folder}"]))
        start = ["-e", str(states)] if states is not None else self._new_experiment(config)
        run_downstream(
            ["-m", "train", *start, "--device", device_of(args), "-o", override],
            self.log,
            self.file_lists,
        )
        done["seconds"] += time.time() - done["started"]
        self._write_times({**done, "ended": True})

    def _new_experiment(self, config: Path) -> list[str]:
        args = self.args
        arguments = ["-d", self.recipe.downstream, "-c", str(config), "-p", str(self.folder)]
        arguments += ["-u", args.upstream, "--seed", str(args.seed)]
        if args.upstream_ckpt is not None:
            arguments += ["-k", absolute(args.upstream_ckpt)]
        if args.upstream_model_config is not None:
            arguments += ["-g", absolute(args.upstream_model_config)]
        return arguments

    def must_have_ended(self) -> None:
        """Raise MelHuBERTError unless training has ended."""
        if not self._read_times()["ended"]:
            raise MelHuBERTError(f"{self.folder}: its training has not ended; run it without --stage test")

    def dev_score(self) -> float | None:
        """The best score on the dev split, in percent; None if s3prl kept no best checkpoint."""
        best = self.folder / self.recipe.best_checkpoint
        if not best.is_file():
            return None
        return float(_load(best)["Downstream"]["best_score"]) * self.recipe.scale

    def test(self) -> Test:
        """Score the best checkpoint on the test split, or the last one where none is called best."""
        checkpoint = self.folder / self.recipe.best_checkpoint
        if not checkpoint.is_file():
            states = self._states()
            if states is None:
                raise MelHuBERTError(
                    f"{self.folder}: no checkpoint to test; is runner.eval_step over total_steps?"
                )
            checkpoint = states
        weights = _load(checkpoint)["Featurizer"].get("weights")
        layers = [] if weights is None else weights.softmax(0).tolist()
        return Test(self._evaluate(checkpoint), checkpoint, [round(weight, 6) for weight in layers])

    def test_with_language_model(self, checkpoint: Path) -> dict[str, Any] | None:
        """Score it once more with a language model, where the recipe was given one."""
        decoding = self.recipe.decoding(self.args)
        if decoding is None:
            return None
        override = ",,".join(f"{name}={value}" for name, value in decoding.override.items())
        return {
            "value": self._evaluate(checkpoint, override),
            "predictions": decoding.predictions,
            **decoding.files,
        }

    def _evaluate(self, checkpoint: Path, override: str | None = None) -> float:
        recipe = self.recipe
        print(f"{recipe.task}: testing {checkpoint.name} on {recipe.test_name}", flush=True)
        override = ",,".join(filter(None, [f"args.expdir={self.folder}", override]))
        arguments = ["-m", "evaluate", "-t", recipe.test_split, "-e", str(checkpoint)]
        arguments += ["--device", device_of(self.args), "-o", override]
        lines = run_downstream(arguments, self.log, self.file_lists)
        pattern = re.compile(rf"{re.escape(recipe.test_split)} {recipe.score}: (\S+)")
        scores = [match[1] for line in lines if (match := pattern.fullmatch(line.strip()))]
        if not scores:
            raise MelHuBERTError(f"{self.log}: no line `{recipe.test_split} {recipe.score}: ...` from s3prl")
        return float(scores[-1]) * recipe.scale

    def hours(self) -> float:
        return self._read_times()["seconds"] / 3600

    def _states(self) -> Path | None:
        """The newest checkpoint to continue from."""
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


def device_of(args: argparse.Namespace) -> str:
    """The device that was asked for, or the GPU if there is one."""
    if args.device is not None:
        return args.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(checkpoint: Path) -> dict[str, Any]:
    """A downstream checkpoint of s3prl's."""
    import torch

    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def absolute(path: str) -> str:
    """A file's full path; what is no file (a URL, a Google Drive id) as it is."""
    file = Path(path).expanduser()
    return str(file.absolute()) if file.exists() else path
