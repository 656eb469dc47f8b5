"""Running a recipe: check everything, train, test the best checkpoint, write the result.

An experiment's folder holds

    experiment.json       what the experiment is; the same command continues, another one is refused
    config.yaml           the settings that s3prl got
    test_utterances.txt   names of the utterances whose predictions a submission must hold
    states-*.ckpt, *-best.ckpt, log.txt, ...   s3prl's, in `lr-X/` where several learning rates are tried
    training.json         beside them: hours so far, and whether it has ended
    results.json          the result
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.problems import check_writable
from s3prl_melhubert.downstream_recipes.recipe import Corpus, Recipe
from s3prl_melhubert.downstream_recipes.results import (
    METRICS,
    RESULTS,
    Difference,
    Result,
    Trial,
    read_result,
    write_result,
)
from s3prl_melhubert.downstream_recipes.settings import differences, with_override, with_steps
from s3prl_melhubert.downstream_recipes.training import Training, absolute, device_of
from s3prl_melhubert.downstream_recipes.upstream_check import check_upstream
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path, sha256_of

IDENTITY = "experiment.json"
TEST_UTTERANCES = "test_utterances.txt"


def run(recipe: Recipe, args: argparse.Namespace) -> int:
    """Do what is left to do of `melhubert superb TASK`; return the exit status."""
    return Experiment(recipe, args).run()


class Experiment:
    """One upstream, one task, one or more learning rates."""

    def __init__(self, recipe: Recipe, args: argparse.Namespace):
        self.recipe, self.args = recipe, args
        self.folder: Path = args.expdir.expanduser().absolute()
        if "=" in str(self.folder) or ",," in str(self.folder):
            raise MelHuBERTError(f"-p {self.folder}: s3prl's -o cannot pass a path with = or ,, in it")
        if args.steps is not None and args.steps < 1:
            raise MelHuBERTError(f"--steps {args.steps}: expected at least 1")
        self.superb = recipe.superb_settings()
        settings = self.superb if args.steps is None else with_steps(self.superb, args.steps)
        self.settings, self.arguments = with_override(settings, args.override)
        self.rates: tuple[float, ...] = args.lr or (self.settings["optimizer"]["lr"],)
        self.identity = self._identity()

    def run(self) -> int:
        check_writable(self.folder, self.recipe.disk)
        self._refuse_another()
        if self.args.stage is None and (self.folder / RESULTS).is_file():
            print(read_result(self.folder).in_words())
            print(f"{self.folder / RESULTS}: this experiment has ended")
            return 0

        corpus = self._check()
        if self.args.stage == "check":
            print(f"{self.recipe.task}: nothing is missing")
            return 0
        with atomic_path(self.folder / IDENTITY) as temporary:
            temporary.write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")
        trainings = [self._training(rate) for rate in self.rates]
        for training in trainings:
            if self.args.stage == "test":
                training.must_have_ended()
            else:
                training.run()
        if self.args.stage != "train":
            result = self._test(trainings, corpus)
            path = write_result(self.folder, result)
            print(f"{result.in_words()}\n{path}: written")
        return 0

    def _training(self, rate: float) -> Training:
        folder = self.folder / f"lr-{rate:g}" if len(self.rates) > 1 else self.folder
        settings = deepcopy(self.settings)
        settings["optimizer"]["lr"] = rate
        return Training(self.recipe, self.args, settings, folder, self.recipe.file_lists(self.folder))

    # -- the stages -------------------------------------------------------------------------------------

    def _check(self) -> Corpus:
        self.recipe.decoding(self.args)  # its files are there, too
        corpus = self.recipe.check(self.args)
        for line in corpus.summary:
            print(line)
        print(check_upstream(self.args))
        with atomic_path(self.folder / TEST_UTTERANCES) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in corpus.test_utterances), encoding="utf-8")
        self.recipe.fill_in(self.settings, corpus, self.folder, self.args)
        for difference in self._differences(corpus):
            print(f"not SUPERB's: {difference}")
        return corpus

    def _test(self, trainings: Sequence[Training], corpus: Corpus) -> Result:
        recipe, args = self.recipe, self.args
        search = [Trial(t.rate, t.dev_score(), self._relative(t.folder)) for t in trainings]
        scored = {i: trial.dev for i, trial in enumerate(search) if trial.dev is not None}
        chosen = list(scored)[METRICS[recipe.task].best(list(scored.values()))] if scored else 0
        training = trainings[chosen]
        started = time.time()
        test = training.test()
        notes = list(corpus.notes)
        if not scored:
            notes.append(
                "s3prl found no checkpoint better than the worst dev score; tested the last one, "
                f"{test.checkpoint.name}"
            )
        with_language_model = training.test_with_language_model(test.checkpoint)
        if with_language_model is not None:
            with_language_model["predictions"] = self._relative(
                training.folder / with_language_model["predictions"]
            )
        checkpoint = args.upstream_ckpt
        return Result(
            task=recipe.task,
            metric=METRICS[recipe.task].name,
            value=test.score,
            dev=search[chosen].dev,
            test_split=recipe.test_name,
            upstream=args.upstream,
            checkpoint=checkpoint,
            checkpoint_sha256=_sha256(checkpoint),
            upstream_config=args.upstream_model_config,
            learning_rate=training.rate,
            differences=self._differences(corpus),
            search=search if len(search) > 1 else [],
            layer_weights=test.layer_weights,
            tested_checkpoint=self._relative(test.checkpoint),
            predictions=self._relative(training.folder / recipe.predictions),
            test_utterances=len(corpus.test_utterances),
            corpus=corpus.path,
            lexicon=corpus.lexicon,
            hours={
                "train": round(sum(t.hours() for t in trainings), 6),
                "test": round((time.time() - started) / 3600, 6),
            },
            steps=int(self.settings["runner"]["total_steps"]),
            device=device_of(args),
            versions=versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            with_language_model=with_language_model,
            notes=notes,
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _differences(self, corpus: Corpus) -> list[Difference]:
        return [*differences(self.superb, self.settings, self.arguments), *corpus.differences]

    # -- what the experiment is --------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        args = self.args
        return {
            "task": self.recipe.task,
            "-u": args.upstream,
            "-k": args.upstream_ckpt and absolute(args.upstream_ckpt),
            "-k, its content (SHA-256)": _sha256(args.upstream_ckpt),
            "-g": args.upstream_model_config and absolute(args.upstream_model_config),
            "-g, its content (SHA-256)": _sha256(args.upstream_model_config),
            **self.recipe.corpus_identity(args),
            "--lr": list(self.rates),
            "--steps": args.steps,
            "--seed": args.seed,
            "-o": args.override,
        }

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
    """Versions of what a result depends on."""
    import platform

    packages = ("s3prl-melhubert", "s3prl", "torch", "torchaudio")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _sha256(path: str | None) -> str | None:
    file = None if path is None else Path(path).expanduser()
    return sha256_of(file) if file is not None and file.is_file() else None
