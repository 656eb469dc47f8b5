"""Running every task that there is a corpus for: all are checked first, then each is run, then the report.

The folder holds the report, and an experiment for each task under the task's key.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.report.report import write_report
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result
from s3prl_melhubert.downstream_recipes.report.table import table
from s3prl_melhubert.downstream_recipes.running.corpora_file import CorpusOfTask
from s3prl_melhubert.downstream_recipes.running.experiments.experiment import Experiment
from s3prl_melhubert.downstream_recipes.running.experiments.parts import experiment_of
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG
from s3prl_melhubert.errors import MelHuBERTError, named, printable
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.progress import from_here
from s3prl_melhubert.support.writable import check_writable


def run_every_task(corpora: Sequence[CorpusOfTask], common: RunOptions) -> None:
    """Check the corpora of all tasks, do what is left to do of each, and write the report.

    A task that fails keeps no other from running.

    Args:
        corpora: of the tasks, with what of each is not as for the others.
        common: what is asked of all of them; the folder is that of the report.

    Raises:
        MelHuBERTError: a corpus has faults, and nothing was trained; or tasks failed, and the others ended.
    """
    folder = common.expdir.expanduser().absolute()
    check_writable(folder)
    with only_writer(folder):
        experiments = _checked(corpora, replace(common, expdir=folder))
        if common.stage == "check":
            print(f"nothing is missing: {', '.join(experiments)}")
            return
        failed = _run(experiments)
        found = _results(each.folder for each in experiments.values())
        if found and common.stage != "train":
            results, ended = list(found.values()), list(found)
            written = write_report(results, folder, ended)
            print(f"\n{table(results, ended)}\n\nwritten: {', '.join(map(from_here, written))}")
    if failed:
        raise MelHuBERTError(
            f"{len(failed)} of {len(experiments)} tasks failed: {', '.join(failed)} (why stands above); "
            "the same command runs them again, and them alone"
        )


def _checked(corpora: Sequence[CorpusOfTask], common: RunOptions) -> dict[str, Experiment[Any]]:
    """Make each task's experiment and let it look at all that it needs.

    Raises:
        MelHuBERTError: something is missing or cannot be used in one or more of them; it names all of it.
    """
    experiments: dict[str, Experiment[Any]] = {}
    faults: dict[str, str] = {}
    for number, corpus in enumerate(corpora, 1):
        key = corpus.task.key
        print(f"{key}: looking at its corpus ({number} of {len(corpora)} tasks)", flush=True)
        try:
            experiments[key] = experiment_of(corpus.task, _options(corpus, common))
            experiments[key].check()
        except Exception as error:
            faults[key] = _in_words(error, common.expdir / key)
    if faults:
        lines = ["\n  ".join(f"{key}: {fault}".split("\n")) for key, fault in faults.items()]
        raise MelHuBERTError(
            "\n".join([f"{len(faults)} of {len(corpora)} tasks cannot be run; nothing was trained", *lines])
        )
    return experiments


def _options(corpus: CorpusOfTask, common: RunOptions) -> RunOptions:
    """Return what is asked of one task; rates and steps of all are not asked where nothing is trained."""
    trained = corpus.task.trained
    overrides = [each for each in (common.override, corpus.override) if each]
    rates = common.rates if corpus.rates is None and trained else corpus.rates
    steps = common.steps if corpus.steps is None and trained else corpus.steps
    return replace(
        common,
        expdir=common.expdir / corpus.task.key,
        task_options=corpus.options,
        stage=None if common.stage == "check" else common.stage,
        rates=rates or (),
        keep_states=common.keep_states and trained,
        steps=steps,
        override=",,".join(overrides) or None,
    )


def _run(experiments: Mapping[str, Experiment[Any]]) -> list[str]:
    """Run one experiment after the other; return the keys of those that failed."""
    failed = []
    for number, (key, experiment) in enumerate(experiments.items(), 1):
        print(f"\n{key}: {experiment.task.name} ({number} of {len(experiments)} tasks)", flush=True)
        try:
            experiment.run()
        except Exception as error:
            failed.append(key)
            said = printable(_in_words(error, experiment.folder), keep="\n")
            print(f"melhubert: {key}: {said}", file=sys.stderr, flush=True)
        gc.collect()  # its models, before the next one's
    return failed


def _in_words(error: Exception, folder: Path) -> str:
    """What a task failed with; where nobody foresaw it, in a line, with the traceback in the task's log."""
    if isinstance(error, MelHuBERTError | OSError):
        return str(error)
    said = named(error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
    except OSError:
        return said
    return f"{said}; the traceback is in {folder / LOG}"


def _results(folders: Iterable[Path]) -> dict[Path, Result]:
    """The results of the experiments that have ended; why one cannot be read was said when it failed."""
    found = {}
    for folder in folders:
        with suppress(MelHuBERTError):
            found[folder] = read_result(folder)
    return found
