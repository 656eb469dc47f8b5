"""Running a task of several parts, such as folds: an experiment for each, and the mean of their scores.

The folder holds, beside `experiment.json` and `results.json`, a folder for each part, which is a whole
experiment of its own: it continues on its own, and its own learning rate is chosen on its own dev split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from statistics import fmean

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import (
    PartResult,
    Result,
    Trial,
    read_result,
    write_result,
)
from s3prl_melhubert.downstream_recipes.running.experiments.checked import Checked, check_corpus
from s3prl_melhubert.downstream_recipes.running.experiments.experiment import Experiment
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.task import C, Part, Task
from s3prl_melhubert.support.progress import from_here, say


def run_task(task: Task[C], options: RunOptions) -> None:
    """Do what is left to do of a task's experiment, in all of its parts, and say what was found.

    Raises:
        MelHuBERTError: something is missing, cannot be used, or failed.
    """
    experiment_of(task, options).run()


def experiment_of(task: Task[C], options: RunOptions) -> Experiment[C]:
    """The experiment of a task, whether of one part or of several.

    Raises:
        MelHuBERTError: an option cannot be.
    """
    return (_PartedExperiment if task.parts else Experiment)(task, options)


class _PartedExperiment(Experiment[C]):
    """One upstream and a task of several parts."""

    def _run(self) -> None:
        checked = self._checked_for_the_rest()
        if checked is None:
            return
        self._remember()
        for part in self.task.parts:
            self._experiment(part, checked.corpus).run()
        if self.options.stage != "train":
            results = {part.name: read_result(self.folder / part.name) for part in self.task.parts}
            result = mean_of_parts(results)
            path = write_result(self.folder, result)
            say(f"{result.in_words()}\n{from_here(path)}: written")

    def _check(self) -> Checked[C]:
        corpus = check_corpus(self.task, self.options, self.identity)
        first = self._experiment(self.task.parts[0], corpus)
        first.check()  # the others' differ in lists of files alone
        precision = first.checked.precision if first.checked else self.options.precision
        return Checked(
            corpus, self.asked.settings, self.options, precision
        )  # Each part fills in its own settings.

    def _move(self, checked: Checked[C]) -> None:
        for part in self.task.parts:
            self._experiment(part, checked.corpus).run()
        self._remember()

    def _experiment(self, part: Part[C], corpus: C) -> Experiment[C]:
        options = replace(self.options, expdir=self.folder / part.name)
        return Experiment(self.task.only(part, corpus), options)


def mean_of_parts(results: Mapping[str, Result]) -> Result:
    """The result of a task from those of its parts, by their names: scores and weights are means, times sums.

    A part without a dev score has no share in the mean of those.
    """
    parts = list(results.values())
    devs = [each.dev for each in parts if each.dev is not None]
    differences: list[Difference] = []  # a value may be a list, which has no hash
    for one in (one for each in parts for one in each.differences):
        if one not in differences:
            differences.append(one)
    first_name, first = next(iter(results.items()))
    return replace(
        first,
        value=fmean(each.value for each in parts),
        dev=fmean(devs) if devs else None,
        differences=differences,
        further={name: fmean(each.further[name] for each in parts) for name in first.further},
        search=_mean_search(parts),  # each part's own stands in its own result
        learning_rate=first.learning_rate if len({each.learning_rate for each in parts}) == 1 else None,
        layer_weights=[
            round(fmean(weights), 6) for weights in zip(*(each.layer_weights for each in parts), strict=True)
        ],
        tested_checkpoint=f"{first_name}/{first.tested_checkpoint}",
        predictions=f"{first_name}/{first.predictions}",
        test_utterances=sum(each.test_utterances for each in parts),
        hours={stage: round(sum(each.hours[stage] for each in parts), 6) for stage in first.hours},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        # The first note of each says that it is a part alone.
        notes=[f"{name}: {note}" for name, each in results.items() for note in each.notes[1:]],
        parts=[
            PartResult(
                name,
                each.value,
                each.dev,
                each.learning_rate,
                f"{name}/{each.predictions}",
                each.predictions_sha256,
            )
            for name, each in results.items()
        ],
    )


def _mean_search(parts: Sequence[Result]) -> list[Trial]:
    """The learning rates that all parts tried, with the means of those scores that there are."""
    found = []
    for trials in zip(*(each.search for each in parts), strict=True):
        devs = [trial.dev for trial in trials if trial.dev is not None]
        tests = [trial.test for trial in trials if trial.test is not None]
        found.append(
            Trial(
                trials[0].learning_rate,
                fmean(devs) if devs else None,
                f"*/{trials[0].folder}",
                fmean(tests) if tests else None,
            )
        )
    return found
