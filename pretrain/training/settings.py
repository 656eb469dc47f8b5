"""The runner's YAML file: the published keys and a few more; any other key is an error.

    runner:     {n_epochs, total_steps, gradient_clipping, gradient_accumulate_steps, log_step, ...}
    optimizer:  {name, lr, and whatever that class of torch.optim takes}
    scheduler:  {name, warmup_steps}
    datarc:     {sets, train_batch_size, sequence_length, max_timestep, num_workers, ...}

Published files load as they are.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.errors import MelHuBERTError, said, shown
from s3prl_melhubert.support.devices import check_precision
from s3prl_melhubert.support.files import full_path
from s3prl_melhubert.support.settings import (
    errors_of,
    nearest,
    number,
    read_section,
    read_yaml_mapping,
    refuse_unknown,
    require,
    typed,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

SECTIONS = ("runner", "optimizer", "scheduler", "datarc")
LEARNING_RATE = 1e-4  # of an optimizer whose settings name none
CROPS = {10: 1500, 20: 750}  # frames of a crop of 15 s, by the frame period in ms
# The factor of `lr` after the warm-up, by the share of the steps that are done: from 0 to almost 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}
# Optimizers that cannot work here, and why they cannot.
UNFIT = {
    "LBFGS": "it needs several losses of one batch",
    "SparseAdam": "it needs sparse gradients",
    "Muon": "it takes matrices only",
}


@dataclass(frozen=True)
class RunnerSettings:
    """Section `runner`: how long to train, and what to write when."""

    n_epochs: int = 200  # passes over the data; -1: as many as total_steps need
    total_steps: int = -1  # optimizer steps; -1: as many as n_epochs need. Both: the first to be reached
    gradient_clipping: float = 10.0  # largest norm of the gradient; 0 clips nothing
    gradient_accumulate_steps: int = 8  # micro-batches of an optimizer step (on each GPU)
    log_step: int = 1000  # steps between two lines of log.csv
    save_step: int = -1  # steps between two step-N.ckpt; -1: only the epochs count
    save_every_x_epochs: int = 50  # epochs between two epoch-N.ckpt; -1: only the steps count
    save_minutes: float = 15.0  # minutes after which last.ckpt is written in any case; 0: never
    max_keep: int = -1  # numbered checkpoints to keep; -1 keeps all. last.ckpt is always there
    valid_step: int = -1  # steps between two validations; -1: with each numbered checkpoint and at the end
    precision: str = "fp32"  # of matrix products: fp32, bf16 or fp16; parameters are always float32
    gradient_sum: str = "fp32"  # in what several processes add their gradients; bf16: half as much to send
    compile: bool = False  # compile the encoder (torch.compile): slow to start, faster afterwards
    cuda_graphs: bool = False  # of what was compiled: start its kernels all at once
    max_skipped_steps: int = 25  # steps in a row whose gradient is not finite, after which the run gives up

    def __post_init__(self):
        check_precision(self.precision, "precision")
        require(self, "gradient_sum", self.gradient_sum in ("fp32", "bf16"), "fp32 or bf16")
        for name in ("gradient_accumulate_steps", "log_step", "max_skipped_steps"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("save_step", "save_every_x_epochs", "max_keep", "valid_step", "n_epochs", "total_steps"):
            require(self, name, getattr(self, name) >= 1 or getattr(self, name) == -1, "at least 1, or -1")
        require(self, "save_minutes", self.save_minutes >= 0, "at least 0")
        require(
            self, "cuda_graphs", self.compile or not self.cuda_graphs, "False, or compile: True beside it"
        )
        require(self, "gradient_clipping", self.gradient_clipping >= 0, "at least 0")
        require(
            self,
            "n_epochs",
            self.n_epochs > 0 or self.total_steps > 0,
            "a number of epochs, or total_steps a number of steps",
        )

    def steps(self, steps_per_epoch: int) -> int:
        """The optimizer steps of the run: those of its epochs or its total, and of two the fewer."""
        limits = [self.n_epochs * steps_per_epoch] * (self.n_epochs > 0)
        return min(limits + [self.total_steps] * (self.total_steps > 0))


@dataclass(frozen=True)
class OptimizerSettings:
    """Section `optimizer`: a class of torch.optim and its arguments."""

    name: str = "Adam"
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"lr": LEARNING_RATE})

    def __post_init__(self):
        self._refuse_what_fails_at_a_step()

    def make(self, parameters: Iterable[Tensor], **more: Any) -> Optimizer:
        """The optimizer, with arguments beside those of the settings.

        Raises:
            MelHuBERTError: there is no such optimizer, it has no such argument, or it refuses a value.
        """
        cls, arguments = self.cls, self._arguments()
        try:
            return cls(parameters, **{**arguments, **more})
        except Exception as error:  # each class has kinds of its own
            raise MelHuBERTError(f"{self.name} refuses its arguments ({said(error)})") from None

    @property
    def cls(self) -> Any:
        """The class of torch.optim."""
        import torch

        classes = {
            name: value
            for name, value in vars(torch.optim).items()
            if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and name != "Optimizer"
        }
        if self.name not in classes or self.name in UNFIT:
            hint = UNFIT.get(self.name) or nearest(self.name, set(classes) - set(UNFIT))
            raise MelHuBERTError(f"name: {shown(self.name)} found ({hint})")
        return classes[self.name]

    def _arguments(self) -> dict[str, Any]:
        """The arguments as the class takes them, whose defaults say what is to be a number, or several."""
        known = dict(inspect.signature(self.cls).parameters)
        del known["params"]
        read: dict[str, Any] = {}
        for name, value in self.arguments.items():
            if name not in known:
                raise MelHuBERTError(f"{self.name} takes no {name} ({nearest(str(name), known)})")
            read[name] = _argument(name, value, known[name].default)
        return read

    def _refuse_what_fails_at_a_step(self) -> None:
        """Raise a MelHuBERTError for values that torch takes, and with which a few steps do not descend.

        Such is an eps of 0, by which an optimizer divides where all gradients were 0, and `maximize: True`.
        """
        import torch

        parameter = torch.nn.Parameter(torch.zeros(2, 2))
        # Whether a GPU can capture the steps is another question, and no GPU is asked before the run has one.
        optimizer = self.make([parameter], **{"capturable": False} if "capturable" in self.arguments else {})
        try:
            for gradient in (*[0.0] * 6, 1.0):  # RAdam divides from the sixth on
                parameter.grad = torch.full_like(parameter, gradient)
                optimizer.step()
        except Exception as error:
            raise MelHuBERTError(f"{self.name} refuses its arguments ({said(error)})") from None
        fault = None
        if not parameter.isfinite().all():
            fault = "gradients of 0 and 1 give parameters that are not finite"
        elif optimizer.param_groups[0]["lr"] > 0 and not (parameter < 0).all():
            fault = "a gradient above 0 does not lower a parameter, so that the loss would not fall"
        if fault is not None:
            values = ", ".join(f"{name}: {shown(value)}" for name, value in self.arguments.items())
            raise MelHuBERTError(
                f"{self.name} with {values}: {fault}; leave out all but lr for torch's values"
            )


def _argument(name: str, value: Any, default: Any) -> Any:
    """An optimizer's argument, with finite numbers; YAML gives lists for tuples, and 1e-4 as a string.

    Raises:
        MelHuBERTError: the default is a number, or several, and the value is not.
    """
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise MelHuBERTError(f"{name}: {shown(value)} found, expected {len(default)} numbers")
        # Where the default has None, torch chooses.
        return tuple(None if item is None else number(name, item) for item in value)
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    return number(name, value) if is_number or isinstance(value, str | float) else value


@dataclass(frozen=True)
class SchedulerSettings:
    """Section `scheduler`: the learning rate over the steps, from 0 up to `lr` and down again."""

    name: str = "constant"  # or linear, cosine: down to 0 at the last step
    warmup_steps: int = 0  # steps to rise linearly from 0

    def __post_init__(self):
        require(self, "name", self.name in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        require(self, "warmup_steps", self.warmup_steps >= 0, "at least 0")

    def refuse_long_warmup(self, steps: int) -> None:
        """Raise a MelHuBERTError if the warm-up is as long as a run of so many steps, or longer."""
        require(self, "warmup_steps", self.warmup_steps < steps, f"fewer than the run's {steps} steps")

    @property
    def depends_on_length(self) -> bool:
        """Whether the learning rate of a step depends on how many steps there are."""
        return self.name != "constant"


@dataclass(frozen=True)
class DataSettings:
    """Section `datarc`: what to train on, and how batches are made of it."""

    sets: tuple[str, ...] = ()  # prepared folders, or CSV files in the published layout
    valid_sets: tuple[str, ...] = ()  # the same, to validate on
    train_batch_size: int = 4  # utterances of a micro-batch
    max_frames: int = -1  # or: frames of a micro-batch, padding included, instead of a number of utterances
    # Or: frames of a step on all GPUs, padding not included; gradient_accumulate_steps then follows from it.
    frames_per_batch: int = -1
    # Frames (of the model's period) of a random crop; -1 takes whole utterances. A file of a 10 ms model that
    # leaves it out has 1500 (`Settings.of_period`).
    sequence_length: int = CROPS[20]
    max_timestep: int = -320  # 10 ms frames: N keeps utterances of at most N, -N those of more than N, 0 all
    rows: bool | str = False  # crops end to end in rows of sequence_length frames; auto: on a GPU
    num_workers: int = 8  # processes that read
    feature_stats: str | None = None  # statistics of a published CSV: a published name, or a .yaml or .npy

    def __post_init__(self):
        require(self, "train_batch_size", self.train_batch_size >= 1, "at least 1")
        require(self, "num_workers", self.num_workers >= 0, "at least 0")
        require(self, "rows", self.rows in (True, False, "auto"), "True, False or auto")
        if self.rows is True:
            require(self, "sequence_length", self.sequence_length > 0, "a number of frames, as rows have it")
        for name in ("max_frames", "frames_per_batch", "sequence_length"):
            require(self, name, getattr(self, name) >= 1 or getattr(self, name) == -1, "at least 1, or -1")

    def absolute(self) -> DataSettings:
        """The same settings with absolute paths, so that the run may be continued in another folder."""
        stats = self.feature_stats
        if stats is not None and Path(stats).expanduser().is_file():  # and not a published name
            stats = full_path(stats)
        sets, valid_sets = (tuple(map(full_path, paths)) for paths in (self.sets, self.valid_sets))
        return dataclasses.replace(self, sets=sets, valid_sets=valid_sets, feature_stats=stats)


# What may be another on each machine: where data lies, and how it is read and computed with.
OF_A_MACHINE = ("sets", "valid_sets", "feature_stats", "num_workers", "compile", "cuda_graphs")


@dataclass(frozen=True)
class Settings:
    """The settings of a runner YAML file."""

    runner: RunnerSettings
    optimizer: OptimizerSettings
    scheduler: SchedulerSettings
    datarc: DataSettings
    source: str = field(default="runner settings", compare=False)  # what errors call the file
    crops_given: bool = field(default=True, compare=False)  # whether the file has a sequence_length

    def __post_init__(self):
        steps = self.runner.total_steps
        if steps > 0:  # The steps of epochs are known when the data is.
            with errors_of(self.where("scheduler")):
                self.scheduler.refuse_long_warmup(steps)
        if self.optimizer.name == "Rprop" and self.scheduler != SchedulerSettings():
            raise MelHuBERTError(
                f"{self.where('scheduler')}: {shown(dataclasses.asdict(self.scheduler))} found, but Rprop "
                "finds a step size for each parameter, of which lr is only the first; leave the section out, "
                "or take another optimizer"
            )
        if not self.learns and steps != 1:
            raise MelHuBERTError(
                f"{self.where('optimizer')}: lr: {shown(self.optimizer.arguments['lr'])} found, with which "
                "nothing is learned; expected a number above zero, or runner.total_steps: 1 for a checkpoint "
                "of the initial weights"
            )

    def of_period(self, frame_period: int, begun_with: int | None = None) -> Settings:
        """The settings for a model, on whose frame period a sequence_length depends that is left out.

        Args:
            frame_period: of the model, in ms.
            begun_with: the sequence_length with which a run was begun that is to go on.
        """
        if self.crops_given:
            return self
        with errors_of(self.where("datarc")):
            frames = (
                CROPS[frame_period] if begun_with is None else typed("sequence_length", begun_with, "int")
            )
        datarc = dataclasses.replace(self.datarc, sequence_length=frames)
        return dataclasses.replace(self, datarc=datarc, crops_given=True)

    @property
    def learns(self) -> bool:
        """Whether the learning rate is above 0."""
        return float(self.optimizer.arguments.get("lr", LEARNING_RATE)) > 0

    def where(self, section: str) -> str:
        """What an error calls a section of these settings."""
        return f"{self.source}, section {section}"

    @classmethod
    def from_yaml(cls, path: str | Path) -> Settings:
        """Read a runner YAML file.

        Raises:
            MelHuBERTError: no such file, or a key or value that cannot be; its message names file and key.
        """
        return cls.from_mapping(read_yaml_mapping(path), str(path))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], where: str) -> Settings:
        """Read the sections that stand in a mapping, which errors call `where`."""
        refuse_unknown(content, SECTIONS, where)
        for name, section in content.items():
            if section is not None and not isinstance(section, Mapping):
                raise MelHuBERTError(f"{where}, section {name}: {shown(section)} found, expected a mapping")
        runner = dict(content.get("runner") or {})
        with errors_of(f"{where}, section runner"):
            fp16 = typed("fp16", runner.pop("fp16", False), "bool")
        if fp16 and runner.setdefault("precision", "fp16") != "fp16":  # s3prl's key
            raise MelHuBERTError(
                f"{where}, section runner: fp16: True and precision: {shown(runner['precision'])} found, "
                "which contradict each other; leave one of them out"
            )
        if runner.get("total_steps", -1) != -1:
            runner.setdefault("n_epochs", -1)  # who asks for steps alone does not want 200 epochs
        optimizer = dict(content.get("optimizer") or {})
        name = optimizer.pop("name", OptimizerSettings.name)
        optimizer.setdefault("lr", LEARNING_RATE)
        datarc = content.get("datarc") or {}
        return cls(
            runner=read_section(RunnerSettings, runner, f"{where}, section runner"),
            optimizer=_read_optimizer(str(name), optimizer, f"{where}, section optimizer"),
            scheduler=read_section(
                SchedulerSettings, content.get("scheduler") or {}, f"{where}, section scheduler"
            ),
            datarc=read_section(DataSettings, datarc, f"{where}, section datarc"),
            source=where,
            crops_given="sequence_length" in datarc,
        )

    def to_mapping(self) -> dict[str, Any]:
        """The sections in plain types, as a YAML file or a checkpoint holds them."""
        datarc = dataclasses.asdict(self.datarc)
        datarc.update(sets=list(self.datarc.sets), valid_sets=list(self.datarc.valid_sets))
        return {
            "runner": dataclasses.asdict(self.runner),
            "optimizer": {"name": self.optimizer.name, **self.optimizer.arguments},
            "scheduler": dataclasses.asdict(self.scheduler),
            "datarc": datarc,
        }

    def in_common(self) -> dict[str, Any]:
        """What all processes of a run must have alike, by its places, such as `runner.precision`."""
        return {
            f"{section}.{name}": value
            for section, content in self.to_mapping().items()
            for name, value in content.items()
            if name not in OF_A_MACHINE
        }


def _read_optimizer(name: str, arguments: Mapping[str, Any], where: str) -> OptimizerSettings:
    """Section `optimizer`, whose errors begin with `where`."""
    with errors_of(where):
        return OptimizerSettings(name, arguments)


def config_folder() -> Path:
    """The folder of the YAML files that the package brings."""
    return Path(__file__).parents[1]


def default_yaml(kind: str, frame_period: int | None) -> Path:
    """The file of the published settings of the `model` or the `runner`, which the package brings."""
    suffix = "_10ms" if frame_period == 10 else ""
    return config_folder() / f"config_{kind}{suffix}.yaml"
