"""Training and testing of an experiment's learning rates in one pass."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tensorboardX import SummaryWriter

from s3prl_melhubert.downstream_recipes.running.one_pass.evaluation import evaluate
from s3prl_melhubert.downstream_recipes.running.one_pass.generators import Generators, seed_everything
from s3prl_melhubert.downstream_recipes.running.one_pass.loop import NotEnoughMemory, OnePass
from s3prl_melhubert.downstream_recipes.running.one_pass.position import Position
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Models, Rate, Rates
from s3prl_melhubert.downstream_recipes.running.one_pass.start import (
    fits,
    prepare_libraries,
    read_arguments,
    write_arguments,
)
from s3prl_melhubert.downstream_recipes.running.s3prl_run import Log, failures_in_a_line, without_traps
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import (
    POSITION,
    layer_weights,
    read_checkpoint,
    saved_steps,
)
from s3prl_melhubert.downstream_recipes.running.trainings.training import Test, Training
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.files import atomic_path, read_json, write_json
from s3prl_melhubert.support.progress import say

GROUPS = "groups.json"  # the learning rates that fit into memory together, where not all do


@dataclass(frozen=True)
class Start:
    """What s3prl's program would have read before it builds the models of one learning rate."""

    args: Any
    config: dict[str, Any]
    files: Sequence[str]  # of which s3prl keeps a copy
    states: dict[str, Any]  # a checkpoint's content; empty for new weights


def train(trainings: Sequence[Training], folder: Path) -> bool:
    """Train all learning rates, from their start or from where they were cut off.

    Args:
        trainings: one for each rate.
        folder: of the experiment; it holds the position.

    Returns:
        False where s3prl's own program has to do it: a trainable upstream, several processes, or checkpoints
        that were saved without a position. Nothing was done then.

    Raises:
        MelHuBERTError: something failed.
    """
    place = folder / POSITION
    saved = any(training.ended or saved_steps(training.folder) for training in trainings)
    if saved and not place.is_file() and not all(training.ended for training in trainings):
        return False
    groups = _groups(trainings, folder)
    while groups:
        group, *groups = groups
        try:
            if not all(training.ended for training in group) and not _train_group(group, folder):
                return False
        except NotEnoughMemory:
            halves = [group[: len(group) // 2], group[len(group) // 2 :]]
            _give_position(group, halves, folder)
            groups = [*halves, *groups]
            ended = [[training] for training in trainings if training.ended]
            _write_groups([*ended, *groups], folder)
            say(
                f"{group[0].task.key}: not enough memory for {len(group)} learning rates at once; goes on "
                f"with {len(halves[0])}, then {len(halves[1])}",
            )
        gc.collect()  # what an error holds, before the next group needs the memory
        torch.cuda.empty_cache()
    for path in (place, folder / GROUPS, *(training.folder / POSITION for training in trainings)):
        path.unlink(missing_ok=True)
    return True


def _train_group(trainings: Sequence[Training], folder: Path) -> bool:
    """Train some rates in one pass; return False, having done nothing, where s3prl's own program has to.

    Raises:
        NotEnoughMemory: the device's memory does not hold them all.
    """
    rates: list[float] = [training.settings["optimizer"]["lr"] for training in trainings]
    place = _place(trainings, folder)
    position = Position.read(place, rates)
    if position is None:  # as older versions left the groups that had not begun
        position = Position.read(folder / POSITION, rates)
    with logs_of(trainings) as logs:
        step = position.step if position else 0
        starts = [_start(t, log, step) for t, log in zip(trainings, logs, strict=True)]
        if not all(fits(start.args) for start in starts):
            return False
        for training in trainings:
            states = training.folder / f"states-{step}.ckpt" if step else None
            training.begin(states, share=1 / len(trainings))
        for start, log in zip(starts, logs, strict=True):
            log.note("as by run_downstream.py:", str(vars(start.args)))
            write_arguments(start.args, start.config, start.files)
        rates_together = build(starts, logs, trainings[0].options.keep_states)
        OnePass(rates_together, place, position).train(trainings[0].task.key)
    for training in trainings:
        training.end()
    return True


def _place(trainings: Sequence[Training], folder: Path) -> Path:
    """The file of the position of some rates: a group's is in the folder of the first of them."""
    return (trainings[0].folder if (folder / GROUPS).is_file() else folder) / POSITION


def _give_position(group: Sequence[Training], halves: Sequence[Sequence[Training]], folder: Path) -> None:
    """Give each half of a group the group's position, which the halves replace as they go on.

    The whole experiment's is of no use to them: it may be of an earlier step, whose checkpoints are gone.
    """
    place = _place(group, folder)
    # Older versions left a group that had not begun without one.
    position = (place if place.is_file() else folder / POSITION).read_bytes()
    for half in halves:
        with atomic_path(half[0].folder / POSITION) as temporary:
            temporary.write_bytes(position)


def _groups(trainings: Sequence[Training], folder: Path) -> list[list[Training]]:
    """The rates that are trained together: all, or those that memory allowed before a kill."""
    path = folder / GROUPS
    if not path.is_file():
        return [list(trainings)]
    by_rate = {training.rate: training for training in trainings}
    remedy = "remove it, and give the same command again"
    groups = read_json(path, remedy)
    try:
        return [[by_rate[rate] for rate in group] for group in groups]
    except (KeyError, TypeError):
        raise MelHuBERTError(f"{path}: {shown(groups)}, expected lists of rates; {remedy}") from None


def _write_groups(groups: Sequence[Sequence[Training]], folder: Path) -> None:
    rates = [[training.rate for training in group] for group in groups]
    write_json(folder / GROUPS, rates)


def test(trainings: Sequence[Training]) -> list[Test] | None:
    """Score each learning rate's best checkpoint on the test split, all in one pass over it.

    Returns:
        The outcome of each; None where the checkpoints hold upstreams of their own, for s3prl's own program.

    Raises:
        MelHuBERTError: there is nothing to test, or it failed.
    """
    task = trainings[0].task
    checkpoints = [training.checkpoint_to_test() for training in trainings]
    contents = [read_checkpoint(checkpoint) for checkpoint in checkpoints]
    if any("Upstream" in content for content in contents):
        return None
    for training, checkpoint in zip(trainings, checkpoints, strict=True):
        say(f"{task.key}: testing {training.named(checkpoint)} on {task.test_name}")
    with logs_of(trainings) as logs, TemporaryDirectory() as unused:
        starts = []
        for training, checkpoint, content, log in zip(trainings, checkpoints, contents, logs, strict=True):
            with log.redirected():
                args, config, files = read_arguments(training.test_arguments(checkpoint))
            write_arguments(args, config, files)
            starts.append(Start(args, config, files, content))
        rates = build(starts, logs)
        for rate in rates:
            rate.writer = SummaryWriter(unused)
        evaluate(rates, task.test_split)
        for rate in rates:
            rate.end()
        lines = [log.lines() for log in logs]
    return [
        Test(training.score(said), checkpoint, layer_weights(content), training.further_scores(said))
        for training, said, checkpoint, content in zip(trainings, lines, checkpoints, contents, strict=True)
    ]


@contextmanager
def logs_of(trainings: Sequence[Training]) -> Iterator[list[Log]]:
    """Open every rate's log; s3prl's traps are out of the way, and what fails is said in a line."""
    first = trainings[0]
    with ExitStack() as stack:
        logs = [stack.enter_context(Log(training.log)) for training in trainings]
        stack.enter_context(logs[0].chatter_redirected())
        stack.enter_context(failures_in_a_line(f"s3prl's {first.task.downstream}", logs[0]))
        stack.enter_context(without_traps(first.task.replacements(first.shared)))
        yield logs


def _start(training: Training, log: Log, step: int) -> Start:
    """Read a rate's arguments and settings, and its checkpoint of that step.

    Raises:
        MelHuBERTError: the checkpoint is gone.
    """
    with log.redirected():
        args, config, files = read_arguments(training.start_arguments())
    states: dict[str, Any] = {}
    if step:
        path = training.folder / f"states-{step}.ckpt"
        if not path.is_file():
            raise MelHuBERTError(
                f"{path}: not found, from which training would go on; remove the folder to train anew"
            )
        states = read_checkpoint(path)
    return Start(args, config, files, states)


def build(starts: Sequence[Start], logs: Sequence[Log], keep_states: bool = False) -> Rates:
    """Build one upstream, and each rate's models with the random numbers that s3prl would draw for them.

    Args:
        starts: one for each rate.
        logs: theirs.
        keep_states: whether an utterance's hidden states are kept for the next time.
    """
    first = starts[0].args
    prepare_libraries(first)
    seed_everything(first.seed)
    device = torch.device(first.device)
    rates: list[Rate] = []
    upstream, drawn = None, None
    for start, log in zip(starts, logs, strict=True):
        if drawn is not None:
            drawn.put_back(device)
        with log.redirected():
            if upstream is None:
                upstream = Models.upstream_of(start.args)
                drawn = Generators.now(device)
            models = Models(start.args, start.config, upstream, start.states)
        rates.append(Rate(models, log, alone=len(starts) == 1))
    return Rates(rates, device, keep_states)
