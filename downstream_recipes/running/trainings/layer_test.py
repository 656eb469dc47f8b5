"""One layer of an upstream in a task where nothing is trained: its scores on the dev and the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.experiment_files import read_score
from s3prl_melhubert.downstream_recipes.running.trainings.times import Times
from s3prl_melhubert.downstream_recipes.running.trainings.training import SCORE, Training
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import write_json

DEV = "dev"  # s3prl's name of the split, and the folder of what it writes for it


class LayerTest(Training):
    """One s3prl experiment with one layer and no training; `one_pass.layers` tests several of them at once.

    Args:
        layer: of the upstream's hidden states, counted from 0.
        kwargs: those of `Training`.
    """

    def __init__(self, *args: Any, layer: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.layer = layer

    def folder_of(self, split: str) -> Path:
        """Where s3prl writes what it finds on a split."""
        return self.folder / DEV if split == DEV else self.folder

    def evaluation_arguments(self, split: str) -> list[str]:
        """Return the arguments with which s3prl's own program would test the layer."""
        arguments = [*self.new_experiment(), "-l", str(self.layer)]
        return self.evaluation(arguments, split, self.folder_of(split), self.options.override)

    def keep_dev_score(self, score: float, seconds: float) -> None:
        """Write the score on the dev split, and how long it took; with that, the layer is done."""
        write_json(self.folder / DEV / SCORE, score)
        Times(seconds=seconds, ended=True).write(self.folder)

    def dev_score(self) -> float | None:
        """Return the score on the dev split.

        Raises:
            MelHuBERTError: the file that holds it is not there, or is damaged.
        """
        path, remedy = self.folder / DEV / SCORE, f"remove {self.folder}, and give the same command again"
        try:
            return read_score(path, remedy)
        except FileNotFoundError:
            raise MelHuBERTError(f"{path}: not found; {remedy}") from None
