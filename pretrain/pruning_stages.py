"""Pruning in stages: a part of the heads and rows is removed, what is left is trained, and so on.

A stage is a run of `melhubert pretrain` in a folder of its own below OUT.stages, from the pruned weights. The
state of the whole is which file of pruned weights is there: a compression that was killed continues in the
stage where it was, and that run from its last.ckpt. The result gets its name when all others are removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from s3prl_melhubert.compression.pruning import Target, origin, prune
from s3prl_melhubert.compression.stored import ORIGIN
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.training import loading
from s3prl_melhubert.pretrain.training.beginning.identity import FORMER, identity_changes, run_identity
from s3prl_melhubert.pretrain.training.beginning.initial import Initial
from s3prl_melhubert.pretrain.training.beginning.joining import process_count
from s3prl_melhubert.pretrain.training.beginning.options import Options
from s3prl_melhubert.pretrain.training.checkpointing import LAST
from s3prl_melhubert.pretrain.training.runner import Pretraining
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.files import atomic_path, write_text
from s3prl_melhubert.support.locks import LOCK, only_writer
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import read_yaml_mapping
from s3prl_melhubert.support.writable import write_faults
from s3prl_melhubert.units.quantizer import MODEL

PLAN = "compression.yaml"  # in the folder of the stages: what they are for


@dataclass(frozen=True)
class Training:
    """How the model is trained between prunings."""

    sets: tuple[str, ...]  # prepared folders
    steps: int  # optimizer steps in all
    stages: int  # in which the steps are taken, in equal parts
    settings: Settings  # of the runs; sets and steps in them do not count
    seed: int = 1337
    device: str | None = None

    def steps_of(self, stage: int) -> int:
        """Steps of a stage, counted from 1."""
        least, more = divmod(self.steps, self.stages)
        return least + (stage <= more)

    def settings_of(self, stage: int) -> Settings:
        """The settings of a stage's run."""
        steps = self.steps_of(stage)
        runner = replace(
            self.settings.runner,
            n_epochs=-1,
            total_steps=steps,
            save_step=-1,
            save_every_x_epochs=-1,
            log_step=min(self.settings.runner.log_step, max(1, steps // 10)),
        )
        return replace(self.settings, runner=runner, datarc=replace(self.settings.datarc, sets=self.sets))


def stages_folder(out: Path) -> Path:
    """The folder of the stages of an output."""
    return out.with_name(f"{out.name}.stages")


def begun_with_crops(out: Path) -> int | None:
    """The sequence_length with which the compression of an output was begun, if it was."""
    path = stages_folder(out) / PLAN
    return read_yaml_mapping(path).get("sequence_length") if path.is_file() else None


def prune_in_stages(
    source: Checkpoint, stats: FeatureStats, target: Target, training: Training, out: Path
) -> int:
    """Prune a model to a target in stages, training it after each, and write it.

    Args:
        source: the model.
        stats: its log-Mel statistics, which must be the data's.
        target: what every layer keeps in the end.
        training: data, steps and stages.
        out: the file to write.

    Returns:
        0, or the exit status of a training that a signal stopped.

    Raises:
        MelHuBERTError: the data has other statistics, the folder of the stages is another compression's, or a
            training fails.
    """
    if process_count() > 1:
        raise MelHuBERTError(
            "compress: several processes found, expected one; prune without --data, and train the result "
            "with melhubert pretrain -i"
        )
    for path in training.sets:
        info, given = read_prepared(path).info, training.settings.datarc.feature_stats
        found = info.stats if info is not None else FeatureStats.load(given) if given is not None else None
        if found is not None and found != stats:
            raise MelHuBERTError(
                f"{path}: its features were normalized with other statistics ({found.name}) than "
                f"{source.path} was trained with ({stats.name}); prepare it with the model's"
            )
    plan = _plan(source, target, training)
    folder = stages_folder(out)
    with write_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        _check_plan(folder, plan)
        return _run(source, stats, target, training, out, folder)


def _plan(source: Checkpoint, target: Target, training: Training) -> dict[str, Any]:
    """What a compression must have in common with one that it continues, under the names of an error."""
    settings = training.settings_of(1)
    training.settings_of(training.stages)  # which may be a step shorter, and as short as the warm-up
    datarc, where = settings.datarc, settings.where("datarc")
    dataset = loading.build_dataset(datarc.sets, source.config, datarc, seed=training.seed, where=where)
    stats = loading.feature_stats(dataset, datarc, where)
    identity = run_identity(source.config, settings, dataset, training.seed, 1, stats)
    return {
        "checkpoint": source.weights_digest(),
        "heads": target.heads,
        "ffn": target.rows,
        "data": list(training.sets),
        "steps": training.steps,
        "stages": training.stages,
        **{name: value for name, value in identity.items() if not name.startswith("model ")},  # of each stage
    }


def _check_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Note what the folder is for, or compare it with what it was for."""
    path = folder / PLAN
    if path.is_file():
        before = read_yaml_mapping(path)
        if before.keys() & FORMER.keys():  # its content was noted, so that the data may lie elsewhere by now
            before.pop("data", None)
        for change in identity_changes(before, plan):
            raise MelHuBERTError(
                f"{folder}: was begun with {change}; continue it with what it was begun with, or remove the "
                "folder"
            )
        return
    if any(each.name != LOCK for each in folder.iterdir()):
        raise MelHuBERTError(f"{folder}: holds something else already; remove it, or give another --out")
    write_text(path, yaml.safe_dump(dict(plan), sort_keys=False))


def _run(
    source: Checkpoint, stats: FeatureStats, target: Target, training: Training, out: Path, folder: Path
) -> int:
    finished = folder / f"finished{out.suffix}"
    if not finished.is_file():  # otherwise it was killed before it could clear away
        status = _train(source, stats, target, training, finished)
        if status:
            return status
    _clear(folder)
    _move(finished, out)
    return 0


def _train(
    source: Checkpoint, stats: FeatureStats, target: Target, training: Training, finished: Path
) -> int:
    """Go through the stages that are left, and write what comes of them; the exit status of a training."""
    folder, last = finished.parent, training.stages
    done = [stage for stage in range(1, last + 1) if _pruned(folder, stage).is_file()]
    if not done:
        _save(_pruned(folder, 1), prune(source, target.stage(source.config, 1, last)), stats)
    for stage in range(max(done, default=1), last + 1):
        start = _read_pruned(_pruned(folder, stage))
        kept = target.stage(source.config, stage, last)
        say(f"stage {stage} of {last}: {kept} in each layer, {training.steps_of(stage)} steps")
        options = Options(
            expdir=folder / f"stage-{stage}",
            config=start.config,
            settings=training.settings_of(stage),
            initial=Initial(start.path),
            seed=training.seed + stage - 1,
            device=training.device,
            resume=True,
            command="melhubert compress",
            to_continue="the same command continues",
        )
        status = Pretraining(options).run()
        if status:
            return status
        trained = load_checkpoint(options.expdir / LAST)
        if stage < last:
            following = prune(trained, target.stage(source.config, stage + 1, last))
            _save(_pruned(folder, stage + 1), following, stats)
            start.path.unlink()
            (options.expdir / LAST).unlink()
    rest: dict[str, Any] = {key: trained.rest[key] for key in ("Args", "Runner") if key in trained.rest}
    rest[ORIGIN] = origin(
        source, target, steps=training.steps, stages=last, data=[Path(path).name for path in training.sets]
    )
    step = None if source.step is None else source.step + training.steps
    quantizer = trained.quantizer  # what the labels stand for, if the data says it
    if quantizer is None and source.quantizer is not None and source.quantizer.source != MODEL:
        quantizer = source.quantizer  # It still says what the head counts; of hidden states, it would not.
    save_checkpoint(finished, trained.config, trained.state, stats, step, rest, quantizer)
    return 0


def _read_pruned(path: Path) -> Checkpoint:
    """Read the weights with which a stage begins, which are nowhere else."""
    try:
        return load_checkpoint(path)
    except MelHuBERTError as error:
        fault = str(error).removesuffix("; copy or fetch it again")
        raise MelHuBERTError(f"{fault}; remove {path.parent} and give the same command again") from None


def _clear(folder: Path) -> None:
    """Remove the checkpoints of the stages; the logs stay."""
    for checkpoint in [*folder.glob("pruned-*.ckpt"), *folder.glob("stage-*/*.ckpt")]:
        checkpoint.unlink()


def _move(source: Path, target: Path) -> None:
    """Give a file its name at once; where its folder is a link to another file system, copy it first."""
    try:
        os.replace(source, target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def _pruned(folder: Path, stage: int) -> Path:
    return folder / f"pruned-{stage}.ckpt"


def _save(path: Path, checkpoint: Checkpoint, stats: FeatureStats) -> None:
    save_checkpoint(path, checkpoint.config, checkpoint.state, stats, checkpoint.step)
