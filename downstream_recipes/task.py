"""What a SUPERB task is: one frozen `Task`, from which all that the package does with it follows.

The command line (`melhubert superb TASK`, `config`), the run of an experiment, its result, the report and
the submission read a task's facts here and nowhere else. A task is a folder beside this file that holds

    superb.yaml   SUPERB's settings for s3prl, with null where a path belongs
    task.py       the check of its corpus, the filling in of its settings, and its `TASK`

and `tasks.py` finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.outputs import Outputs
from s3prl_melhubert.downstream_recipes.prediction_files import PredictionFile
from s3prl_melhubert.support.files import full_path
from s3prl_melhubert.support.settings import put, read_yaml_mapping

SUPERB_YAML = "superb.yaml"


# -- what the user gives ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """An argument that only this task has. Its value is a path, or several; or it has none.

    Attributes:
        name: without dashes, such as `split-file`.
        metavar: what stands for the value in the help, such as DIR.
        help: a line for the help.
        example: a value for the example in the help, where the argument shall be in it.
        required: whether a run needs it.
        several: whether it takes one or more values.
        flag: whether it takes none: it is given or not.
    """

    name: str
    metavar: str
    help: str
    example: str | None = None
    required: bool = False
    several: bool = False
    flag: bool = False

    @property
    def option(self) -> str:
        """The argument as it is written on a command line."""
        return f"--{self.name}"


@dataclass(frozen=True)
class TaskOptions:
    """The values that a user gave to a task's own arguments, by the arguments' names.

    What was not given is None or absent.
    """

    values: Mapping[str, str | Sequence[str] | bool | None] = field(default_factory=dict)

    def one(self, name: str) -> str | None:
        """The value of an argument that takes one; None where it was not given."""
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise TypeError(f"{name} takes several values")

    def needed(self, name: str) -> str:
        """The value of an argument without which there is no run.

        Raises:
            KeyError: it was not given, which the command line does not let happen.
        """
        value = self.one(name)
        if value is None:
            raise KeyError(name)
        return value

    def several(self, name: str) -> Sequence[str]:
        """The values of an argument that takes several; none where it was not given."""
        value = self.values.get(name)
        if isinstance(value, bool):
            raise TypeError(f"{name} takes no value")
        return () if value is None else [value] if isinstance(value, str) else value

    def flag(self, name: str) -> bool:
        """Whether an argument without a value was given."""
        return self.values.get(name) is True

    def with_value(self, name: str, value: str) -> TaskOptions:
        """The same options with another value of one of them."""
        return replace(self, values={**self.values, name: value})

    def identity(self, arguments: Sequence[Argument]) -> dict[str, Any]:
        """The full paths that these arguments name, by option, as an experiment remembers them.

        Of those without a value, the ones that were given.
        """
        paths = {each.option: self._full(each) for each in arguments if not each.flag}
        return {**paths, **{each.option: True for each in arguments if each.flag and self.flag(each.name)}}

    def _full(self, argument: Argument) -> str | list[str] | None:
        if self.values.get(argument.name) is None:
            return None
        paths = [full_path(path) for path in self.several(argument.name)]
        return paths if argument.several else paths[0]


# -- what a task finds and makes -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CheckedCorpus:
    """A corpus in which every file was looked at. A task adds what its settings need of it.

    Attributes:
        path: its folder.
        summary: lines for the user, one a split.
        test_utterances: the names of the test utterances, as s3prl's file of predictions has them.
        differences: from SUPERB's corpus.
        content: a hash of what was checked (`corpora.content`), by which an experiment knows its corpus again
            wherever it is; None in a task that knows it by its path.
        lexicon: where pronunciations came from, in words; None in a task without them.
    """

    path: str
    summary: list[str]
    test_utterances: list[str]
    differences: list[Difference]
    content: str | None = None
    lexicon: str | None = None


C = TypeVar("C", bound=CheckedCorpus)


@dataclass(frozen=True)
class Preparation(Generic[C]):
    """What a task's settings are filled in from.

    Attributes:
        corpus: None where the user named none (`melhubert superb config`): its paths are left open then.
        folder: where the task may write files that s3prl shall read.
        options: the user's.
        workers: processes that read audio.
    """

    corpus: C | None
    folder: Path
    options: TaskOptions
    workers: int


@dataclass(frozen=True)
class Replacement:
    """A name in one of s3prl's modules that has another value while s3prl runs for this task."""

    module: str
    name: str
    value: Any


# -- how it is scored ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """How a task is scored.

    Attributes:
        name: as SUPERB writes it: PER, ACC, WER.
        higher_is_better: the direction.
        printed: what s3prl calls it in the lines that it prints.
        scale: the factor that turns s3prl's values into those of a result, such as 100 for percent.
        line: how such a line begins, as a regular expression; the value follows.
        unit: of a result's values: %, dB, or nothing.
    """

    name: str
    higher_is_better: bool
    printed: str
    scale: float
    line: str = "{split} {printed}: "
    unit: str = "%"

    def written(self, value: float) -> str:
        """A value of a result with its unit: 21.77 %, 9.36 dB, 2.55."""
        return f"{value:.2f} {self.unit}".rstrip()

    def best(self, values: Sequence[float]) -> int:
        """The index of the best of several values."""
        chosen = max(values) if self.higher_is_better else min(values)
        return list(values).index(chosen)


@dataclass(frozen=True)
class Tested:
    """What s3prl has tested, for a task whose score it does not print.

    Attributes:
        folder: in which its predictions are.
        split: s3prl's name of what was tested.
        options: the user's.
    """

    folder: Path
    split: str
    options: TaskOptions


@dataclass(frozen=True)
class SecondTesting:
    """What one second test needs.

    Attributes:
        override: of s3prl's settings, by their places.
        files: that it used, for the result, by what they are.
        digests: the hashes of their content, for the result, by what it calls them.
    """

    override: Mapping[str, Any]
    files: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SecondTest:
    """Testing the same checkpoint once more in another way: with a language model.

    The leaderboard lists this as a task of its own; here it is a further column of the task's.

    Attributes:
        label: what tells its score from the first one: LM.
        arguments: that ask for it. They do not change what is trained.
        predictions: the files that s3prl writes then.
        from_options: what it needs, or None where the user did not ask for it; raises a MelHuBERTError where
            something cannot be used.
    """

    label: str
    arguments: tuple[Argument, ...]
    predictions: tuple[PredictionFile, ...]
    from_options: Callable[[TaskOptions], SecondTesting | None]


@dataclass(frozen=True)
class Part(Generic[C]):
    """One of several trainings and tests of a task whose score is the mean of theirs: a fold.

    Attributes:
        name: also the name of its folder in the experiment's.
        settings: of s3prl, by their places, that make this part of the task.
        predictions: the files that s3prl writes when it tests this part.
        corpus: takes this part's corpus out of the whole one.
    """

    name: str
    settings: Mapping[str, Any]
    predictions: tuple[PredictionFile, ...]
    corpus: Callable[[C], C]


# -- the task --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task(Generic[C]):
    """One of SUPERB's tasks.

    Attributes:
        key: its name on the command line and in results: pr, sid, asr.
        name: in words.
        column: its place among SUPERB's tasks, by which lists of tasks are ordered.
        downstream: s3prl's name of it (`-d`).
        folder: the folder of its own files, `superb.yaml` among them.
        arguments: that say where its corpus is; the first one says it to people.
        check: looks at the whole corpus; raises a MelHuBERTError that names what is missing or unusable.
        fill_in: writes paths into the settings, and the files that s3prl needs into the folder.
        metric: how it is scored.
        further_metrics: what else is scored in the same test, each a further column.
        test_split: s3prl's name of the split that is scored (`-t`).
        test_name: the corpus' name of that split.
        best_checkpoint: what s3prl calls the checkpoint that is best on the dev split. Its expert keeps that
            score in a buffer `best_score`; where s3prl's does not, `replacements` puts one in its place that
            does. None where SUPERB has no dev split: then every saved checkpoint is tested, and the best of
            these scores is the result.
        dev_metric: what the best checkpoint is best by, where it is not the metric.
        trained: whether a downstream model is trained. Where none is, the upstream's layers are tested on the
            dev split one by one, and the best of them on the test split.
        score: computes the score from the predictions, where s3prl does not print it; raises a
            MelHuBERTError.
        predictions: the files that s3prl writes when it tests. A result names the first; others lie beside
            it.
        sizes: utterances of each of SUPERB's splits.
        published: SUPERB's published figures, in the metric's unit, by upstream.
        parts: what is trained and tested one after the other, where that is more than one thing; the
            predictions are theirs then, and the score is the mean of their scores.
        part: the name of the part that this is of a task; None for a whole one.
        note: what every result says of itself.
        fixed: settings beside those of `superb.yaml`, by their places.
        disk: bytes that an experiment needs.
        second_test: a second way of testing, where the leaderboard has one.
        find_rest: adds the options that the user left out and that can be found.
        replacements: what has another value in s3prl's modules during an experiment in this folder.
        trap: what a user of s3prl's own program must know, as things are on this machine; None if nothing.
        outputs: what the outputs of its model stand for, by which it is used on new audio; None where it
            neither labels an utterance nor transcribes it.
    """

    key: str
    name: str
    column: int
    downstream: str
    folder: Path
    arguments: tuple[Argument, ...]
    check: Callable[[TaskOptions], C]
    fill_in: Callable[[dict[str, Any], Preparation[C]], None]
    metric: Metric
    test_split: str
    test_name: str
    best_checkpoint: str | None
    predictions: tuple[PredictionFile, ...]
    sizes: Mapping[str, int]
    published: Mapping[str, float] = field(default_factory=dict)
    further_metrics: tuple[Metric, ...] = ()
    parts: tuple[Part[C], ...] = ()
    part: str | None = None
    note: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    disk: int = 100 * 1024**2
    dev_metric: Metric | None = None
    trained: bool = True
    score: Callable[[Tested], float] | None = None
    second_test: SecondTest | None = None
    find_rest: Callable[[TaskOptions], TaskOptions] = lambda options: options
    replacements: Callable[[Path], Sequence[Replacement]] = lambda folder: ()
    trap: Callable[[], str | None] = lambda: None
    outputs: Outputs | None = None

    @property
    def title(self) -> str:
        """The key in capitals, as tables have it."""
        return self.key.upper()

    @property
    def chosen_by(self) -> Metric:
        """What one of several checkpoints, learning rates or layers is the best by."""
        return self.dev_metric or self.metric

    @property
    def test_size(self) -> int:
        """The number of utterances that SUPERB tests on."""
        return self.sizes[self.test_name]

    @property
    def tests_every_checkpoint(self) -> bool:
        """Whether each saved checkpoint is tested, for want of a dev split."""
        return self.trained and self.best_checkpoint is None

    @property
    def all_predictions(self) -> tuple[PredictionFile, ...]:
        """Every file that may be in a submission, those of the parts and of the second test included."""
        of_parts = tuple(file for part in self.parts for file in part.predictions)
        return self.predictions + of_parts + (self.second_test.predictions if self.second_test else ())

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        """The arguments of a run: those that name the corpus, and those of the second test."""
        return self.arguments + (self.second_test.arguments if self.second_test else ())

    def superb_settings(self) -> dict[str, Any]:
        """SUPERB's settings for s3prl; the paths in them are None."""
        settings = read_yaml_mapping(self.folder / SUPERB_YAML)
        for place, value in self.fixed.items():
            put(settings, place, value)
        return settings

    def only(self, part: Part[C], corpus: C) -> Task[C]:
        """The task that is one part of this one, on its part of a corpus that was checked."""
        return replace(
            self,
            name=f"{self.name}, {part.name}",
            parts=(),
            part=part.name,
            note=f"{part.name} alone, one of {len(self.parts)}",
            fixed={**self.fixed, **part.settings},
            predictions=part.predictions,
            check=lambda options: part.corpus(corpus),
        )

    def corpus_identity(self, options: TaskOptions) -> dict[str, Any]:
        """What of the options an experiment must not change between its runs."""
        return self.find_rest(options).identity(self.arguments)
