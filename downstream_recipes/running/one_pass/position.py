"""Where a training stands: what s3prl's checkpoints lack for going on as if nothing had happened.

    position.pt     the step, the place in the data, the generators' states; what each rate has recorded

It is replaced after every rate has saved its `states-STEP.ckpt`, so that all go on from the same step.
"""

from __future__ import annotations

import codecs
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.running.one_pass.generators import Generators
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.support.tensor_files import allowed, damage_in

LOGS = "*.log"  # files to which s3prl's experts append


@dataclass(frozen=True)
class Position:
    """A step after which training can go on.

    Attributes:
        step: updates of the weights so far.
        epoch: the number of the pass over the data.
        batches: that were taken from the data loader in this epoch.
        backwards: batches whose gradients were computed, in the whole training.
        epoch_start: the generators before this epoch's data loader was made.
        now: the generators after the step.
        rates: the learning rates.
        own: what each rate has besides its checkpoint.
    """

    step: int
    epoch: int
    batches: int
    backwards: int
    epoch_start: Generators
    now: Generators
    rates: list[float]
    own: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Replace the file."""
        content = {
            **vars(self),
            "epoch_start": self.epoch_start.as_plain(),
            "now": self.now.as_plain(),
        }
        write_checkpoint(path, content)

    @classmethod
    def read(cls, path: Path, rates: Sequence[float]) -> Position | None:
        """Read what the file says of some learning rates; None where there is none.

        Raises:
            MelHuBERTError: it is no such file, or does not have these rates.
        """
        if not path.is_file():
            return None
        try:
            if damage := damage_in(path):
                raise ValueError(damage)
            with allowed(numpy_types()):
                content = torch.load(path, map_location="cpu", weights_only=True)
            for name in ("epoch_start", "now"):
                content[name] = Generators.from_plain(content[name])
            position = cls(**content)
        except Exception as error:
            raise MelHuBERTError(
                f"{path}: cannot be read ({said(error)}); remove the experiment's folder to train anew"
            ) from None
        if not set(rates) <= set(position.rates):
            raise MelHuBERTError(f"{path}: is of the learning rates {position.rates}, not {list(rates)}")
        own = [position.own[position.rates.index(rate)] for rate in rates]
        return replace(position, rates=list(rates), own=own)


def numpy_types() -> list[Any]:
    """What a pickle of numpy's numbers and arrays names: some of s3prl's experts record them."""
    makers = [each.__reduce__()[0] for each in (np.float64(0), np.zeros(1))]
    kinds = [type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?")]
    # A pickle turns bytes into text and back, by what torch 2.4 does not know as harmless, as later ones do.
    return [np.ndarray, np.dtype, *makers, *kinds, codecs.encode]


def state_of(rate: Rate) -> dict[str, Any]:
    """What a rate has besides its checkpoint: what it recorded since the last log, and the logs' lengths."""
    return {
        "records": dict(rate.records),
        "batch_ids": rate.batch_ids,
        "scaler": rate.scaler.state_dict(),
        "logs": {path.name: path.stat().st_size for path in rate.folder.glob(LOGS)},
    }


def put_back(rate: Rate, state: dict[str, Any]) -> None:
    """Give a rate what it had, and take from its folder what was written since."""
    rate.records = defaultdict(list, state["records"])
    rate.batch_ids = state["batch_ids"]
    rate.scaler.load_state_dict(state["scaler"])
    for path in rate.folder.glob(LOGS):
        length = state["logs"].get(path.name)
        if length is None:
            path.unlink()
        elif path.stat().st_size > length:
            os.truncate(path, length)
