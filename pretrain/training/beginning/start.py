"""Where a run begins: anew, with the weights of `-i`, or where it stood when it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.compression.stored import ORIGIN, origin_in_training
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.beginning.initial import DATA, Initial, chosen_layers
from s3prl_melhubert.pretrain.training.beginning.options import Options
from s3prl_melhubert.pretrain.training.beginning.resuming import (
    INITIAL_DEPTH,
    INITIAL_WEIGHTS,
    begun_with,
    complete_identity,
    load_weights,
    progress_of,
)
from s3prl_melhubert.pretrain.training.checkpointing import Progress, newest_intact
from s3prl_melhubert.pretrain.training.processes import Processes
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.tensor_files import content_hash


@dataclass
class Start:
    """Where a run begins: anew, with the weights of `-i`, or where it stood when it stopped."""

    checkpoint: Checkpoint | None = None  # that was put into the model
    progress: Progress = field(default_factory=Progress)
    scaler: dict[str, Any] = field(default_factory=dict)  # the state of fp16's scaling
    resuming: bool = False
    name: str = "a new model"  # what the log calls the checkpoint
    stats: FeatureStats | None = None  # what the weights were trained with, if somebody knows
    lines: list[str] = field(default_factory=list)  # what was taken of `-i`, and what is new or has changed
    begun_with: Mapping[str, Any] = field(default_factory=dict)  # what checkpoints hold of `-i`
    known_by: Mapping[str, Any] = field(default_factory=dict)  # what several processes must have the same
    origin: Mapping[str, Any] = field(default_factory=dict)  # the key ORIGIN of checkpoints, if they have it


def find_start(
    options: Options,
    model: MelHuBERT,
    processes: Processes,
    *,
    identity: Mapping[str, Any],
    steps_per_epoch: int,
) -> Start:
    """Load the weights of last.ckpt or of `-i`, if there are any.

    Args:
        options: what the run is asked to do.
        model: gets the weights.
        processes: the processes that train together.
        identity: what must be the same for the run to be continued (`identity.run_identity`).
        steps_per_epoch: steps of an epoch, by which epochs and steps are put in one order.

    Raises:
        MelHuBERTError: a checkpoint cannot be used, or not every process sees the folder's.
    """
    folder, initial = options.expdir, options.initial
    with processes.together():
        found = newest_intact(folder, steps_per_epoch) if options.resume else None
    if not processes.all(found is not None) and processes.any(found is not None):
        raise MelHuBERTError(
            f"{folder}: not every machine sees its checkpoints; put -n on a file system that all share"
        )
    with processes.together():
        if found is not None:
            start = _start_again(options.arguments, model, processes, found, identity, steps_per_epoch)
        else:
            start = Start() if initial is None else _start_with(initial, options, model)
        if processes.count > 1:
            start.known_by = _known_by(start, options)
        return start


def _start_again(
    arguments: Mapping[str, Any],
    model: MelHuBERT,
    processes: Processes,
    found: tuple[Checkpoint, list[str]],
    identity: Mapping[str, Any],
    steps_per_epoch: int,
) -> Start:
    """Go on from a checkpoint of the run."""
    checkpoint, faults = found
    for fault in faults:
        processes.warn(f"melhubert: {fault}; resuming from {checkpoint.path.name}")
    complete_identity(checkpoint, steps_per_epoch)
    progress, scaler, lines = progress_of(checkpoint, identity)
    began, known = begun_with(checkpoint, arguments)
    source = arguments.get("initial_weight")
    if source is not None:
        lines.append(f"-i {source}: {known}; the run goes on from {checkpoint.path}")
    if not processes.is_main:
        progress.sums = [0.0] * 6  # the file holds those of all processes
    load_weights(model, checkpoint)
    origin = {key: value for key, value in checkpoint.rest.items() if key == ORIGIN}
    about = str(checkpoint.path), checkpoint.stats, lines, began
    return Start(checkpoint, progress, scaler, True, *about, origin=origin)


def _start_with(initial: Initial, options: Options, model: MelHuBERT) -> Start:
    """Begin with the weights of `-i`."""
    lines = initial.put_into(model, with_optimizer=options.initial_optimizer)
    checkpoint, stats = initial.checkpoint, initial.known_stats()
    began = {
        INITIAL_WEIGHTS: checkpoint.weights_digest(),
        INITIAL_DEPTH: checkpoint.config.encoder_layers,
    }
    origin = origin_in_training(checkpoint.config, checkpoint.rest, initial.layers, str(initial.source))
    initial.release()
    if initial.stats == DATA:
        stats = None
        lines.append("statistics: the data's, as --init_stats data says")
    elif stats is None:
        lines.append(
            f"statistics: the data's; {initial.source} does not say what it was trained with (`melhubert "
            "convert IN OUT --stats NAME` writes it into a checkpoint)"
        )
    about = str(initial.source), stats, lines, began
    return Start(checkpoint, Progress(), {}, False, *about, origin=origin)


def _known_by(start: Start, options: Options) -> dict[str, Any]:
    """What tells the beginning of a run from others, by the names that an error calls it."""
    checkpoint = start.checkpoint
    if checkpoint is None:
        return {}
    whose = checkpoint.path.name if start.resuming else "-i"
    known: dict[str, Any] = {f"step of {whose}": checkpoint.step} if start.resuming else {}
    weights = checkpoint.weights_digest() if start.resuming else start.begun_with[INITIAL_WEIGHTS]
    known[f"weights of {whose}"] = weights[:12]
    known[f"statistics of {whose}"] = "the data's" if start.stats is None else start.stats.digest()[:12]
    if not start.resuming and options.initial is not None:
        chosen = chosen_layers(options.initial.layers, start.begun_with[INITIAL_DEPTH], whose)
        known["--init_layers"] = ",".join(str(layer + 1) for layer in chosen)
        known["--init_optimizer_from_initial_weight"] = options.initial_optimizer
    if start.resuming or options.initial_optimizer:
        known[f"optimizer of {whose}"] = _digest_of(checkpoint.rest.get("Optimizer"))[:12]
    return known


def _digest_of(content: Any) -> str:
    """A SHA-256 of nested mappings and lists with tensors in them."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, str] = {}

    def look(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                look(item, f"{name}/{key}")
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                look(item, f"{name}/{number}")
        elif isinstance(value, Tensor):
            tensors[name] = value
        else:
            rest[name] = str(value)

    look(content, "")
    return content_hash(tensors, rest)
