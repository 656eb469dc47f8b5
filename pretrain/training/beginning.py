"""How a run begins: with what it is asked to do, alone in its folder, its settings noted there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from s3prl_melhubert.checkpoint import Checkpoint, open_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import MelHuBERT, parameter_count
from s3prl_melhubert.pretrain.data.manifest import FRAME_SHIFT_MS
from s3prl_melhubert.pretrain.training.checkpointing import (
    STEPS,
    Progress,
    load_weights,
    newest_intact,
    noted_arguments,
    progress_of,
)
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.initial import DATA, MODEL, Initial
from s3prl_melhubert.pretrain.training.processes import Processes, launch
from s3prl_melhubert.pretrain.training.rows.attention import attention_in_words
from s3prl_melhubert.pretrain.training.settings import Settings, default_yaml
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import full_path, full_path_of_file, write_text
from s3prl_melhubert.support.huggingface import names_repository
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.memory import available_memory, gigabytes
from s3prl_melhubert.support.settings import check_seed, read_yaml_mapping
from s3prl_melhubert.support.writable import write_faults

# The settings have these names in the experiment's folder, as s3prl's have.
MODEL_YAML, RUNNER_YAML = "config_model.yaml", "config_runner.yaml"
INITIAL = {  # the arguments that say what a run begins with, and their options
    "initial_weight": "-i",
    "init_layers": "--init_layers",
    "init_stats": "--init_stats",
    "init_optimizer_from_initial_weight": "--init_optimizer_from_initial_weight",
}
INITIAL_WEIGHTS = "initial_weights_digest"  # what checkpoints call that of `-i` beside these arguments
LAUNCH = ".launch"  # which call of torchrun began the run in the folder, or went on with it


@dataclass(frozen=True)
class Options:
    """What a run is asked to do."""

    expdir: Path
    config: MelHuBERTConfig
    settings: Settings
    initial: Initial | None = None  # a checkpoint to start from
    initial_optimizer: bool = False  # whether to take the state of its optimizer, too
    seed: int = 1337
    device: str | None = None  # cpu, cuda or cuda:N; None for the best there is
    resume: bool = False  # whether to go on where the run in `expdir` stands
    arguments: Mapping[str, Any] = field(default_factory=dict)  # the command line, for checkpoints
    command: str = "melhubert pretrain"  # what was called, for the word on a stop
    to_continue: str = "the same command with --resume continues"

    @classmethod
    def from_command(cls, arguments: Mapping[str, Any]) -> Options:
        """What a command line asks for, with what its YAML files, `-i` and the run that goes on say.

        Args:
            arguments: the command line, by the published names of its options.

        Raises:
            MelHuBERTError: options that do not go together, or a file that cannot be used.
        """
        check_seed(arguments["seed"])
        expdir, frame_period = arguments["expdir"], arguments["frame_period"]
        initial = _initial_of(arguments)
        model_yaml, runner_yaml = arguments["upstream_config"], arguments["runner_config"]
        resume = arguments["resume"] or is_of_this_launch(expdir)
        if resume:  # A run keeps its settings beside its checkpoints.
            model_yaml = model_yaml or _existing(expdir / MODEL_YAML)
            runner_yaml = runner_yaml or _existing(expdir / RUNNER_YAML)
        settings = Settings.from_yaml(runner_yaml) if runner_yaml else None
        # The paths become absolute, so that --resume may be given in another folder.
        sets = tuple(map(full_path, arguments["data"] or (settings.datarc.sets if settings else ())))
        if initial is not None and model_yaml is None:
            config = initial.settings(frame_period, sets)
        else:
            config = MelHuBERTConfig.from_yaml(model_yaml or default_yaml("model", frame_period))
        if frame_period not in (None, config.frame_period):
            raise MelHuBERTError(
                f"-f {frame_period}: {model_yaml} has feat_emb_dim {config.feat_emb_dim}, which is "
                f"{config.frame_period} ms; give -f {config.frame_period}, or set it to {4 * frame_period}"
            )
        settings = settings or Settings.from_yaml(default_yaml("runner", config.frame_period))
        valid_sets = tuple(arguments["valid"] or settings.datarc.valid_sets)
        datarc = replace(settings.datarc, sets=sets, valid_sets=valid_sets).absolute()
        if initial is not None:
            arguments = {**arguments, "initial_weight": full_path_of_file(arguments["initial_weight"])}
        return cls(
            expdir=expdir,
            config=config,
            settings=replace(settings, datarc=datarc),
            initial=initial,
            initial_optimizer=arguments["init_optimizer_from_initial_weight"],
            seed=arguments["seed"],
            device=arguments["device"],
            resume=resume,
            arguments=arguments,
        )


def _initial_of(arguments: Mapping[str, Any]) -> Initial | None:
    """The checkpoint of `-i`, if it is given; the options about it are of no use without it."""
    source = arguments["initial_weight"]
    if source is not None:
        return Initial(source, arguments["init_layers"], arguments["init_stats"] or MODEL)
    for name in ("init_optimizer_from_initial_weight", "init_layers", "init_stats"):
        if arguments[name]:
            raise MelHuBERTError(f"--{name}: needs a checkpoint, -i CKPT")
    return None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def hold_folder(folder: Path, held: ExitStack) -> None:
    """Be the only run in the folder, which is made if it is not there.

    Args:
        folder: the experiment's folder.
        held: keeps the lock until it is closed.

    Raises:
        MelHuBERTError: another run is at work there, or the folder cannot be written.
    """
    with write_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(only_writer(folder))


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
    known_by: Mapping[str, Any] = field(default_factory=dict)  # what tells the checkpoint from others


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
        identity: what must be the same for the run to be continued (`checkpointing.run_identity`).
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
            return _start_again(options.arguments, model, processes, found, identity, steps_per_epoch)
        return Start() if initial is None else _start_with(initial, options, model)


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
    _complete_identity(checkpoint, steps_per_epoch)
    progress, scaler, lines = progress_of(checkpoint, identity)
    begun_with, known = _begun_with(checkpoint, arguments)
    source = arguments.get("initial_weight")
    if source is not None:
        lines.append(f"-i {source}: {known}; the run goes on from {checkpoint.path}")
    if not processes.is_main:
        progress.sums = [0.0] * 6  # the file holds those of all processes
    load_weights(model, checkpoint)
    known_by: dict[str, Any] = {f"step of {checkpoint.path.name}": checkpoint.step}
    if processes.count > 1:
        known_by[f"weights of {checkpoint.path.name}"] = checkpoint.weights_digest()[:12]
    about = str(checkpoint.path), checkpoint.stats, lines, begun_with, known_by
    return Start(checkpoint, progress, scaler, True, *about)


def _start_with(initial: Initial, options: Options, model: MelHuBERT) -> Start:
    """Begin with the weights of `-i`."""
    lines = initial.put_into(model, with_optimizer=options.initial_optimizer)
    checkpoint, stats = initial.checkpoint, initial.known_stats()
    begun_with = {INITIAL_WEIGHTS: checkpoint.weights_digest()}
    initial.release()
    if initial.stats == DATA:
        stats = None
        lines.append("statistics: the data's, as --init_stats data says")
    elif stats is None:
        lines.append(
            f"statistics: the data's; {initial.source} does not say what it was trained with (`melhubert "
            "convert IN OUT --stats NAME` writes it into a checkpoint)"
        )
    known_by = {"weights of -i": begun_with[INITIAL_WEIGHTS][:12]}
    about = str(initial.source), stats, lines, begun_with, known_by
    return Start(checkpoint, Progress(), {}, False, *about)


def _complete_identity(checkpoint: Checkpoint, steps_per_epoch: int) -> None:
    """Take the steps of the schedule from the settings, in which alone earlier versions noted them."""
    with suppress(MelHuBERTError, TypeError, AttributeError, KeyError):
        steps = Settings.from_mapping(checkpoint.rest["Runner"], "").runner.steps(steps_per_epoch)
        checkpoint.rest["Progress"]["identity"].setdefault(STEPS, steps)


def _begun_with(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What a run that goes on began with, as its checkpoint notes it; none of it need be given again.

    Returns:
        What it began with, and how `-i` is known to be that.

    Raises:
        MelHuBERTError: something else is given now.
    """
    names = (*INITIAL, INITIAL_WEIGHTS)
    noted = {name: value for name, value in noted_arguments(checkpoint).items() if name in names}
    known = "not read"
    if noted.get("initial_weight") is None:  # by an earlier version, this may be one that went on without -i
        return noted, known
    for name, option in INITIAL.items():
        before, now = noted.get(name), arguments.get(name)
        if name == "init_stats":
            before = before or MODEL  # which is meant where it is not given
        if not now or name not in noted or before == now:
            continue
        if name == "initial_weight":
            known = _how_it_is_known(now, str(before), noted.get(INITIAL_WEIGHTS))
            if known:
                continue
        raise MelHuBERTError(
            f"{checkpoint.path}: the run was begun with {option} {before}, now {now}; leave the option "
            "out to continue it, or start a new run with another -n"
        )
    return noted, known


def _how_it_is_known(now: str, before: str, weights: str | None) -> str:
    """How the checkpoint of `-i` is known to be the one that a run was begun with; nothing if it is another.

    Args:
        now: the checkpoint.
        before: where the one of the beginning was. Folders are moved, so that it may be elsewhere now.
        weights: the digest of its weights, which earlier versions did not note.
    """
    # The same command goes on, whatever its file holds by now.
    if os.path.realpath(Path(now).expanduser()) == os.path.realpath(before):
        return "not read"
    if weights is None and not names_repository(before) and not Path(before).exists():
        return f"not read, and not compared with {before}, which is gone"
    weights = weights or _digest_of_weights(before)
    if weights is not None and _digest_of_weights(now) == weights:
        return f"the same weights as those of {before}, with which the run was begun"
    return ""


def _digest_of_weights(source: str) -> str | None:
    """The digest of a checkpoint's weights; None where they cannot be had any more."""
    try:
        return open_checkpoint(source).weights_digest()
    except MelHuBERTError:
        return None


def is_of_this_launch(folder: Path) -> bool:
    """Whether the same call of torchrun began the run in a folder, and then restarted its processes."""
    own = launch()
    try:
        return own is not None and own in (folder / LAUNCH).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False


def settle_rows(settings: Settings, device: torch.device, resumed: Path | None) -> Settings:
    """The settings, in which `datarc.rows` is no longer `auto`.

    Args:
        settings: of the run.
        device: that it trains on.
        resumed: the folder of the run, if it is one to continue: it stays what it was, also where it began on
            another device, or before there were rows.
    """
    datarc = settings.datarc
    if isinstance(datarc.rows, bool):
        return settings
    if resumed is not None and (resumed / RUNNER_YAML).is_file():
        rows = (read_yaml_mapping(resumed / RUNNER_YAML).get("datarc") or {}).get("rows", False) is True
    else:
        rows = device.type == "cuda" and datarc.sequence_length > 0
    return replace(settings, datarc=replace(datarc, rows=rows))


def note_settings(
    folder: Path, config: MelHuBERTConfig, settings: Settings, launches: Sequence[str] = ()
) -> None:
    """Write the settings into the folder, where --resume finds them, and which calls of torchrun train there.

    Each machine has a call of its own.
    """
    files: dict[str, dict[str, Any]] = {
        MODEL_YAML: {"melhubert": config.to_mapping()},
        RUNNER_YAML: settings.to_mapping(),
    }
    write_text(folder / LAUNCH, "\n".join(sorted(set(launches))))
    for name, content in files.items():
        write_text(folder / name, yaml.safe_dump(content, sort_keys=False))


def refuse_giant(config: MelHuBERTConfig) -> None:
    """Raise a MelHuBERTError where a model's weights alone would not fit the memory that there is."""
    memory = available_memory()
    needed = 4 * parameter_count(config)
    if needed > memory:
        raise MelHuBERTError(
            f"the model's settings: its weights have {gigabytes(needed)}, and {gigabytes(memory)} of "
            f"memory are available; is encoder_embed_dim {config.encoder_embed_dim}, encoder_ffn_embed_dim "
            f"{config.encoder_ffn_embed_dim} or encoder_layers {config.encoder_layers} meant?"
        )


def introduction(
    settings: Settings, config: MelHuBERTConfig, dataset: PretrainingDataset, processes: Processes
) -> list[str]:
    """What is trained, on what data and on what device: the lines with which a run begins."""
    datarc = settings.datarc
    lines = [f"data: {dataset.utterances.amount}, of {', '.join(datarc.sets)}"]
    trained, valid = (
        Counter(os.path.realpath(Path(path).expanduser()) for path in sets)
        for sets in (datarc.sets, datarc.valid_sets)
    )
    for path, times in trained.items():
        if times > 1:
            lines.append(f"data: {path} is named {times} times; each of its utterances counts {times} times")
    for path in trained & valid:
        lines.append(f"validation: {path} is trained on, too")
    left_out = dataset.utterances.left_out
    if left_out.utterances:
        limit = abs(datarc.max_timestep)
        kind = "over" if datarc.max_timestep > 0 else "not over"
        lines.append(
            f"left out: {left_out}, {kind} {limit} frames "
            f"({limit * FRAME_SHIFT_MS / 1000:g} s), by datarc.max_timestep {datarc.max_timestep}; 0 keeps "
            "all"
        )
    if datarc.rows is True:
        lines.append(
            f"rows: crops end to end in rows of {datarc.sequence_length} frames; attention by "
            f"{attention_in_words(processes.device)}"
        )
    several = f"{processes.count} x " if processes.count > 1 else ""
    lines.append(
        f"model: {parameter_count(config) / 1e6:.1f} M parameters, {config.frame_period} ms frames, on "
        f"{several}{processes.device} in {settings.runner.precision}"
    )
    return lines
