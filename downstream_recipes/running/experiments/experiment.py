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

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.report.results import (
    RESULTS,
    Result,
    not_superbs,
    read_result,
    write_result,
)
from s3prl_melhubert.downstream_recipes.running.experiments import second_test
from s3prl_melhubert.downstream_recipes.running.experiments.asked import Asked
from s3prl_melhubert.downstream_recipes.running.experiments.checked import Checked, check
from s3prl_melhubert.downstream_recipes.running.experiments.identity import Identity
from s3prl_melhubert.downstream_recipes.running.experiments.result import differences_from_superb, tested
from s3prl_melhubert.downstream_recipes.running.options import RunOptions, folder_of_rate
from s3prl_melhubert.downstream_recipes.running.settings import places_of_paths
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import refuse_changed
from s3prl_melhubert.downstream_recipes.running.trainings.layer_test import LayerTest
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.running.upstream_check import count_layers
from s3prl_melhubert.downstream_recipes.s3prl_files import check_passable
from s3prl_melhubert.downstream_recipes.task import C, SecondTesting, Task
from s3prl_melhubert.support.devices import resolve_device
from s3prl_melhubert.support.locks import only_writer, refuse_other_writers
from s3prl_melhubert.support.progress import from_here, say
from s3prl_melhubert.support.writable import check_free, check_writable


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
        self.has_other_paths = False  # whether its checkpoints say that something was elsewhere
        self.asked = Asked.of(task, options)
        self.identity = Identity(self.folder, task, options, self.asked.rates)
        self.checked: Checked[C] | None = None

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
        checked = self._checked_for_the_rest()
        if checked is None:
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
            result = tested(self.task, self.options, self.asked, checked, trainings, self.folder)
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
        if not self.task.trained:
            return [
                LayerTest(
                    self.task,
                    checked.for_s3prl,
                    device=self._device(),
                    settings=checked.settings,
                    folder=self.folder / f"layer-{layer}",
                    shared=self.folder,
                    layer=layer,
                )
                for layer in range(count_layers(checked.for_s3prl))
            ]
        trainings = self._of_rates(self.asked.rates, checked.settings, checked.for_s3prl)
        about = self.asked.arguments, places_of_paths(self.asked.superb)
        found = [each.refuse_checkpoints_of_another(*about) for each in trainings]
        self.has_other_paths = any(found)
        return trainings

    def _folder_of(self, rate: float) -> Path:
        return self.folder / folder_of_rate(rate) if len(self.asked.rates) > 1 else self.folder

    def _of_rates(
        self, rates: Iterable[float], settings: Mapping[str, Any], options: RunOptions
    ) -> list[Training]:
        """A training for each learning rate, in folders in which nobody else is at work."""
        device, trainings = self._device(), []
        for rate in rates:
            of_rate, folder = deepcopy(dict(settings)), self._folder_of(rate)
            of_rate["optimizer"]["lr"] = rate
            trainings.append(
                Training(
                    self.task, options, device=device, settings=of_rate, folder=folder, shared=self.folder
                )
            )
        refuse_other_writers(each.folder for each in trainings)  # such as s3prl's own program
        return trainings

    def _refuse_folder_of_another(self) -> None:
        """Look at the folder's checkpoints before the corpus, at which a look may take minutes.

        Raises:
            MelHuBERTError: they are of another training, as far as can be told without the corpus's paths and
                the upstream's files; or somebody else is at work there.
        """
        if self.task.trained:
            about = self.asked.arguments, places_of_paths(self.asked.superb)
            there = [rate for rate in self.asked.rates if self._folder_of(rate).is_dir()]
            for training in self._of_rates(there, self.asked.settings, self.options):
                training.refuse_checkpoints_of_another(*about, with_files=False)

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

    def _checked_for_the_rest(self) -> Checked[C] | None:
        """Look at what is needed for what is left to do; None where nothing is left, which is said."""
        self.identity.refuse_another()
        if self._has_ended():
            return None
        checked = self._checked()
        if self.options.stage == "check":
            self._say_that_nothing_is_missing(checked)
            return None
        return checked

    def _check(self) -> Checked[C]:
        self._device()
        if self.task.trained and self.options.stage != "test":
            self.asked.refuse_untested(self.task)
        _ = self.second_testing  # says now whether its files can be used
        self._refuse_folder_of_another()
        return check(self.task, self.options, self.asked, self.identity, self.folder)

    def _say_that_nothing_is_missing(self, checked: Checked[C]) -> None:
        found = differences_from_superb(self.task, self.options, self.asked, checked)
        say("\n".join([f"{self.task.key}: nothing is missing", *not_superbs(found)]))

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
                training.move(places_of_paths(self.asked.superb))
            if self.identity.moved_for_certain:
                here = from_here(self.folder)
                say(f"{here}: was moved, or what it is of; its checkpoints have the new paths")
        self.identity.write()
