"""What the user asks of an experiment: the arguments of `melhubert superb TASK`, typed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.errors import MelHuBERTError

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
    if not rates or not min(rates) > 0 or len(set(rates)) < len(rates):
        raise MelHuBERTError(f"{text!r}: expected different numbers above zero, as in 1e-3,5e-4, or sweep")
    return rates


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


def full_path_of_file(path: str) -> str:
    """A file's full path; what is no file (a URL, a Google Drive id) stays as it is."""
    file = Path(path).expanduser()
    return str(file.absolute()) if file.exists() else path
