"""What the user asks of an experiment: the arguments of `melhubert superb TASK`, typed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s3prl_melhubert.compat.experiments.relative_paths import NO_FILES
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import full_path_of_file
from s3prl_melhubert.support.settings import LARGEST_SMALL_SEED, check_seed

Stage = Literal["check", "train", "test"]

SEED = 1337  # s3prl's default
SWEEP = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # the range in which SUPERB looks for the learning rate, by decades


def read_rates(text: str) -> tuple[float, ...]:
    """`1e-3,5e-4` as numbers; `sweep` as SUPERB's range.

    Raises:
        MelHuBERTError: they are no numbers above zero, or one of them is there twice.
    """
    if text == "sweep":
        return SWEEP
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise MelHuBERTError(f"{text!r}: expected different numbers above zero, as in 1e-3,5e-4, or sweep")
    refuse_same_folder(rates)
    return rates


def folder_of_rate(rate: float) -> str:
    """The name of a learning rate's folder, where an experiment has several."""
    return f"lr-{rate:g}"


def refuse_same_folder(rates: Sequence[float]) -> None:
    """Raise MelHuBERTError where two learning rates would write to one folder."""
    first: dict[str, float] = {}
    for rate in rates:
        name = folder_of_rate(rate)
        if name in first:
            raise MelHuBERTError(
                f"learning rates {first[name]} and {rate}: agree to six digits, and would share {name}/; "
                "give one of them"
            )
        first[name] = rate


def check_workers(workers: int) -> None:
    """Raise MelHuBERTError where there cannot be so many processes."""
    if workers < 0:
        raise MelHuBERTError(f"--workers {workers}: expected 0 (no process but the command's own) or more")


def default_workers() -> int:
    """How many processes read audio where the user does not say: four at most, and one core is left free."""
    return min(4, max(1, (os.cpu_count() or 1) - 1))


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One experiment: one upstream, one task, one or more learning rates.

    Attributes:
        upstream: s3prl's name of it (`-u`).
        expdir: the experiment's folder (`-p`).
        task_options: the values of the task's own arguments, such as where its corpus is.
        upstream_ckpt: the upstream's checkpoint (`-k`), where it takes one; a file, a URL or an id.
        upstream_model_config: the upstream's settings (`-g`).
        stage: what alone is to be done; None for all that is left to do.
        device: None for CUDA where there is a GPU, otherwise the CPU.
        seed: of s3prl.
        workers: processes that read audio.
        rates: learning rates; none for SUPERB's.
        precision: of the frozen MelHuBERT: fp32 or bf16; None for what its settings say.
        keep_states: whether each utterance's hidden states are computed once and kept in memory.
        steps: of training; None for SUPERB's number.
        override: changes of s3prl's settings, in the syntax of its `-o`.

    Raises:
        MelHuBERTError: a number is out of its range.
    """

    upstream: str
    expdir: Path
    task_options: TaskOptions
    upstream_ckpt: str | None = None
    upstream_model_config: str | None = None
    stage: Stage | None = None
    device: str | None = None
    seed: int = SEED
    workers: int = field(default_factory=default_workers)
    rates: tuple[float, ...] = ()
    precision: str | None = None
    keep_states: bool = False
    steps: int | None = None
    override: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed, LARGEST_SMALL_SEED)
        check_workers(self.workers)
        refuse_same_folder(self.rates)

    @property
    def checkpoint_file(self) -> str | None:
        """What `-k` names, where it may be a file or a folder; None of an upstream that looks elsewhere."""
        return None if self.upstream in NO_FILES else self.upstream_ckpt

    @property
    def checkpoint_place(self) -> str | None:
        """The same with the full path of a file; a repository, a URL or an id as it is."""
        return self.upstream_ckpt if self.checkpoint_file is None else full_path_of_file(self.checkpoint_file)

    @property
    def settings_place(self) -> str | None:
        """The full path of the upstream's settings."""
        return self.upstream_model_config and full_path_of_file(self.upstream_model_config)
