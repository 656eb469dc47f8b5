"""The settings that the user asks for: SUPERB's, with `--steps` and `-o`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.settings import (
    S3PRL_ARGUMENTS,
    check_above_zero,
    overridden,
    refuse_optimizer,
    refuse_set_twice,
    refuse_states_that_change,
    refuse_untested,
    with_override,
    with_steps,
)
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.errors import MelHuBERTError


@dataclass(frozen=True)
class Asked:
    """What s3prl is to do, before the corpus's paths are filled in.

    Attributes:
        superb: SUPERB's settings of the task.
        settings: these, as the user changes them.
        arguments: s3prl's on which a result depends, those of `settings.S3PRL_ARGUMENTS`.
        overridden: the settings that `-o` has set, by their places.
        rates: the learning rates; none where nothing is trained.
    """

    superb: dict[str, Any]
    settings: dict[str, Any]
    arguments: dict[str, Any]
    overridden: dict[str, Any]
    rates: tuple[float, ...]

    @classmethod
    def of(cls, task: Task[Any], options: RunOptions) -> Asked:
        """Change a task's settings as its user asks.

        Args:
            task: one of SUPERB's, or a part of one.
            options: the user's.

        Raises:
            MelHuBERTError: an option cannot be.
        """
        if options.steps is not None and options.steps < 1:
            raise MelHuBERTError(f"--steps {options.steps}: expected at least 1")
        if not task.trained and (options.steps is not None or options.rates):
            raise MelHuBERTError(f"{task.key}: nothing is trained, so that there are no --steps and no --lr")
        superb = task.superb_settings()
        settings = superb if options.steps is None else with_steps(superb, options.steps)
        settings, arguments = with_override(settings, options.override)
        set_by_user = overridden(settings, options.override)
        refuse_set_twice(task, options, set_by_user)
        for name in () if task.trained else ("upstream_feature_selection", "upstream_layer_selection"):
            if arguments[name] != S3PRL_ARGUMENTS[name]:
                raise MelHuBERTError(f"-o args.{name}: {task.key} tests every layer by itself")
        if options.keep_states:
            refuse_states_that_change(task, arguments)
        rates = options.rates
        if task.trained and not rates:
            rate = settings["optimizer"].get("lr")
            check_above_zero("optimizer.lr", rate)
            rates = (rate,)
        return cls(superb, settings, arguments, set_by_user, rates)

    def refuse_untested(self, task: Task[Any]) -> None:
        """Raise MelHuBERTError where a training of the task cannot be, or would leave nothing to test."""
        every = task.tests_every_checkpoint
        refuse_untested(self.settings["runner"], [] if every else self.superb["runner"]["eval_dataloaders"])
        refuse_optimizer(self.settings)
