"""The checkpoints of a run: last.ckpt, epoch-N.ckpt, step-N.ckpt.

Each is a published checkpoint (and so an upstream) with one key more, `Progress`: what --resume needs
besides parameters and optimizer. That is little, because everything random in a run is a function of the
seed and the step.

The training does not wait for the disk: it stands still while its state is copied, and a thread writes the
copy.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.settings import RunnerSettings
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.host_copies import HostCopies
from s3prl_melhubert.units.quantizer import Quantizer

LAST = "last.ckpt"
NUMBERED = re.compile(r"(epoch|step)-(\d+)\.ckpt")


@dataclass
class Progress:
    """The state of a run besides its parameters and its optimizer."""

    step: int = 0  # optimizer steps that are done, skipped ones included
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_row: int = 0
    # These are of the steps since the last line of the log: the six sums of a `PredictionLoss`, the number of
    # the steps, and the sum of their gradients' norms.
    sums: list[float] = field(default_factory=lambda: [0.0] * 6)
    steps: int = 0
    gradient_norm: float = 0.0


class Checkpoints:
    """Writes a run's checkpoints into its folder, one at a time, while the training goes on.

    It is a context, which ends when the last one is written, also where the training failed. An error of the
    writing is raised by whichever method is called next, or by the end of the context.

    Args:
        folder: the experiment's folder.
        stats: statistics of the features; None if nobody knows them.
        max_keep: number of numbered checkpoints to keep, -1 for all.
        steps_per_epoch: steps of an epoch, by which epochs and steps are put in one order.
        rest: further keys of every checkpoint: `Args`, `Runner`, and what it says of a compression.
        identity: what must be the same for the run to be continued (`beginning.identity`).
        quantizer: what the labels stand for, which every checkpoint holds; None if nobody knows.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stats: FeatureStats | None,
        max_keep: int,
        steps_per_epoch: int,
        rest: Mapping[str, Any],
        identity: Mapping[str, Any],
        quantizer: Quantizer | None = None,
    ):
        self.folder = folder
        self.stats = stats
        self.max_keep = max_keep
        self.steps_per_epoch = steps_per_epoch
        self.rest = dict(rest)
        self.identity = dict(identity)
        self.quantizer = quantizer
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None  # the checkpoint that is being written, or failed

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._thread.shutdown()  # waits
        fault = None if self._writing is None else self._writing.exception()
        if fault is not None and error is None:
            raise fault
        if fault is not None and fault is not error:  # One of two has to be told beside the other.
            print(f"melhubert: {fault}", file=sys.stderr, flush=True)

    def save(
        self,
        names: Sequence[str],
        model: MelHuBERT,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        scaler: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the state of the run, and begin to write it under these names, and as last.ckpt.

        Raises:
            MelHuBERTError: it cannot be copied, or the one before could not be written; the checkpoints
                before that are untouched.
        """
        self.wait()
        with self._faults_in_one_line(progress.step):
            state = self._copies.take({"model": model.state_dict(), "Optimizer": optimizer.state_dict()})
        saved = {**asdict(progress), "scaler": dict(scaler or {}), "identity": self.identity}
        rest = {**self.rest, "Optimizer": state["Optimizer"], "Progress": saved}
        self._writing = self._thread.submit(self._write, [*names, LAST], model.config, state["model"], rest)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            MelHuBERTError: it cannot be written; the checkpoints before it are untouched.
        """
        if self._writing is not None:
            self._writing.result()

    def check(self) -> None:
        """Raise what `wait` would, if it is known already, without waiting."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def _write(
        self, names: Sequence[str], config: MelHuBERTConfig, state: Mapping[str, Any], rest: Mapping[str, Any]
    ) -> None:
        first, *others = names
        step = rest["Progress"]["step"]
        path = self.folder / first
        with self._faults_in_one_line(step):
            self._copies.arrive()
        for weight, tensor in state.items():
            if not tensor.isfinite().all():
                raise MelHuBERTError(
                    f"{self.folder}: {weight} is not finite after step {step}: the training has diverged, "
                    "and no checkpoint of it was written; lower optimizer.lr, or use more "
                    "scheduler.warmup_steps"
                )
        with self._faults_in_one_line(step):
            save_checkpoint(path, config, state, self.stats, step, rest, self.quantizer)
            for name in others:
                _link(path, self.folder / name)
            self._remove_old()

    @contextmanager
    def _faults_in_one_line(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, MelHuBERTError) as error:
            fault = error if isinstance(error, OSError) else error.__cause__
            told = fault.strerror if isinstance(fault, OSError) else None
            reason = told or said(error).partition(". ")[0]
            raise MelHuBERTError(
                f"{self.folder}: the checkpoint of step {step} cannot be written ({reason}); "
                f"{way_out(self.folder, 'earlier ones')}"
            ) from None

    def _remove_old(self) -> None:
        if self.max_keep < 0:
            return
        for _, path in sorted(_numbered(self.folder, self.steps_per_epoch))[: -self.max_keep]:
            path.unlink(missing_ok=True)


def way_out(folder: Path, kept: str) -> str:
    """What is left, and what to do, where a file of a run cannot be written.

    Args:
        folder: the experiment's folder.
        kept: what an error calls the checkpoints that are there.
    """
    if not folder.is_dir():
        return "the folder has been removed, and the checkpoints with it: start the run anew"
    return (
        f"{kept} are intact: make space and give the same command again (`melhubert pretrain` with --resume)"
    )


def _link(source: Path, target: Path) -> None:
    """Give a file a second name at once; where the file system has no links, copy it."""
    # The temporary file is to be the source itself. Without a lock, it would be taken for a killed process's.
    with source.open("rb") as file:
        with suppress(OSError):  # There are file systems without locks.
            fcntl.flock(file, fcntl.LOCK_SH)
        with atomic_path(target) as temporary:
            linked = temporary.with_suffix("")
            try:
                os.link(source, linked)
            except OSError:
                shutil.copyfile(source, temporary)
            else:
                os.replace(linked, temporary)


def numbered_names(step: int, runner: RunnerSettings, steps_per_epoch: int) -> list[str]:
    """The names, beside last.ckpt, under which the checkpoint of a step is to be kept; often none."""
    names = []
    if runner.save_step > 0 and step % runner.save_step == 0:
        names.append(f"step-{step}.ckpt")
    if runner.save_every_x_epochs > 0 and step % (runner.save_every_x_epochs * steps_per_epoch) == 0:
        names.append(f"epoch-{step // steps_per_epoch}.ckpt")
    return names


def newest_intact(folder: Path, steps_per_epoch: int) -> tuple[Checkpoint, list[str]] | None:
    """The checkpoint of a folder from which to go on: last.ckpt, or else the newest that can be read.

    Args:
        folder: the experiment's folder.
        steps_per_epoch: steps of an epoch, by which epochs and steps are put in one order.

    Returns:
        The checkpoint, and what is wrong with each newer one; None where the folder has no checkpoints.

    Raises:
        MelHuBERTError: there are checkpoints, and none of them can be read.
    """
    faults: list[str] = []
    if not (folder / LAST).is_file():
        faults.append(f"{folder / LAST}: is not there")
    numbered = [path for _, path in sorted(_numbered(folder, steps_per_epoch), reverse=True)]
    paths = [path for path in (folder / LAST, *numbered) if path.is_file()]
    for path in paths:
        try:
            return load_checkpoint(path), faults
        except MelHuBERTError as error:
            faults.append(str(error).removesuffix("; copy or fetch it again"))
    if not paths:
        return None
    raise MelHuBERTError(
        f"{folder}: none of its checkpoints can be read, so that the run cannot be continued "
        f"({'; '.join(faults)}); remove the folder to begin anew"
    )


def _numbered(folder: Path, steps_per_epoch: int) -> list[tuple[int, Path]]:
    """The step-N.ckpt and epoch-N.ckpt of a folder, each with its step."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else []:
        match = NUMBERED.fullmatch(path.name)
        if match:
            found.append((int(match[2]) * (steps_per_epoch if match[1] == "epoch" else 1), path))
    return found


def noted_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """The command line that a checkpoint holds under `Args`; nothing where it holds none."""
    arguments = checkpoint.rest.get("Args")
    return dict(vars(arguments)) if isinstance(arguments, argparse.Namespace) else {}


def plain_arguments(arguments: Mapping[str, Any]) -> argparse.Namespace:
    """A command line as a published checkpoint holds it under `Args`: text, numbers and truth values."""
    plain = (str, int, float, bool, type(None))
    return argparse.Namespace(**{k: v if isinstance(v, plain) else str(v) for k, v in arguments.items()})
