"""What an experiment writes at its end: the score, what it was reached with, and what is not SUPERB's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.prediction_files import sha256_of_predictions
from s3prl_melhubert.downstream_recipes.report.results import Result, versions
from s3prl_melhubert.downstream_recipes.running.digests import sha256_of_file
from s3prl_melhubert.downstream_recipes.running.experiments.asked import Asked
from s3prl_melhubert.downstream_recipes.running.experiments.checked import Checked
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.settings import FREE, SAVING, differences
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import weights_digest
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.task import Task


def tested(
    task: Task[Any],
    options: RunOptions,
    asked: Asked,
    checked: Checked[Any],
    trainings: Sequence[Training],
    folder: Path,
) -> Result:
    """Test the training that counts, and return the result.

    Args:
        task: one of SUPERB's, or a part of one.
        options: the user's.
        asked: the settings before the corpus's paths were filled in.
        checked: the corpus, the upstream, and the settings as s3prl had them.
        trainings: of all learning rates.
        folder: of the experiment.

    Raises:
        MelHuBERTError: there is nothing to test, or it failed.
    """
    finder.install()
    from s3prl_melhubert.downstream_recipes.running.one_pass.choice import choose

    started = time.time()
    chosen = choose(trainings)
    training, test, corpus = chosen.training, chosen.test, checked.corpus
    predictions = training.folder / task.predictions[0].name
    notes = [] if task.note is None else [task.note]
    if not task.tests_every_checkpoint and chosen.dev is None:
        notes.append(
            "s3prl found no checkpoint better than the worst dev score; tested the last one, "
            f"{test.checkpoint.name}"
        )
    if training.left_out_batches():
        notes.append(
            "training left out batches for which the GPU had too little memory; log.txt tells at which steps"
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
        differences=differences_from_superb(task, options, asked, checked),
        search=chosen.search if len(chosen.search) > 1 else [],
        layer_weights=test.layer_weights,
        upstream_config_sha256=sha256_of_file(options.upstream_model_config),
        statistics_sha256=checked.statistics,
        precision=checked.precision,
        tested_checkpoint=test.checkpoint.relative_to(folder).as_posix(),
        tested_weights_sha256=weights_digest(test.checkpoint),
        predictions=predictions.relative_to(folder).as_posix(),
        predictions_sha256=sha256_of_predictions(predictions, task.predictions, corpus.test_utterances),
        test_utterances=len(corpus.test_utterances),
        corpus=corpus.path,
        lexicon=corpus.lexicon,
        hours={
            "train": round(sum(each.hours() for each in trainings), 6),
            "test": round((time.time() - started) / 3600, 6),
        },
        steps=int(checked.settings["runner"].get("total_steps", 0)),
        device=training.device,
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=notes,
        further=test.further,
    )


def differences_from_superb(
    task: Task[Any], options: RunOptions, asked: Asked, checked: Checked[Any]
) -> list[Difference]:
    """List what of an experiment is not as SUPERB has it: settings, precision, kept states, the corpus."""
    # Where every saved checkpoint is tested, a result depends on which ones are saved.
    free = [name for name in FREE if not (task.tests_every_checkpoint and name in SAVING)]
    found = differences(asked.superb, checked.settings, asked.arguments, free)
    if checked.precision == "bf16":
        found.append(Difference("precision of the upstream", "fp32", "bf16"))
    if options.keep_states:
        found.append(Difference("hidden states in training", "of each batch", "of each utterance alone"))
    return [*found, *checked.corpus.differences]
