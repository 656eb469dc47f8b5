"""What several programs train: the loss of a batch, and a whole training step."""

from __future__ import annotations

import torch
from torch import Tensor

from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.optimization import build_optimizer
from s3prl_melhubert.pretrain.training.settings import OptimizerSettings


def batch_loss(model: MelHuBERT, features: Tensor, labels: Tensor, mask: Tensor, bf16: bool) -> Tensor:
    """The loss over masked frames, in float32 or in bfloat16 by autocast."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=bf16):
        last = model(features, mask=mask).last_hidden_state
        return model.prediction_loss(last, labels, mask).loss


def adam(model: MelHuBERT, lr: float) -> torch.optim.Optimizer:
    """Adam as `melhubert pretrain` makes it."""
    return build_optimizer(model.parameters(), OptimizerSettings("Adam", {"lr": lr}))


def train_step(
    model: MelHuBERT,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    mask: Tensor,
    bf16: bool,
) -> Tensor:
    """Forward, backward, clipping, the optimizer's step; returns the loss."""
    loss = batch_loss(model, features, labels, mask, bf16)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss
