"""One layer of an upstream in a task where nothing is trained: its scores on the dev and the test split."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.running.training import SCORE, Test, Training
from s3prl_melhubert.support.files import atomic_path

DEV = "dev"  # s3prl's name of the split, and the folder of what it writes for it


class LayerTest(Training):
    """One s3prl experiment with one layer and no training. What `run` does is testing on the dev split.

    Args:
        layer: of the upstream's hidden states, counted from 0.
        kwargs: those of `Training`.
    """

    def __init__(self, *args: Any, layer: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.layer = layer

    def run(self) -> None:
        """Score the layer on the dev split; do nothing if that was done before."""
        done = self._read_times()
        if done["ended"]:
            return
        print(f"{self.task.key}: testing layer {self.layer} on {DEV}; log: {self.log}", flush=True)
        started = time.time()
        score = self._score_on(DEV, self.folder / DEV)
        print(f"{self.task.key} {self.task.metric.name} of layer {self.layer} on {DEV}: {score:.2f} %")
        with atomic_path(self.folder / DEV / SCORE) as temporary:
            temporary.write_text(json.dumps(score) + "\n", encoding="utf-8")
        self._write_times({"seconds": time.time() - started, "started": started, "ended": True})

    def dev_score(self) -> float | None:
        """Return the score on the dev split in percent."""
        return float(json.loads((self.folder / DEV / SCORE).read_text(encoding="utf-8")))

    def test(self) -> Test:
        """Score the layer on the test split."""
        print(f"{self.task.key}: testing layer {self.layer} on {self.task.test_name}", flush=True)
        return Test(self._score_on(self.task.test_split, self.folder), self.folder, [])

    def _score_on(self, split: str, folder: Path) -> float:
        arguments = [*self._new_experiment(), "-l", str(self.layer)]
        evaluation = self._evaluation(arguments, split, folder, self.options.override)
        return self.score(self._run(evaluation), split, folder)
