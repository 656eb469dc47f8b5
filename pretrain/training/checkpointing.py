"""The checkpoints of a run: last.ckpt, epoch-N.ckpt, step-N.ckpt, and how to go on from one.

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

from s3prl_melhubert.checkpoint import Checkpoint, check_state, load_checkpoint, save_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.clusters import content_digests, former_content_digest, labels_digest
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.rows.size import step_in_words
from s3prl_melhubert.pretrain.training.settings import RunnerSettings, Settings
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.host_copies import HostCopies
from s3prl_melhubert.support.made_from import Change, changes
from s3prl_melhubert.units.quantizer import Quantizer

LAST = "last.ckpt"
STEPS = "steps of the schedule"
VALIDATION = "content of the validation data"  # what `run_identity` calls it
# What earlier versions noted of data, which depends on where audio lies, and the name of what replaces it.
FORMER = {
    "content of the training data": "some utterances of the training data",
    "validation data": VALIDATION,
}
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
        rest: further keys of every checkpoint: `Args`, `Runner`.
        identity: what must be the same for the run to be continued (`run_identity`).
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


def run_identity(
    config: MelHuBERTConfig,
    settings: Settings,
    dataset: PretrainingDataset,
    seed: int,
    processes: int,
    stats: FeatureStats | None = None,
    valid: PretrainingDataset | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """What two halves of one run must have in common, under the names that an error calls it.

    The number of GPUs and workers, the precision and what is written when may change. So may the number of
    steps, unless the learning rate depends on it, and the data to validate on, of which a line is said.

    Args:
        config: the model's settings.
        settings: of the run.
        dataset: to train on.
        seed: of the run.
        processes: how many train together.
        stats: what the features were normalized with; None if nobody knows, which is not compared.
        valid: to validate on; None without any, which is not compared.
        steps: of the whole run; None where something else compares them.

    Raises:
        MelHuBERTError: files of the data cannot be used.
    """
    datarc = settings.datarc
    parts = settings.runner.gradient_accumulate_steps * processes
    data = dataset.sets, dataset.utterances
    identity = {
        **{f"model {name}": value for name, value in config.own_mapping().items()},
        "optimizer": {"name": settings.optimizer.name, **settings.optimizer.arguments},
        "scheduler": asdict(settings.scheduler),
        "gradient_clipping": settings.runner.gradient_clipping,
        "sequence_length": datarc.sequence_length,
        "seed": seed,
        "batch of a step": step_in_words(datarc, parts),
        "training data": dataset.utterances.names_and_lengths,
        **{f"{name} of the training data": value for name, value in content_digests(*data).items()},
        "content of the training data": former_content_digest(*data),
        "clusters of the labels": labels_digest(dataset.sets),
    }
    if steps is not None and settings.scheduler.ends_at_zero:
        identity[STEPS] = steps
    if stats is not None:
        identity["statistics of the training data"] = stats.digest()[:12]
    if valid is not None:
        data, what = (valid.sets, valid.utterances), valid.utterances.names_and_lengths
        identity[VALIDATION] = ", ".join([what, *content_digests(*data).values()])
        identity["validation data"] = f"{what}, {former_content_digest(*data)}"
    return identity


def identity_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What two halves of one run do not have in common, of what both of them note by `run_identity`."""
    compared = {name: value for name, value in before.items() if FORMER.get(name) not in before}
    return changes(compared, now, absent_is_same=True)


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


def progress_of(
    checkpoint: Checkpoint, identity: Mapping[str, Any]
) -> tuple[Progress, dict[str, Any], list[str]]:
    """What a checkpoint of this package's runner holds for going on from it.

    Returns:
        The progress, the state of fp16's scaler (empty without one), and lines on what has changed and may.

    Raises:
        MelHuBERTError: it is no such checkpoint, or it is of a run with other settings.
    """
    path = checkpoint.path
    saved = checkpoint.rest.get("Progress")
    if not isinstance(saved, dict) or not isinstance(saved.get("identity"), dict) or "step" not in saved:
        raise MelHuBERTError(
            f"{path}: has no key Progress, so that the run cannot be continued exactly; start a new one from "
            f"its weights with -i {path}"
        )
    saved = dict(saved)
    before, scaler = saved.pop("identity"), saved.pop("scaler", {})
    lines = []
    for change in identity_changes(before, identity):
        if FORMER.get(change.name, change.name) != VALIDATION:
            raise MelHuBERTError(
                f"{path}: the run was started with {change}; continue it with the old setting, or start a "
                f"new run from its weights with -i {path} and another -n"
            )
        lines.append(
            f"{change.name}: {change.now}; up to here {change.before}, so that the figures of validation in "
            "the log are of both and cannot be compared"
        )
    try:
        return Progress(**saved), scaler, lines
    except TypeError as error:
        raise MelHuBERTError(f"{path}: its key Progress is not this package's ({error})") from None


def load_weights(model: MelHuBERT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        MelHuBERTError: the weights are not this model's; the message names the tensors.
    """
    check_state(checkpoint.state, model.state_dict(), f"{checkpoint.path} (for the model of -g)")
    model.load_state_dict(checkpoint.state)


def refuse_used_folder(folder: Path) -> None:
    """Raise a MelHuBERTError if the folder holds the files of a run."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in (LAST, "log.csv") or NUMBERED.fullmatch(path.name):
            raise MelHuBERTError(
                f"{folder}: holds a run already ({path.name}); --resume continues it, another -n starts anew"
            )


def noted_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """The command line that a checkpoint holds under `Args`; nothing where it holds none."""
    arguments = checkpoint.rest.get("Args")
    return dict(vars(arguments)) if isinstance(arguments, argparse.Namespace) else {}


def plain_arguments(arguments: Mapping[str, Any]) -> argparse.Namespace:
    """A command line as a published checkpoint holds it under `Args`: text, numbers and truth values."""
    plain = (str, int, float, bool, type(None))
    return argparse.Namespace(**{k: v if isinstance(v, plain) else str(v) for k, v in arguments.items()})
