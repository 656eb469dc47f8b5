"""What an experiment found: `results.json` in the experiment's folder, and how it is written in words.

A result is comparable with SUPERB's only if it was made with SUPERB's settings; `differences` lists those
that were not, and whatever shows a result shows them, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.difference import Difference

# Programs know these from here.
from s3prl_melhubert.downstream_recipes.experiment_files import (  # noqa: F401
    FILES,
    IDENTITY,
    STATISTICS,
    TEST_UTTERANCES,
    read_identity,
)
from s3prl_melhubert.downstream_recipes.task import Metric
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.statistics import published_stats
from s3prl_melhubert.support.files import read_json, write_json

RESULTS = "results.json"

# What JSON gives for the types of a result's fields.
TYPES: dict[str, Any] = {
    "float": (int, float),
    "int": int,
    "str": str,
    "list": list,
    "dict": dict,
    "None": type(None),
}


@dataclass(frozen=True)
class Trial:
    """One of several learning rates that were tried; or of several layers, where nothing is trained."""

    learning_rate: float | None
    dev: float | None  # in the unit of the task's metric on dev; None where training never got a score
    folder: str  # of this learning rate's experiment
    # None if it was not tested. With a dev split, the result is that of the best trial on dev.
    test: float | None = None
    layer: int | None = None  # of the upstream, counted from 0


@dataclass(frozen=True)
class PartResult:
    """The outcome of one part (fold) of a task that has several."""

    name: str  # of the part, and of its folder in the experiment's
    value: float  # on its test split, in the unit of the task's metric
    dev: float | None  # on its dev split
    learning_rate: float | None
    predictions: str  # file name, relative to the experiment's folder
    predictions_sha256: str | None = None  # as in `Result`


@dataclass(frozen=True)
class Result:
    """The outcome of one experiment: one task with one upstream."""

    task: str  # its key, such as pr
    metric: str  # its name, such as PER
    value: float  # on the test split, in the unit of the task's metric
    dev: float | None  # on the dev split, of what was tested, by the task's `dev_metric` and in its unit
    test_split: str
    upstream: str  # s3prl's name
    checkpoint: str | None  # the upstream's file, as given
    checkpoint_sha256: str | None
    upstream_config: str | None
    learning_rate: float | None  # None where nothing is trained
    differences: list[Difference]  # settings that are not SUPERB's, the learning rate apart
    search: list[Trial]  # every learning rate or layer, where several were tried; otherwise empty
    layer_weights: list[float]  # the learned weights of the upstream's hidden states; their sum is 1
    tested_checkpoint: str  # file name of the downstream checkpoint that was tested, or the layer's folder
    predictions: str  # file name of the predictions on the test split, relative to the experiment's folder
    test_utterances: int
    corpus: str
    lexicon: str | None  # where pronunciations came from (pr)
    hours: dict[str, float]  # wall-clock time of each stage: train, test
    steps: int
    device: str
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    # Of the task's second test: its value, its predictions, and the files that it used.
    with_language_model: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    further: dict[str, float] = field(default_factory=dict)  # by the names of further metrics, in their units
    parts: list[PartResult] = field(default_factory=list)  # of a task with several; `value` is their mean
    layer: int | None = None  # of the upstream, counted from 0, where a single one was tested
    # By these, what lies in the folder later is known to be what was tested. Older results have none.
    tested_weights_sha256: str | None = None  # of the tested checkpoint, whatever its paths; a layer has none
    predictions_sha256: str | None = None  # of the predictions' files, one after the other
    # What the upstream computed with, which the path of its settings does not tell: the file may be changed.
    upstream_config_sha256: str | None = None  # of `upstream_config`
    statistics_sha256: str | None = None  # of a MelHuBERT's log-Mel statistics (`FeatureStats.digest`)
    precision: str | None = None  # of a MelHuBERT: fp32 or bf16
    # Of the statistics that `upstream_config` named, as far as known. A checkpoint's own come before them.
    named_statistics_sha256: str | None = None

    @property
    def comparable(self) -> bool:
        """True where it was made with SUPERB's settings."""
        return not self.differences

    @property
    def upstream_trained(self) -> bool:
        """True where the upstream was trained with the task: the score is not one of its checkpoint."""
        return any(each.setting == "upstream_trainable" and each.here for each in self.differences)

    @property
    def statistics(self) -> str | None:
        """The log-Mel statistics in words, by their name, or the beginning of their digest without one."""
        digest = self.statistics_sha256 or self.named_statistics_sha256
        if digest is None:
            return None
        names = {stats.digest(): name for name, stats in published_stats().items()}
        used = "statistics" if self.statistics_sha256 else "naming statistics"
        return f"{used} {names.get(digest, digest[:12])}"

    @property
    def label(self) -> str:
        """The name that tells this upstream from another in a table."""
        if self.checkpoint is None:
            return self.upstream
        return f"{self.upstream} ({Path(self.checkpoint).parent.name}/{Path(self.checkpoint).name})".replace(
            "(/", "("
        )

    @property
    def chosen(self) -> str | None:
        """Which of several learning rates counts, in words; None where one was tried."""
        curve = self.curve
        if not curve or all(trial.learning_rate is None for trial in self.search):
            return None
        metric, split = self.chosen_on
        tried = ", ".join(f"{rate:g} ({metric.written(score)})" for rate, score in curve)
        if lost := [f"{trial.learning_rate:g}" for trial in self.search if self._chosen_by(trial) is None]:
            tried += f"; none for {', '.join(lost)}"
        where = f"{metric.name} on {split}, of {tried}"
        if self.parts:
            rates = ", ".join(f"{each.name} {each.learning_rate:g}" for each in self.parts)
            return f"{self.task}: learning rates {rates}, each the best of its part; mean {where}"
        return f"{self.task}: learning rate {self.learning_rate:g}, the best by {where}"

    @property
    def chosen_on(self) -> tuple[Metric, str]:
        """By which metric on which split one of several learning rates or layers counts."""
        task = all_tasks()[self.task]
        return (task.metric, "test") if task.tests_every_checkpoint else (task.chosen_by, "dev")

    @property
    def curve(self) -> list[tuple[float, float]]:
        """The learning rates or layers that were tried, ascending, and the score of each."""
        found = []
        for trial in self.search:
            tried = trial.layer if trial.learning_rate is None else trial.learning_rate
            score = self._chosen_by(trial)
            if tried is not None and score is not None:
                found.append((float(tried), score))
        return sorted(found)

    def _chosen_by(self, trial: Trial) -> float | None:
        return trial.test if self.chosen_on[1] == "test" else trial.dev

    def written(self, value: float) -> str:
        """A value of the task's metric with its unit."""
        return all_tasks()[self.task].metric.written(value)

    def in_words(self, is_part: bool = False) -> str:
        """Write the result in a line, with more for the learning rate, notes, and what is not SUPERB's.

        Args:
            is_part: leaves the last out, which the result of the whole says.
        """
        task = all_tasks()[self.task]
        scores = {self.metric: self.written(self.value)}
        for metric in task.further_metrics:
            if metric.name in self.further:
                scores[metric.name] = metric.written(self.further[metric.name])
        figures = ", ".join(f"{name} {value}" for name, value in scores.items())
        line = f"{self.task} {figures} on {self.test_split}: {self.label}"
        if self.layer is not None:
            line += f", layer {self.layer}"
        if self.dev is not None:
            name = f"{task.dev_metric.name} " if task.dev_metric else ""
            line += f" (dev {name}{task.chosen_by.written(self.dev)})"
        lines = [f"{self.task} {each.name} {self.metric} {self.written(each.value)}" for each in self.parts]
        if self.with_language_model is not None:
            score = f"{self.metric} {self.written(self.with_language_model['value'])}"
            lines.append(f"{self.task} {score} on {self.test_split} with a language model")
        lines += [line, *([self.chosen] if self.chosen else []), *self.notes]
        return "\n".join(lines if is_part else [*lines, *not_superbs(self.differences)])


def same_model(one: Result, other: Result) -> bool:
    """Whether two results are of one model, by what both of them say; those of older versions say less."""

    def differ(name: str) -> bool:
        values = getattr(one, name), getattr(other, name)
        return None not in values and values[0] != values[1]

    def place(path: str | None) -> str | None:
        return path and os.path.normpath(path)

    if one.upstream != other.upstream or differ("checkpoint_sha256") or differ("precision"):
        return False
    # Folders have no hash in older results, and a URL or an id never has one.
    hashes = one.checkpoint_sha256, other.checkpoint_sha256
    if None in hashes and place(one.checkpoint) != place(other.checkpoint):
        return False
    used_or_named = [each.statistics_sha256 or each.named_statistics_sha256 for each in (one, other)]
    if used_or_named[0] is not None and used_or_named[0] == used_or_named[1]:
        return True
    # Where what one used and the other named differs, both may have used the checkpoint's own all the same.
    for known in ("statistics_sha256", "named_statistics_sha256", "upstream_config_sha256"):
        if getattr(one, known) is not None and getattr(other, known) is not None:
            return not differ(known)
    return place(one.upstream_config) == place(other.upstream_config)


def not_superbs(differences: Sequence[Difference]) -> list[str]:
    """Write differences from SUPERB, a line each, and a line above them; nothing where there are none."""
    if not differences:
        return []
    return ["not SUPERB's settings or corpus:", *(f"  {each}" for each in differences)]


def versions() -> dict[str, str]:
    """Return the versions of the programs that a result depends on."""
    import platform

    packages = ("s3prl-melhubert", "s3prl", "torch", "torchaudio")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def write_result(folder: Path, result: Result) -> Path:
    """Write `results.json` in the experiment's folder; return its path."""
    path = folder / RESULTS
    content = {**asdict(result), "comparable": result.comparable}
    write_json(path, content, indent=2)
    return path


def read_result(folder: str | Path) -> Result:
    """Read the `results.json` of an experiment's folder.

    Raises:
        MelHuBERTError: there is none, or it is not one of ours.
    """
    path = Path(folder) / RESULTS
    remedy = "if it is damaged, remove it, and give the experiment's command again, which tests again"
    try:
        content = read_json(path, remedy)
    except FileNotFoundError:
        raise MelHuBERTError(
            f"{path}: not found; `melhubert superb TASK ... -p {folder}` writes it when it ends"
        ) from None
    try:
        content.pop("comparable")
        content["differences"] = [Difference(**each) for each in content["differences"]]
        content["search"] = [Trial(**each) for each in content["search"]]
        content["parts"] = [PartResult(**each) for each in content.get("parts", [])]
        known = {name: value for name, value in content.items() if value is not None}
        content = {**content, **_of_upstream(path.parent), **known}
        result = Result(**content)
        read: list[Result | Trial | PartResult] = [result, *result.search, *result.parts]
        for each in read:
            _check_types(each)
        if result.with_language_model is not None:
            _check_type("with_language_model.value", result.with_language_model["value"], "float")
    except (AttributeError, KeyError, TypeError) as error:
        raise MelHuBERTError(f"{path}: is not a result of `melhubert superb` ({error}); {remedy}") from None
    tasks = all_tasks()
    if result.task not in tasks:
        raise MelHuBERTError(f"{path}: task is {result.task!r}, expected one of {', '.join(tasks)}")
    return result


def _of_upstream(folder: Path) -> dict[str, Any]:
    """What results do not say of their upstream, as far as `experiment.json` beside them does."""
    try:
        identity = read_identity(folder)
    except MelHuBERTError:  # The result can be read all the same.
        return {}
    fields_of = {
        "upstream_config_sha256": FILES["-g"],
        "named_statistics_sha256": STATISTICS,
        "precision": "--precision",
    }
    found = {name: identity[key] for name, key in fields_of.items() if isinstance(identity.get(key), str)}
    if str(identity.get("-u")).startswith("melhubert") and identity.get("-g") is None:
        found.setdefault("precision", "fp32")  # which only the settings of a MelHuBERT could change
    return found


def _check_types(read: Result | Trial | PartResult) -> None:
    """Raise TypeError where a value that was read is none that its annotation allows."""
    for each in fields(read):
        value, annotation = getattr(read, each.name), str(each.type)
        _check_type(each.name, value, annotation)
        content = annotation.rstrip("]").split("[")[-1].split(", ")[-1]  # of a list or a dict
        if content in TYPES and isinstance(value, list | dict):
            for item in value if isinstance(value, list) else value.values():
                _check_type(each.name, item, content)


def _check_type(name: str, value: Any, annotation: str) -> None:
    allowed = tuple(TYPES[kind.partition("[")[0]] for kind in annotation.split(" | "))
    if not isinstance(value, allowed):
        raise TypeError(f"{name} is {shown(value)}, expected {annotation}")
