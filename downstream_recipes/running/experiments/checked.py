"""The look at what an experiment needs, before anything is trained: the corpus and the upstream."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from s3prl_melhubert.compat.experts.abilities import refuse_unknown_splits
from s3prl_melhubert.downstream_recipes.experiment_files import TEST_UTTERANCES
from s3prl_melhubert.downstream_recipes.outputs import write_labels
from s3prl_melhubert.downstream_recipes.running.experiments.asked import Asked
from s3prl_melhubert.downstream_recipes.running.experiments.identity import Identity
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.settings import refuse_overwritten
from s3prl_melhubert.downstream_recipes.running.upstream_check import check_upstream, with_precision
from s3prl_melhubert.downstream_recipes.task import C, Preparation, Task
from s3prl_melhubert.support.files import write_text
from s3prl_melhubert.support.progress import say


@dataclass(frozen=True)
class Checked(Generic[C]):
    """What was looked at, as the stages after it need it."""

    corpus: C
    settings: dict[str, Any]  # with the paths of the corpus
    for_s3prl: RunOptions  # the user's, with the upstream's settings as s3prl gets them
    precision: str | None  # of the upstream, if it is a MelHuBERT
    statistics: str | None = None  # likewise: the digest of those for log-Mel


def check_corpus(task: Task[C], options: RunOptions, identity: Identity) -> C:
    """Return the corpus if it is whole, and the one that the experiment was begun on.

    Raises:
        MelHuBERTError: it has faults, or it is another one.
    """
    corpus = task.check(options.task_options)
    for line in corpus.summary:
        say(line)
    identity.refuse_another_corpus(corpus.content)
    return corpus


def check(task: Task[C], options: RunOptions, asked: Asked, identity: Identity, folder: Path) -> Checked[C]:
    """Look at the corpus and the upstream; write into the experiment's folder what s3prl needs of both.

    Raises:
        MelHuBERTError: something is missing or cannot be used.
    """
    corpus = check_corpus(task, options, identity)
    for_s3prl = with_precision(options, folder)
    upstream = check_upstream(for_s3prl, asked.arguments)
    say(upstream.in_words(options.upstream))
    write_text(folder / TEST_UTTERANCES, "".join(f"{name}\n" for name in corpus.test_utterances))
    settings = deepcopy(asked.settings)
    task.fill_in(settings, Preparation(corpus, folder, options.task_options, options.workers))
    refuse_overwritten(task, settings, asked.overridden)
    if task.trained:
        refuse_unknown_splits(task.downstream, settings)
    if task.outputs is not None:
        write_labels(folder, task.outputs, settings)
    return Checked(corpus, settings, for_s3prl, upstream.precision, upstream.statistics)
