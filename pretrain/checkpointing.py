"""The checkpoints of a run: last.ckpt, epoch-N.ckpt, step-N.ckpt, and how to go on from one.

Each is a published checkpoint (and so an upstream) with one key more, `Progress`: what --resume needs
besides parameters and optimizer. That is little, because everything random in a run is a function of the
seed and the step.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.checkpoint import Checkpoint, check_state, load_checkpoint, save_checkpoint
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.layout import Utterance
from s3prl_melhubert.statistics import FeatureStats

LAST = "last.ckpt"
NUMBERED = re.compile(r"(epoch|step)-(\d+)\.ckpt")


@dataclass
class Progress:
    """Where a run is, besides its parameters and its optimizer."""

    step: int = 0  # optimizer steps done, skipped ones included
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_row: int = 0
    # Since the last line of the log: six sums over frames, then steps and their gradients' norms.
    sums: list[float] = field(default_factory=lambda: [0.0] * 6)
    steps: int = 0
    gradient_norm: float = 0.0


class Checkpoints:
    """Writes a run's checkpoints into its folder.

    Args:
        folder: the experiment's.
        stats: statistics of the features; None if nobody knows them.
        max_keep: numbered checkpoints to keep, -1 for all.
        steps_per_epoch: to put epochs and steps in one order.
        rest: further keys of every checkpoint: `Args`, `Runner`.
        identity: what must be the same for the run to be continued (`run_identity`).
    """

    def __init__(
        self,
        folder: Path,
        stats: FeatureStats | None,
        max_keep: int,
        steps_per_epoch: int,
        rest: Mapping[str, Any],
        identity: Mapping[str, Any],
    ):
        self.folder = folder
        self.stats = stats
        self.max_keep = max_keep
        self.steps_per_epoch = steps_per_epoch
        self.rest = dict(rest)
        self.identity = dict(identity)

    def save(
        self,
        names: Sequence[str],
        model: MelHuBERT,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        scaler: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint under its numbered names, if it has any, and as last.ckpt.

        Raises:
            MelHuBERTError: it cannot be written; what was there is untouched.
        """
        rest = {
            **self.rest,
            "Optimizer": optimizer.state_dict(),
            "Progress": {**asdict(progress), "scaler": dict(scaler or {}), "identity": self.identity},
        }
        first, *others = [*names, LAST]
        try:
            path = self.folder / first
            save_checkpoint(path, model.config, model.state_dict(), self.stats, progress.step, rest)
            for name in others:
                _link(path, self.folder / name)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise MelHuBERTError(
                f"{self.folder}: the checkpoint of step {progress.step} cannot be written ({reason}); "
                "earlier ones are intact: make space and continue with --resume"
            ) from None
        self._remove_old()

    def _remove_old(self) -> None:
        if self.max_keep < 0:
            return
        numbered = []
        for path in self.folder.iterdir():
            match = NUMBERED.fullmatch(path.name)
            if match:
                number = int(match[2])
                numbered.append((number * (self.steps_per_epoch if match[1] == "epoch" else 1), path))
        for _, path in sorted(numbered)[: -self.max_keep]:
            path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, at once; a copy where the file system has no links."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def run_identity(
    settings: Mapping[str, Any], utterances: Sequence[Utterance], seed: int, step_size: str
) -> dict[str, Any]:
    """What two halves of one run must have in common, by the names that an error calls it.

    How many GPUs and workers, the precision, the number of steps and what is written when, may change.
    """
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(f"{utterance.id} {utterance.length}\n".encode())
    return {
        **settings,
        "seed": seed,
        "batch of a step": step_size,
        "training data": f"{len(utterances)} utterances, {digest.hexdigest()[:12]}",
    }


def load_for_resume(path: Path, identity: Mapping[str, Any]) -> tuple[Checkpoint, Progress, dict[str, Any]]:
    """A checkpoint of this package's runner, to go on from.

    Returns:
        The checkpoint, where it stands, and the state of fp16's scaler (empty without one).

    Raises:
        MelHuBERTError: not such a checkpoint, or of a run with other settings.
    """
    checkpoint = load_checkpoint(path)
    saved = checkpoint.rest.get("Progress")
    if not isinstance(saved, dict) or not {"identity", "step"} <= set(saved):
        raise MelHuBERTError(
            f"{path}: has no key Progress, so that the run cannot be continued exactly; start a new one from "
            f"its weights with -i {path}"
        )
    saved = dict(saved)
    before, scaler = saved.pop("identity"), saved.pop("scaler", {})
    for name, value in identity.items():
        if before.get(name) != value:
            raise MelHuBERTError(
                f"{path}: the run was started with {name} = {before.get(name)}, now {value}; continue it "
                f"with the old setting, or start a new run from its weights with -i {path} and another -n"
            )
    return checkpoint, Progress(**saved), scaler


def load_weights(model: MelHuBERT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        MelHuBERTError: they are not this model's; the message names the tensors.
    """
    check_state(checkpoint.state, model.state_dict(), f"{checkpoint.path} (for the model of -g)")
    model.load_state_dict(checkpoint.state)


def refuse_used_folder(folder: Path) -> None:
    """Raise a MelHuBERTError if a run's files are in the folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in (LAST, "log.csv") or NUMBERED.fullmatch(path.name):
            raise MelHuBERTError(
                f"{folder}: holds a run already ({path.name}); --resume continues it, another -n starts anew"
            )


def plain_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The command line as a checkpoint may hold it: nothing but text, numbers and truth values."""
    plain = (str, int, float, bool, type(None))
    return argparse.Namespace(**{k: v if isinstance(v, plain) else str(v) for k, v in vars(args).items()})
