"""Running a task: check everything, train, test the best checkpoint, write the result.

An experiment's folder holds

    experiment.json       what the experiment is; the same command continues, another one is refused
    config.yaml           the settings that s3prl got
    labels.json           what the outputs of the trained model stand for
    test_utterances.txt   names of the utterances whose predictions a submission must hold
    states-*.ckpt, *-best.ckpt, log.txt, ...   s3prl's, in `lr-X/` where several learning rates are tried
    training.json         beside them: hours so far, and whether it has ended
    upstream.yaml         -g for s3prl, where --precision is given
    position.pt           during training: what goes on from the checkpoints as if nothing had happened
    results.json          the result
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.experts.abilities import refuse_unknown_splits
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.experiment_files import TEST_UTTERANCES
from s3prl_melhubert.downstream_recipes.outputs import write_labels
from s3prl_melhubert.downstream_recipes.predictions import sha256_of_predictions
from s3prl_melhubert.downstream_recipes.report.results import (
    RESULTS,
    Result,
    not_superbs,
    read_result,
    versions,
    write_result,
)
from s3prl_melhubert.downstream_recipes.running import second_test
from s3prl_melhubert.downstream_recipes.running.checkpoints import refuse_changed, weights_digest
from s3prl_melhubert.downstream_recipes.running.identity import Identity, sha256_of_file
from s3prl_melhubert.downstream_recipes.running.layers import LayerTest
from s3prl_melhubert.downstream_recipes.running.options import RunOptions, folder_of_rate
from s3prl_melhubert.downstream_recipes.running.settings import (
    FREE,
    S3PRL_ARGUMENTS,
    SAVING,
    check_above_zero,
    differences,
    overridden,
    places_of_paths,
    refuse_overwritten,
    refuse_set_twice,
    refuse_states_that_change,
    refuse_untested,
    with_override,
    with_steps,
)
from s3prl_melhubert.downstream_recipes.running.training import Training
from s3prl_melhubert.downstream_recipes.running.upstream_check import (
    check_upstream,
    count_layers,
    with_precision,
)
from s3prl_melhubert.downstream_recipes.s3prl_files import check_passable
from s3prl_melhubert.downstream_recipes.task import C, Preparation, SecondTesting, Task
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.devices import resolve_device
from s3prl_melhubert.support.files import write_text
from s3prl_melhubert.support.locks import only_writer, refuse_other_writers
from s3prl_melhubert.support.progress import from_here, say
from s3prl_melhubert.support.writable import check_free, check_writable


@dataclass(frozen=True)
class Checked(Generic[C]):
    """What was looked at, as the stages after it need it."""

    corpus: C
    settings: dict[str, Any]  # with the paths of the corpus
    for_s3prl: RunOptions  # the user's, with the upstream's settings as s3prl gets them
    precision: str | None  # of the upstream, if it is a MelHuBERT
    statistics: str | None = None  # likewise: the digest of those for log-Mel


class Experiment(Generic[C]):
    """One upstream, one task, one or more learning rates.

    Args:
        task: one of SUPERB's, or a part of one.
        options: the user's.

    Raises:
        MelHuBERTError: an option cannot be.
    """

    def __init__(self, task: Task[C], options: RunOptions):
        self.task, self.options = task, options
        self.folder = options.expdir.expanduser().absolute()
        check_passable(self.folder, f"-p {self.folder}")
        if options.steps is not None and options.steps < 1:
            raise MelHuBERTError(f"--steps {options.steps}: expected at least 1")
        if not task.trained and (options.steps is not None or options.rates):
            raise MelHuBERTError(f"{task.key}: nothing is trained, so that there are no --steps and no --lr")
        self.has_other_paths = False  # whether its checkpoints say that something was elsewhere
        self.superb = task.superb_settings()
        settings = self.superb if options.steps is None else with_steps(self.superb, options.steps)
        self.settings, self.arguments = with_override(settings, options.override)
        self.overridden = overridden(self.settings, options.override)
        refuse_set_twice(task, options, self.overridden)
        for name in () if task.trained else ("upstream_feature_selection", "upstream_layer_selection"):
            if self.arguments[name] != S3PRL_ARGUMENTS[name]:
                raise MelHuBERTError(f"-o args.{name}: {task.key} tests every layer by itself")
        if options.keep_states:
            refuse_states_that_change(task, self.arguments)
        self.rates: tuple[float, ...] = options.rates
        if task.trained and not self.rates:
            self.rates = (self._rate_of_settings(),)
        self.identity = Identity(self.folder, task, options, self.rates)
        self.checked: Checked[C] | None = None

    def _rate_of_settings(self) -> float:
        """Return the learning rate of the settings; raise MelHuBERTError where it is none."""
        rate = self.settings["optimizer"].get("lr")
        check_above_zero("optimizer.lr", rate)
        return rate

    def run(self) -> None:
        """Do what is left to do of the experiment, and say what it found.

        Raises:
            MelHuBERTError: something is missing, cannot be used, or failed.
        """
        check_writable(self.folder)
        with only_writer(self.folder):
            self._run()

    def check(self) -> None:
        """Look at all that is needed for what is left to do, and keep it for `run`.

        Raises:
            MelHuBERTError: something is missing or cannot be used.
        """
        check_writable(self.folder)
        with only_writer(self.folder):
            self.identity.refuse_another()
            if not self._ended or self.identity.moved_for_certain or self._second_test_is_left():
                self._checked()

    def _run(self) -> None:
        self.identity.refuse_another()
        if self._has_ended():
            return

        checked = self._checked()
        if self.options.stage == "check":
            self._say_that_nothing_is_missing(checked)
            return
        trainings = self._trainings(checked)
        self._remember(trainings)
        if self.options.stage == "test":
            for training in trainings:
                training.must_have_ended()
                if (self.folder / RESULTS).is_file():  # otherwise, a test that was cut off goes on
                    training.forget_tests()
        else:
            self._train(trainings)
        if self.options.stage != "train":
            result = self._test(trainings, checked)
            result = second_test.carried_over(self.folder, result, self.second_testing)
            write_result(self.folder, result)  # first, so that a second test that fails loses nothing
            if self.second_testing is not None:
                result = self._test_again(result, trainings, self.second_testing)
            say(f"{result.in_words(self.task.part is not None)}\n{from_here(self.folder / RESULTS)}: written")

    def _test_again(self, result: Result, trainings: Sequence[Training], testing: SecondTesting) -> Result:
        """Do the second test, and write its score into the result."""
        refuse_changed(self.folder / result.tested_checkpoint, result.tested_weights_sha256)
        result = second_test.with_second_score(self.folder, result, trainings, testing)
        write_result(self.folder, result)
        return result

    @cached_property
    def second_testing(self) -> SecondTesting | None:
        """What the second test needs that the user asks for; None without one.

        Raises:
            MelHuBERTError: one of its files cannot be used.
        """
        return second_test.asked_for(self.task, self.options.task_options)

    def _second_test_is_left(self) -> bool:
        """Whether an experiment that has ended lacks the second test that is asked for now."""
        return self.second_testing is not None and second_test.is_left(
            read_result(self.folder), self.second_testing
        )

    def _trainings(self, checked: Checked[C]) -> list[Training]:
        """One for each learning rate; where nothing is trained, one for each layer."""
        device = self._device()
        if not self.task.trained:
            return [
                LayerTest(
                    self.task,
                    checked.for_s3prl,
                    device=device,
                    settings=checked.settings,
                    folder=self.folder / f"layer-{layer}",
                    shared=self.folder,
                    layer=layer,
                )
                for layer in range(count_layers(checked.for_s3prl))
            ]
        trainings = []
        for rate in self.rates:
            folder = self.folder / folder_of_rate(rate) if len(self.rates) > 1 else self.folder
            settings = deepcopy(checked.settings)
            settings["optimizer"]["lr"] = rate
            trainings.append(
                Training(
                    self.task,
                    checked.for_s3prl,
                    device=device,
                    settings=settings,
                    folder=folder,
                    shared=self.folder,
                )
            )
        refuse_other_writers(each.folder for each in trainings)  # such as s3prl's own program
        about = self.arguments, places_of_paths(self.superb)
        found = [each.refuse_checkpoints_of_another(*about) for each in trainings]
        self.has_other_paths = any(found)
        return trainings

    def _train(self, trainings: Sequence[Training]) -> None:
        """Train in one pass for all learning rates; with s3prl's own program what that cannot do.

        Where nothing is trained, score all layers on the dev split, which is one pass, too.
        """
        finder.install()
        from s3prl_melhubert.downstream_recipes.running.one_pass import layers, runs

        tests = [training for training in trainings if isinstance(training, LayerTest)]
        if tests:
            layers.score_on_dev(tests)
        elif not runs.train(trainings, self.folder):
            for training in trainings:
                training.run()

    def _device(self) -> str:
        return str(resolve_device(self.options.device))

    # -- the stages -------------------------------------------------------------------------------------

    def _checked(self) -> Checked[C]:
        # An experiment that has ended comes here for what it lacks alone, and asks for no space otherwise.
        check_free(self.folder, self.task.disk)
        if self.checked is None:
            self.checked = self._check()
        return self.checked

    def _check(self) -> Checked[C]:
        self._device()
        if self.task.trained and self.options.stage != "test":
            every = self.task.tests_every_checkpoint
            refuse_untested(
                self.settings["runner"], [] if every else self.superb["runner"]["eval_dataloaders"]
            )
        _ = self.second_testing  # says now whether its files can be used
        corpus = self._checked_corpus()
        for_s3prl = with_precision(self.options, self.folder)
        upstream = check_upstream(for_s3prl, self.arguments)
        say(upstream.in_words(self.options.upstream))
        write_text(self.folder / TEST_UTTERANCES, "".join(f"{name}\n" for name in corpus.test_utterances))
        settings = deepcopy(self.settings)
        preparation = Preparation(corpus, self.folder, self.options.task_options, self.options.workers)
        self.task.fill_in(settings, preparation)
        refuse_overwritten(self.task, settings, self.overridden)
        if self.task.trained:
            refuse_unknown_splits(self.task.downstream, settings)
        if self.task.outputs is not None:
            write_labels(self.folder, self.task.outputs, settings)
        return Checked(corpus, settings, for_s3prl, upstream.precision, upstream.statistics)

    def _checked_corpus(self) -> C:
        """Return the corpus if it is whole, and the one that the experiment was begun on."""
        corpus = self.task.check(self.options.task_options)
        for line in corpus.summary:
            say(line)
        self.identity.refuse_another_corpus(corpus.content)
        return corpus

    def _test(self, trainings: Sequence[Training], checked: Checked[C]) -> Result:
        finder.install()
        from s3prl_melhubert.downstream_recipes.running.one_pass.choice import choose

        started = time.time()
        chosen = choose(trainings)
        training, test = chosen.training, chosen.test
        predictions = training.folder / self.task.predictions[0].name
        task, options, corpus = self.task, self.options, checked.corpus
        notes = [] if task.note is None else [task.note]
        if not task.tests_every_checkpoint and chosen.dev is None:
            notes.append(
                "s3prl found no checkpoint better than the worst dev score; tested the last one, "
                f"{test.checkpoint.name}"
            )
        return Result(
            task=task.key,
            metric=task.metric.name,
            value=test.score,
            dev=chosen.dev,
            test_split=task.test_name,
            upstream=options.upstream,
            checkpoint=options.upstream_ckpt,
            checkpoint_sha256=sha256_of_file(options.checkpoint_file),
            upstream_config=options.upstream_model_config,
            learning_rate=training.rate,
            layer=training.layer,
            differences=self._differences(checked),
            search=chosen.search if len(chosen.search) > 1 else [],
            layer_weights=test.layer_weights,
            upstream_config_sha256=sha256_of_file(options.upstream_model_config),
            statistics_sha256=checked.statistics,
            precision=checked.precision,
            tested_checkpoint=self._relative(test.checkpoint),
            tested_weights_sha256=weights_digest(test.checkpoint),
            predictions=self._relative(predictions),
            predictions_sha256=sha256_of_predictions(predictions, task.predictions, corpus.test_utterances),
            test_utterances=len(corpus.test_utterances),
            corpus=corpus.path,
            lexicon=corpus.lexicon,
            hours={
                "train": round(sum(t.hours() for t in trainings), 6),
                "test": round((time.time() - started) / 3600, 6),
            },
            steps=int(checked.settings["runner"].get("total_steps", 0)),
            device=self._device(),
            versions=versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            notes=notes,
            further=test.further,
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _say_that_nothing_is_missing(self, checked: Checked[C]) -> None:
        say("\n".join([f"{self.task.key}: nothing is missing", *not_superbs(self._differences(checked))]))

    def _differences(self, checked: Checked[C]) -> list[Difference]:
        # Where every saved checkpoint is tested, a result depends on which ones are saved.
        free = [name for name in FREE if not (self.task.tests_every_checkpoint and name in SAVING)]
        found = differences(self.superb, checked.settings, self.arguments, free)
        if checked.precision == "bf16":
            found.append(Difference("precision of the upstream", "fp32", "bf16"))
        if self.options.keep_states:
            found.append(Difference("hidden states in training", "of each batch", "of each utterance alone"))
        return [*found, *checked.corpus.differences]

    @property
    def _ended(self) -> bool:
        return self.options.stage is None and (self.folder / RESULTS).is_file()

    def _has_ended(self) -> bool:
        """Whether there is nothing left to do; the result is shown then.

        Where the folder, the corpus or the upstream has another place now, its files are told so first; and
        where a second test is asked for that it does not have, that is done.
        """
        if not self._ended:
            return False
        result, left = read_result(self.folder), self._second_test_is_left()
        moved = self.identity.moved_for_certain
        if left or moved:
            checked = self._checked()
            if moved:
                self._move(checked)
            if left and self.second_testing is not None:
                result = self._test_again(result, self._trainings(checked), self.second_testing)
        say(result.in_words(self.task.part is not None))
        say(f"{from_here(self.folder / RESULTS)}: this experiment has ended")
        return True

    def _move(self, checked: Checked[C]) -> None:
        """Tell s3prl's files of an ended experiment where everything is now."""
        self._remember(self._trainings(checked))

    def _remember(self, trainings: Sequence[Training] = ()) -> None:
        """Write what the experiment is; where something was moved, s3prl's checkpoints are told first."""
        if self.identity.moved or self.has_other_paths:
            for training in trainings:
                training.move(places_of_paths(self.superb))
            if self.identity.moved_for_certain:
                here = from_here(self.folder)
                say(f"{here}: was moved, or what it is of; its checkpoints have the new paths")
        self.identity.write()
