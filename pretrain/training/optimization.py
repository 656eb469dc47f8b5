"""The optimizer, the learning rate over the steps, and a gradient that is exact however a step is cut."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.loss import LossWeights, PredictionLoss
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.dataset import Batch
from s3prl_melhubert.pretrain.training.settings import (
    SCHEDULES,
    OptimizerSettings,
    RunnerSettings,
    SchedulerSettings,
)


def build_optimizer(parameters: Iterable[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Make the optimizer of torch.optim that the settings name.

    Raises:
        MelHuBERTError: there is no such optimizer, or it refuses its arguments.
    """
    parameters, given = list(parameters), settings.arguments.keys()
    fused = {}
    if (
        settings.cls in (torch.optim.Adam, torch.optim.AdamW)
        and {parameter.device.type for parameter in parameters} in ({"cpu"}, {"cuda"})
        and not {"fused", "foreach", "capturable", "differentiable"} & given
    ):
        # One pass over the memory: a quarter of the time on a CPU, and a few kernels on a GPU.
        fused["fused"] = True
    optimizer = settings.make(parameters, **fused)
    try:
        # Some arguments are looked at when the first step is taken, and some of them depend on the device.
        _states_after_a_step(optimizer, [torch.Size([2]), torch.Size([2, 2])], parameters[0].device)
    except Exception as error:  # each class has kinds of its own
        raise MelHuBERTError(f"{settings.name} refuses its arguments ({said(error)})") from None
    return optimizer


def _states_after_a_step(
    optimizer: torch.optim.Optimizer, shapes: Iterable[torch.Size], device: torch.device
) -> dict[torch.Size, dict[str, Any]]:
    """What another optimizer of this class and these arguments keeps of parameters of some shapes."""
    cls: Any = type(optimizer)
    known = inspect.signature(cls).parameters
    arguments = {name: value for name, value in optimizer.defaults.items() if name in known}
    parameters = {shape: torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    other = cls(list(parameters.values()), **arguments)
    other.step()
    return {shape: _kept(other, parameter) for shape, parameter in parameters.items()}


def _kept(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """An optimizer's state of a parameter; some versions of torch hold None for what they do not keep."""
    return {name: value for name, value in optimizer.state[parameter].items() if value is not None}


class LearningRate:
    """The learning rate of each step, which is a function of the step alone and has no state to lose.

    It rises linearly over the warm-up steps and reaches `lr` with the last of them. Then it follows the
    settings' schedule (`SCHEDULES`): it stays there (constant), or falls to the 0 that the step after the
    last one would have (linear, cosine).

    Raises:
        MelHuBERTError: the warm-up is as long as the run or longer.
    """

    def __init__(self, settings: SchedulerSettings, total_steps: int):
        settings.refuse_long_warmup(total_steps)
        self.settings = settings
        self.total_steps = total_steps

    def factor(self, step: int) -> float:
        """The factor of `lr` at a step, counted from 0."""
        warmup = self.settings.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / (self.total_steps - warmup))
        return SCHEDULES[self.settings.name](done)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the learning rate of a step, and return it."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(step)
        return float(optimizer.param_groups[0]["lr"])


def remember_initial_rates(optimizer: torch.optim.Optimizer) -> None:
    """Note the settings' learning rates in the parameter groups, where `LearningRate` looks for them."""
    for group in optimizer.param_groups:
        group["initial_lr"] = float(group["lr"])


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Any, where: str, *, required: bool = False
) -> None:
    """Take the moments of a checkpoint's optimizer. Learning rates, betas and decay stay as configured.

    Args:
        optimizer: the optimizer of this run, whose state is replaced.
        state: the checkpoint's `Optimizer`.
        where: what an error calls the checkpoint.
        required: whether there must be moments where this optimizer keeps any. A run that goes on may have
            none, because all its steps were skipped.

    Raises:
        MelHuBERTError: there is no state, or it is that of another optimizer or of another model.
    """
    if not isinstance(state, Mapping):
        raise MelHuBERTError(f"{where}: holds no state of an optimizer")
    groups = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        state = dict(state)
        # The settings stay this run's. They also say where the moments belong, as a fused optimizer has them
        # in another place.
        pairs = zip(state["param_groups"], groups, strict=True)
        state["param_groups"] = [{**saved, **own} for saved, own in pairs]
        optimizer.load_state_dict(state)
        _check_state(optimizer, parameters, required)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        kind = type(optimizer).__name__
        raise MelHuBERTError(
            f"{where}: its optimizer's state does not fit this model's {kind} ({said(error)})"
        ) from None


def _check_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], required: bool) -> None:
    """Raise a ValueError unless the state is such as this optimizer keeps.

    A parameter without a state is one that no step has changed yet. If all are, it may not be `required`.
    """
    fresh: dict[torch.Size, dict[str, Any]] = {}
    if required and not any(_kept(optimizer, parameter) for parameter in parameters):
        shape = parameters[0].shape
        kept = _states_after_a_step(optimizer, [shape], parameters[0].device)[shape]
        if kept:
            raise ValueError(f"nothing of a parameter found, and it keeps {', '.join(kept)}")
    for parameter in parameters:
        state = _kept(optimizer, parameter)
        if not state:
            continue
        if parameter.shape not in fresh:
            fresh |= _states_after_a_step(optimizer, [parameter.shape], parameter.device)
        expected = fresh[parameter.shape]
        if not expected or not expected.keys() <= state.keys():
            raise ValueError(
                f"{', '.join(state)} found, and it keeps {', '.join(expected) or 'nothing of a parameter'}"
            )
        for name, value in expected.items():
            found, wanted = (tuple(getattr(each, "shape", ())) for each in (state[name], value))
            if found != wanted:
                raise ValueError(
                    f"{name} of shape {found} found, expected {wanted} for a parameter of "
                    f"{tuple(parameter.shape)}"
                )


def compile_encoder(model: MelHuBERT, settings: RunnerSettings) -> None:
    """Have torch.compile make the encoder faster, and CUDA graphs of it, if section `runner` says so.

    Raises:
        MelHuBERTError: CUDA graphs with LayerDrop, which is another encoder each time.
    """
    if not settings.cuda_graphs:
        if settings.compile:
            model.encoder.compile()
        return
    if model.config.encoder_layerdrop > 0:
        raise MelHuBERTError(
            f"cuda_graphs: the model has encoder_layerdrop {model.config.encoder_layerdrop}, and a graph "
            "runs the same layers each time; expected 0, or cuda_graphs: False"
        )
    # A graph writes its gradients to the same memory each time, so they are added to gradients beside it,
    # which the optimizer sets to zero and does not throw away.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # The shapes of a validation differ; to record each of them would take memory and time.
    model.encoder.compile(options={"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True})


def accumulate_gradients(
    model: MelHuBERT,
    batches: Iterable[Batch],
    masked_frames: int,
    unmasked_frames: int,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> PredictionLoss:
    """Add up the gradient of this process's share of a step, micro-batch after micro-batch.

    The loss of the step is one mean over all its masked frames (and one over its unmasked frames, if they
    have a weight), wherever they are. Each micro-batch brings the sum over its own frames, divided by the
    number of all of them. So the gradient is that of the large batch, and not that of a mean of means, in
    which a frame of a short utterance would count more.

    Args:
        model: in training mode; its parameters' `.grad` is added to.
        batches: the micro-batches, on the model's device.
        masked_frames, unmasked_frames: of the whole step, over all micro-batches and processes.
        autocast: opens the precision of the forward pass.
        backward: runs a loss's backward pass (and scales it, for fp16).

    Returns:
        The loss over these batches, without its gradient, for the log.
    """
    total = PredictionLoss.zero(LossWeights.of(model.config))
    for batch in batches:
        with autocast():
            prediction = batch.loss(model)
        backward(prediction.share_of(masked_frames, unmasked_frames))
        total += prediction.detach()
    return total
