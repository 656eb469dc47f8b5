"""Which checkpoints a finished experiment has to be used with, and which upstream they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.experiments.relative_paths import NO_FILES
from s3prl_melhubert.downstream_recipes.experiment_files import FILES, STATISTICS, read_identity
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.running.digests import sha256_of_file, statistics_digest
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import read_checkpoint, refuse_changed
from s3prl_melhubert.downstream_recipes.running.upstream_check import UPSTREAM, refuse_absent
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path_of_file, sha256_of


@dataclass(frozen=True)
class Trained:
    """One trained model: the experiment's, or that of one of its parts.

    Attributes:
        folder: of the experiment or the part.
        result: what was found with it.
        content: of the checkpoint that was tested: that of the best learning rate, best on dev.
    """

    folder: Path
    result: Result
    content: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file."""
        return self.folder / self.result.tested_checkpoint

    @property
    def tested(self) -> Path:
        """The folder in which its test wrote the predictions."""
        return (self.folder / self.result.predictions).parent


def finished_experiment(folder: str | Path) -> tuple[Task[Any], list[Trained]]:
    """Find the trained models of an experiment that has ended: one, or one for each part of its task.

    Raises:
        MelHuBERTError: it has not ended, a checkpoint cannot be read, or its task is not one that says
            something of a single utterance.
    """
    folder = Path(folder).expanduser().absolute()
    result = read_result(folder)
    tasks = all_tasks()
    task = tasks[result.task]
    if task.outputs is None:
        serves = ", ".join(key for key, each in tasks.items() if each.outputs is not None)
        raise MelHuBERTError(
            f"{folder}: {task.name} ({task.key}) says nothing of a single utterance; predict serves {serves}"
        )
    if not result.parts:
        return task, [_trained(folder, result)]
    folders = [folder / part.name for part in result.parts]
    return task, [_trained(each, read_result(each)) for each in folders]


def _trained(folder: Path, result: Result) -> Trained:
    path = folder / result.tested_checkpoint
    try:
        content = read_checkpoint(path)
    except FileNotFoundError:
        raise MelHuBERTError(f"{path}: not found; it is what was tested and what predicts") from None
    parts = ("Config", "Featurizer", "Downstream")
    whole = isinstance(content, dict) and all(hasattr(content.get(name), "keys") for name in parts)
    if not whole or not hasattr(content.get("Args"), "upstream"):
        raise MelHuBERTError(f"{path}: is not a checkpoint of s3prl's downstream models")
    refuse_changed(path, result.tested_weights_sha256, content)
    return Trained(folder, result, content)


def upstream_checkpoint(trained: Trained, given: str | None) -> str | None:
    """Find the upstream's checkpoint, for s3prl's `-k`.

    Args:
        trained: on it.
        given: where it is now, if not where it was.

    Raises:
        MelHuBERTError: it is not there, or is another file than the one that was trained on.
    """
    recorded = trained.content["Args"].upstream_ckpt
    _refuse_unused("-k", given, recorded, trained)
    if trained.result.upstream in NO_FILES:
        return recorded if given is None else given
    path = recorded if given is None else full_path_of_file(given)
    expected = trained.result.checkpoint_sha256
    if path is None or expected is None:  # named by the upstream alone; or a URL, or an id
        return path
    if not Path(path).exists():
        raise MelHuBERTError(
            f"{path}: no such file, the upstream's checkpoint that {trained.folder} was trained on; where is "
            "it now? give it with -k"
        )
    if sha256_of_file(path) != expected:
        raise MelHuBERTError(
            f"{path}: is not the upstream's checkpoint that {trained.folder} was trained on (its SHA-256 "
            f"begins with {expected[:12]}); give that one with -k"
        )
    return path


def _refuse_unused(argument: str, given: str | None, recorded: str | None, trained: Trained) -> None:
    """Raise MelHuBERTError where the experiment knows no such file, or it is not there."""
    if given is not None and recorded is None:
        raise MelHuBERTError(
            f"{argument} {given}: {trained.folder} was trained without {argument}; leave it out"
        )
    refuse_absent(argument, given)


def upstream_settings(trained: Trained, given: str | None) -> str | None:
    """Find the upstream's settings, for s3prl's `-g`.

    Raises:
        MelHuBERTError: they are not there, or are others than those that were trained with.
    """
    recorded = trained.content["Args"].upstream_model_config
    identity = read_identity(trained.folder)
    expected = identity.get(FILES["-g"])
    if recorded is not None and Path(recorded).name == UPSTREAM:
        # With --precision the experiment holds them itself, made of those that were given, and may be moved.
        own = trained.folder / UPSTREAM
        recorded, expected = str(own) if own.is_file() else recorded, None
    _refuse_unused("-g", given, recorded, trained)
    path = recorded if given is None else full_path_of_file(given)
    if path is not None and not Path(path).is_file():
        raise MelHuBERTError(
            f"{path}: no such file, the upstream's settings that {trained.folder} was trained with; where "
            "are they now? give them with -g"
        )
    if path is not None and expected is not None and sha256_of(path) != expected:
        raise MelHuBERTError(
            f"{path}: is not the settings of the upstream that {trained.folder} was trained with (their "
            f"SHA-256 begins with {expected[:12]}); give those with -g"
        )
    before, now = identity.get(STATISTICS), statistics_digest(path)
    if before is not None and now is not None and now != before:
        raise MelHuBERTError(
            f"{path}: names other statistics than those that {trained.folder} was trained with; give "
            "settings with -g that name the same numbers"
        )
    return path
