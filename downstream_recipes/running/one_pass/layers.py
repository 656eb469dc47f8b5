"""Scoring of an upstream's layers in a task where nothing is trained: one pass over the audio for all.

s3prl tests one layer at a time, each in a pass of its own. Here the upstream runs once, and each layer's
expert keeps its features on the disk; then each layer is scored by itself. Killed in the pass, it goes on
with the next audio file; killed in the scoring, it goes on where the expert can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from shutil import disk_usage
from typing import Protocol, cast

from s3prl_melhubert.downstream_recipes.running.one_pass.evaluation import hear
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate, Rates
from s3prl_melhubert.downstream_recipes.running.one_pass.runs import Start, build, logs_of
from s3prl_melhubert.downstream_recipes.running.one_pass.start import read_arguments, write_arguments
from s3prl_melhubert.downstream_recipes.running.trainings.layer_test import DEV, LayerTest
from s3prl_melhubert.downstream_recipes.running.trainings.training import Test
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.memory import size_text
from s3prl_melhubert.support.progress import from_here, say

SPARE = 0.05  # of the disk's free space, which stays free


class KeepingExpert(Protocol):
    """What one of s3prl's experts can do here besides what s3prl's loop asks of it."""

    def prepare(self, split: str) -> tuple[int, int]:
        """Look for what was kept before.

        Returns:
            The number of audio files of which it was, and the bytes that the others need.
        """

    def go_on_from(self, first: int) -> None:
        """Let the next data loader begin with this audio file; what is kept already is passed over."""

    def forget(self) -> None:
        """Remove what was kept."""


def score_on_dev(tests: Sequence[LayerTest]) -> None:
    """Score all layers on the dev split but those that were scored before.

    Raises:
        MelHuBERTError: something failed, or the disk has no space for the features of a layer.
    """
    left = [test for test in tests if not test.ended]
    if not left:
        return
    key, metric = left[0].task.key, left[0].task.metric
    layers = ", ".join(str(test.layer) for test in left)
    logs = left[0].folder.parent / "layer-*" / left[0].log.name
    say(f"{key}: testing layers {layers} on {DEV} in one pass; logs: {from_here(logs)}")

    def done(test: LayerTest, score: float, seconds: float) -> None:
        say(f"{key} {metric.name} of layer {test.layer} on {DEV}: {metric.written(score)}")
        test.keep_dev_score(score, seconds)

    _score(left, DEV, done)


def score_on_test(test: LayerTest) -> Test:
    """Score one layer on the test split.

    Raises:
        MelHuBERTError: something failed, or the disk has no space for the features of a layer.
    """
    say(f"{test.task.key}: testing layer {test.layer} on {test.task.test_name}")
    scores: list[float] = []
    _score([test], test.task.test_split, lambda _, score, seconds: scores.append(score))
    return Test(scores[0], test.folder, [])


def _score(tests: Sequence[LayerTest], split: str, done: Callable[[LayerTest, float, float], None]) -> None:
    """Score layers on a split; tell of each its score and the seconds that it took."""
    with logs_of(tests) as logs:
        starts = []
        for test, log in zip(tests, logs, strict=True):
            test.folder_of(split).mkdir(exist_ok=True)
            arguments = test.evaluation_arguments(split)
            log.note("as by run_downstream.py", *arguments)
            with log.redirected():
                args, config, files = read_arguments(arguments)
            write_arguments(args, config, files)
            starts.append(Start(args, config, files, {}))
        rates = build(starts, logs)
        for group in _groups(rates, split):
            started = time.time()
            batches = hear(group, split)
            share = (time.time() - started) / len(group)
            for rate in group:
                started = time.time()
                with rate.log.redirected():
                    rate.write_records(split, 0, batches)
                test = tests[rates.index(rate)]
                score = test.score([], split, test.folder_of(split))
                # This comes before the score is noted, because nobody looks for the features of a layer that
                # is done. Where a kill comes between the two, the layer is computed again.
                _expert(rate).forget()
                done(test, score, share + time.time() - started)


def _groups(rates: Rates, split: str) -> Iterator[Rates]:
    """The layers whose features the disk has space for at once: all of them, where it can be.

    Raises:
        MelHuBERTError: it has none for a single one.
    """
    left = list(rates)
    while left:
        prepared = [_expert(rate).prepare(split) for rate in left]
        place = left[0].folder
        free = int(disk_usage(place).free * (1 - SPARE))
        number, needed = 0, 0
        while number < len(left) and needed + prepared[number][1] <= free:
            needed += prepared[number][1]
            number += 1
        if not number:
            raise MelHuBERTError(
                f"{place}: {size_text(free)} free on this disk, {size_text(prepared[0][1])} are needed for "
                "the features of a layer; make room, and give the same command again"
            )
        if number < len(left):
            needed_by_all = size_text(sum(size for _, size in prepared))
            say(
                f"{size_text(free)} free on the disk, {needed_by_all} are needed for the features of "
                f"{len(left)} layers; goes on with {number}",
            )
        first = min(kept for kept, _ in prepared[:number])
        for rate in left[:number]:
            _expert(rate).go_on_from(first)
        yield Rates(left[:number], rates.device)
        left = left[number:]


def _expert(rate: Rate) -> KeepingExpert:
    return cast(KeepingExpert, rate.downstream)
