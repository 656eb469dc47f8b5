"""What two halves of one run must have in common, which every checkpoint notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.pretrain.data.clusters import content_digests, former_content_digest, labels_digest
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.rows.size import step_in_words
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.made_from import Change, changes

STEPS = "steps of the schedule"
VALIDATION = "content of the validation data"  # what `run_identity` calls it
# What earlier versions noted of data, which depends on where audio lies, and the name of what replaces it.
FORMER = {
    "content of the training data": "some utterances of the training data",
    "validation data": VALIDATION,
}


def run_identity(
    config: MelHuBERTConfig,
    settings: Settings,
    dataset: PretrainingDataset,
    seed: int,
    processes: int,
    stats: FeatureStats | None = None,
    valid: PretrainingDataset | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """What two halves of one run must have in common, under the names that an error calls it.

    The number of GPUs and workers, the precision and what is written when may change. So may the number of
    steps, unless the learning rate depends on it, and the data to validate on, of which a line is said.

    Args:
        config: the model's settings.
        settings: of the run.
        dataset: to train on.
        seed: of the run.
        processes: how many train together.
        stats: what the features were normalized with; None if nobody knows, which is not compared.
        valid: to validate on; None without any, which is not compared.
        steps: of the whole run; None where something else compares them.

    Raises:
        MelHuBERTError: files of the data cannot be used.
    """
    datarc = settings.datarc
    parts = settings.runner.gradient_accumulate_steps * processes
    data = dataset.sets, dataset.utterances
    identity = {
        **{f"model {name}": value for name, value in config.own_mapping().items()},
        "optimizer": {"name": settings.optimizer.name, **settings.optimizer.arguments},
        "scheduler": asdict(settings.scheduler),
        "gradient_clipping": settings.runner.gradient_clipping,
        "sequence_length": datarc.sequence_length,
        "seed": seed,
        "batch of a step": step_in_words(datarc, parts),
        "training data": dataset.utterances.names_and_lengths,
        **{f"{name} of the training data": value for name, value in content_digests(*data).items()},
        "content of the training data": former_content_digest(*data),
        "clusters of the labels": labels_digest(dataset.sets),
    }
    if steps is not None and settings.scheduler.depends_on_length:
        identity[STEPS] = steps
    if stats is not None:
        identity["statistics of the training data"] = stats.digest()[:12]
    if valid is not None:
        data, what = (valid.sets, valid.utterances), valid.utterances.names_and_lengths
        identity[VALIDATION] = ", ".join([what, *content_digests(*data).values()])
        identity["validation data"] = f"{what}, {former_content_digest(*data)}"
    return identity


def identity_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What two halves of one run do not have in common, of what both of them note by `run_identity`."""
    compared = {name: value for name, value in before.items() if FORMER.get(name) not in before}
    return changes(compared, now, absent_is_same=True)
