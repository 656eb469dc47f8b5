"""Running a task: check everything, train, test the best checkpoint, write the result.

An experiment's folder holds

    experiment.json       what the experiment is; the same command continues, another one is refused
    config.yaml           the settings that s3prl got
    test_utterances.txt   names of the utterances whose predictions a submission must hold
    states-*.ckpt, *-best.ckpt, log.txt, ...   s3prl's, in `lr-X/` where several learning rates are tried
    training.json         beside them: hours so far, and whether it has ended
    results.json          the result
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Generic

from s3prl_melhubert.downstream_recipes.corpora.problems import check_writable
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import (
    RESULTS,
    TEST_UTTERANCES,
    Result,
    Trial,
    read_result,
    write_result,
)
from s3prl_melhubert.downstream_recipes.running.options import RunOptions, full_path_of_file
from s3prl_melhubert.downstream_recipes.running.settings import differences, with_override, with_steps
from s3prl_melhubert.downstream_recipes.running.training import Training
from s3prl_melhubert.downstream_recipes.running.upstream_check import check_upstream
from s3prl_melhubert.downstream_recipes.task import C, Preparation, Task
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.devices import resolve_device
from s3prl_melhubert.support.files import atomic_path, sha256_of
from s3prl_melhubert.support.locks import only_writer

IDENTITY = "experiment.json"


class Experiment(Generic[C]):
    """One upstream, one task, one or more learning rates.

    Raises:
        MelHuBERTError: an option cannot be.
    """

    def __init__(self, task: Task[C], options: RunOptions):
        self.task, self.options = task, options
        self.folder = options.expdir.expanduser().absolute()
        if "=" in str(self.folder) or ",," in str(self.folder):
            raise MelHuBERTError(f"-p {self.folder}: s3prl's -o cannot pass a path with = or ,, in it")
        if options.steps is not None and options.steps < 1:
            raise MelHuBERTError(f"--steps {options.steps}: expected at least 1")
        self.superb = task.superb_settings()
        settings = self.superb if options.steps is None else with_steps(self.superb, options.steps)
        self.settings, self.arguments = with_override(settings, options.override)
        self.rates: tuple[float, ...] = options.rates or (self.settings["optimizer"]["lr"],)
        self.identity = self._identity()

    def run(self) -> None:
        """Do what is left to do of the experiment, and say what it found.

        Raises:
            MelHuBERTError: something is missing, cannot be used, or failed.
        """
        check_writable(self.folder, self.task.disk)
        with only_writer(self.folder):
            self._run()

    def _run(self) -> None:
        self._refuse_another()
        if self._has_ended():
            return

        corpus = self._check()
        if self.options.stage == "check":
            print(f"{self.task.key}: nothing is missing")
            return
        self._remember()
        trainings = [self._training(rate) for rate in self.rates]
        for training in trainings:
            if self.options.stage == "test":
                training.must_have_ended()
            else:
                training.run()
        if self.options.stage != "train":
            result = self._test(trainings, corpus)
            path = write_result(self.folder, result)
            print(f"{result.in_words()}\n{path}: written")

    def _training(self, rate: float) -> Training:
        folder = self.folder / f"lr-{rate:g}" if len(self.rates) > 1 else self.folder
        settings = deepcopy(self.settings)
        settings["optimizer"]["lr"] = rate
        return Training(
            self.task,
            self.options,
            device=self._device(),
            settings=settings,
            folder=folder,
            shared=self.folder,
        )

    def _device(self) -> str:
        return str(resolve_device(self.options.device))

    # -- the stages -------------------------------------------------------------------------------------

    def _check(self) -> C:
        self._device()
        if self.task.second_test is not None:
            self.task.second_test.from_options(
                self.options.task_options
            )  # says now whether its files can be used
        corpus = self.task.check(self.options.task_options)
        for line in corpus.summary:
            print(line)
        print(check_upstream(self.options))
        with atomic_path(self.folder / TEST_UTTERANCES) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in corpus.test_utterances), encoding="utf-8")
        preparation = Preparation(corpus, self.folder, self.options.task_options, self.options.workers)
        self.task.fill_in(self.settings, preparation)
        for difference in self._differences(corpus):
            print(f"not SUPERB's: {difference}")
        return corpus

    def _test(self, trainings: Sequence[Training], corpus: C) -> Result:
        task, options = self.task, self.options
        search = [Trial(t.rate, t.dev_score(), self._relative(t.folder)) for t in trainings]
        scored = {i: trial.dev for i, trial in enumerate(search) if trial.dev is not None}
        chosen = list(scored)[task.metric.best(list(scored.values()))] if scored else 0
        training = trainings[chosen]
        started = time.time()
        test = training.test()
        notes = [] if task.note is None else [task.note]
        if not scored:
            notes.append(
                "s3prl found no checkpoint better than the worst dev score; tested the last one, "
                f"{test.checkpoint.name}"
            )
        second = training.test_again(test.checkpoint)
        if second is not None:
            second["predictions"] = self._relative(training.folder / second["predictions"])
        checkpoint = options.upstream_ckpt
        return Result(
            task=task.key,
            metric=task.metric.name,
            value=test.score,
            dev=search[chosen].dev,
            test_split=task.test_name,
            upstream=options.upstream,
            checkpoint=checkpoint,
            checkpoint_sha256=_sha256(checkpoint),
            upstream_config=options.upstream_model_config,
            learning_rate=training.rate,
            differences=self._differences(corpus),
            search=search if len(search) > 1 else [],
            layer_weights=test.layer_weights,
            tested_checkpoint=self._relative(test.checkpoint),
            predictions=self._relative(training.folder / task.predictions[0].name),
            test_utterances=len(corpus.test_utterances),
            corpus=corpus.path,
            lexicon=corpus.lexicon,
            hours={
                "train": round(sum(t.hours() for t in trainings), 6),
                "test": round((time.time() - started) / 3600, 6),
            },
            steps=int(self.settings["runner"]["total_steps"]),
            device=self._device(),
            versions=versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            with_language_model=second,
            notes=notes,
            further=test.further,
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _differences(self, corpus: C) -> list[Difference]:
        return [*differences(self.superb, self.settings, self.arguments), *corpus.differences]

    def _has_ended(self) -> bool:
        """Whether there is nothing left to do; the result is shown then."""
        if self.options.stage is not None or not (self.folder / RESULTS).is_file():
            return False
        print(read_result(self.folder).in_words())
        print(f"{self.folder / RESULTS}: this experiment has ended")
        return True

    # -- what the experiment is --------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        options = self.options
        return {
            "task": self.task.key,
            "-u": options.upstream,
            "-k": options.upstream_ckpt and full_path_of_file(options.upstream_ckpt),
            "-k, its content (SHA-256)": _sha256(options.upstream_ckpt),
            "-g": options.upstream_model_config and full_path_of_file(options.upstream_model_config),
            "-g, its content (SHA-256)": _sha256(options.upstream_model_config),
            **self.task.corpus_identity(options.task_options),
            "--lr": list(self.rates),
            "--steps": options.steps,
            "--seed": options.seed,
            "-o": options.override,
        }

    def _remember(self) -> None:
        with atomic_path(self.folder / IDENTITY) as temporary:
            temporary.write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")

    def _refuse_another(self) -> None:
        """Raise MelHuBERTError if the folder holds an experiment with other arguments."""
        path = self.folder / IDENTITY
        if not path.is_file():
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MelHuBERTError(f"{path}: cannot be read as JSON ({error})") from None
        for name, value in self.identity.items():
            if before.get(name) != value:
                raise MelHuBERTError(
                    f"{self.folder}: holds an experiment with {name} {before.get(name)}, not {value}; "
                    "give the same arguments, or another folder with -p"
                )


def versions() -> dict[str, str]:
    """Return the versions of the programs that a result depends on."""
    import platform

    packages = ("s3prl-melhubert", "s3prl", "torch", "torchaudio")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _sha256(path: str | None) -> str | None:
    file = None if path is None else Path(path).expanduser()
    return sha256_of(file) if file is not None and file.is_file() else None
