"""The optimizer, the learning rate over the steps, and one step that is exact whatever it is cut into."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.dataset import Batch
from s3prl_melhubert.pretrain.metrics import Sums
from s3prl_melhubert.pretrain.settings import OptimizerSettings, SchedulerSettings, number


def build_optimizer(parameters: Iterable[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """An optimizer of torch.optim by its name.

    Raises:
        MelHuBERTError: no such optimizer, or arguments that it refuses.
    """
    classes = {
        name: value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and name != "Optimizer"
    }
    if settings.name not in classes or settings.name in UNFIT:
        close = get_close_matches(settings.name, set(classes) - set(UNFIT), n=1)
        reason = UNFIT.get(settings.name, f"did you mean {close[0]}?" if close else "not in torch.optim")
        raise MelHuBERTError(f"optimizer.name: {settings.name!r} found ({reason})")
    if "lr" not in settings.arguments:
        raise MelHuBERTError("optimizer: no lr (learning rate) given")
    cls = classes[settings.name]
    known = [name for name in inspect.signature(cls).parameters if name != "params"]
    arguments: dict[str, Any] = {}
    for name, value in settings.arguments.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known)}"
            raise MelHuBERTError(f"optimizer: {settings.name} takes no {name} ({hint})")
        value = tuple(value) if isinstance(value, list) else value
        arguments[name] = number(f"optimizer.{name}", value) if isinstance(value, str) else value
    try:
        return cls(list(parameters), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise MelHuBERTError(f"optimizer: {settings.name} refuses its arguments ({message})") from None


# What cannot work here, and why.
UNFIT = {
    "LBFGS": "it needs several losses of one batch",
    "SparseAdam": "it needs sparse gradients",
    "Muon": "it takes matrices only",
}


class LearningRate:
    """The learning rate of each step: a function of the step alone, so that there is no state to lose.

    Rises linearly over the warm-up steps, reaching `lr` with the last of them; then stays (constant), or
    falls to 0, which the step after the last one would have (linear, cosine).
    """

    def __init__(self, settings: SchedulerSettings, total_steps: int):
        if settings.warmup_steps >= total_steps:
            raise MelHuBERTError(
                f"scheduler.warmup_steps: {settings.warmup_steps} found, expected fewer than the run's "
                f"{total_steps} steps"
            )
        self.settings = settings
        self.total_steps = total_steps

    def factor(self, step: int) -> float:
        """What `lr` is multiplied with at a step, counted from 0."""
        warmup = self.settings.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / (self.total_steps - warmup))
        if self.settings.name == "linear":
            return 1 - progress
        if self.settings.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rate of a step; return it."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(step)
        return float(optimizer.param_groups[0]["lr"])


def remember_initial_rates(optimizer: torch.optim.Optimizer) -> None:
    """Note the settings' rates in the groups, where `LearningRate` looks for them."""
    for group in optimizer.param_groups:
        group["initial_lr"] = float(group["lr"])


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any, where: str) -> None:
    """Take the moments of a checkpoint's optimizer; rates, betas and decay stay as configured.

    Raises:
        MelHuBERTError: no state at all, that of another optimizer, or of another model.
    """
    if not isinstance(state, Mapping):
        raise MelHuBERTError(f"{where}: holds no state of an optimizer")
    groups = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        optimizer.load_state_dict(dict(state))
        for parameter in parameters:
            for name, value in optimizer.state[parameter].items():
                if isinstance(value, Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                    )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise MelHuBERTError(
            f"{where}: its optimizer's state does not fit this model's {type(optimizer).__name__} ({message})"
        ) from None
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)


def accumulate_gradients(
    model: MelHuBERT,
    batches: Iterable[Batch],
    masked_frames: int,
    unmasked_frames: int,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> Sums:
    """Add up the gradient of this process's share of a step, micro-batch after micro-batch.

    The loss of the step is one mean over all its masked frames (and one over its unmasked frames, if they
    have a weight), wherever they are: each micro-batch brings the sum over its own frames, divided by the
    number of all. So the gradient is that of the large batch, and not that of a mean of means, in which a
    frame of a short utterance would count more.

    Args:
        model: in training mode; its parameters' `.grad` is added to.
        batches: the micro-batches, on the model's device.
        masked_frames, unmasked_frames: of the whole step, over all micro-batches and processes.
        autocast: opens the precision of the forward pass.
        backward: runs a loss's backward pass (and scales it, for fp16).

    Returns:
        What the log wants to know of these batches.
    """
    config = model.config
    masked_weight = 0.0 if config.skip_masked else config.pred_masked_weight / max(1, masked_frames)
    unmasked_weight = 0.0 if config.skip_nomask else config.pred_nomask_weight / max(1, unmasked_frames)
    sums = Sums()
    for batch in batches:
        with autocast():
            output = model(batch.features, batch.padding_mask, batch.mask)
            prediction = model.prediction_loss(
                output.last_hidden_state, batch.labels, batch.mask, batch.padding_mask
            )
        loss = masked_weight * prediction.masked_loss + unmasked_weight * prediction.unmasked_loss
        backward(loss)
        sums += Sums.of(prediction)
    return sums


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all processes; nothing to do for a single one.

    By hand and after the last micro-batch, where DistributedDataParallel would average during it: the
    gradient is a sum (see `accumulate_gradients`), and a process that runs out of memory can then start
    its share again while the others wait.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:  # a layer that this process dropped, and another one may not have
            parameter.grad = torch.zeros_like(parameter)
    # In pieces, so that the copies do not take a second gradient's memory.
    for first in range(0, len(parameters), GRADIENTS_AT_ONCE):
        some = parameters[first : first + GRADIENTS_AT_ONCE]
        gradients = [parameter.grad for parameter in some if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


GRADIENTS_AT_ONCE = 32  # tensors: two layers of the base model, 57 MB
