"""A model without the heads and the MLP's rows that count least, by the published scores.

A head counts by the sum of the absolute values of its rows of q, k and v and their biases; a row of the MLP
by that of its row of fc1, its bias and its column of fc2. They are compared within a layer, and every layer
keeps the same number: the model stays regular, so that its settings are two numbers, all its layers take the
same time, and what it will cost is known before it is made. (The sums of different layers are hardly
comparable: they grow with the scale of a layer's weights, which its LayerNorms undo.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_melhubert import __version__
from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.compression.stored import ORIGIN, dense_config, sizes_of
from s3prl_melhubert.config import LayerSizes, MelHuBERTConfig, layer_sizes
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.units.quantizer import MODEL


@dataclass(frozen=True)
class Target:
    """What every layer is to keep."""

    heads: int | None = None  # None keeps all
    rows: int | None = None

    def check(self, config: MelHuBERTConfig, where: str) -> None:
        """Raise a MelHuBERTError if a layer has fewer, or if nothing would be removed."""
        sizes = layer_sizes(config)
        for option, wanted, found in (
            ("--heads", self.heads, [each.heads for each in sizes]),
            ("--ffn", self.rows, [each.rows for each in sizes]),
        ):
            what = "heads" if option == "--heads" else "rows"
            if wanted is None:
                continue
            if wanted < 1:
                raise MelHuBERTError(
                    f"{option} {wanted}: expected at least 1, because a layer without {what} does nothing; "
                    "for fewer layers, train a shallower model"
                )
            fewest = min(found)
            if fewest < wanted:
                layer = found.index(fewest) + 1
                alike = "" if len(set(found)) == 1 else " (its layers are pruned unevenly)"
                raise MelHuBERTError(
                    f"{option} {wanted}: layer {layer} of {where} has {fewest} {what}{alike}; give at most "
                    f"{fewest}"
                )
        if all(self.kept(each) == each for each in sizes):
            raise MelHuBERTError(
                f"{where}: has no more heads and rows than are to be kept; give fewer with --heads or --ffn"
            )

    def kept(self, sizes: LayerSizes) -> LayerSizes:
        """What a layer keeps of what it has."""
        heads = sizes.heads if self.heads is None else min(sizes.heads, self.heads)
        rows = sizes.rows if self.rows is None else min(sizes.rows, self.rows)
        return LayerSizes(heads, sizes.head_width, rows)

    def __str__(self) -> str:
        amounts = {"heads": self.heads, "rows": self.rows}
        return " and ".join(f"{count} {what}" for what, count in amounts.items() if count is not None)

    def stage(self, config: MelHuBERTConfig, number: int, stages: int) -> Target:
        """What every layer keeps at most after a stage of several, the last of which is this target."""
        sizes = layer_sizes(config)

        def part(most: int, least: int | None) -> int | None:
            return None if least is None else most - round((most - least) * number / stages)

        return Target(
            part(max(each.heads for each in sizes), self.heads),
            part(max(each.rows for each in sizes), self.rows),
        )


def head_scores(state: Mapping[str, Tensor], layer: int, heads: int) -> Tensor:
    """(H,) float64: how much each head of a layer counts."""
    total = torch.zeros(heads, dtype=torch.float64)
    for name in ("q_proj", "k_proj", "v_proj"):
        for part in ("weight", "bias"):
            tensor = state[f"encoder.layers.{layer}.self_attn.{name}.{part}"]
            total += tensor.double().abs().reshape(heads, -1).sum(1)
    return total


def row_scores(state: Mapping[str, Tensor], layer: int) -> Tensor:
    """(rows,) float64: how much each row of a layer's MLP counts."""
    prefix = f"encoder.layers.{layer}."
    weight, bias, out = (state[f"{prefix}{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    return weight.double().abs().sum(1) + bias.double().abs() + out.double().abs().sum(0)


def prune(checkpoint: Checkpoint, target: Target) -> Checkpoint:
    """The checkpoint of the smaller model, with everything else as it was but the state of the optimizer.

    A layer that has fewer heads or rows than the target says keeps what it has. A quantizer of hidden states
    that are others now is left out.

    Raises:
        MelHuBERTError: the weights do not fit their settings.
    """
    checkpoint.checked_shapes()
    config = checkpoint.config
    state = {name: tensor.detach().clone() for name, tensor in checkpoint.state.items()}
    kept = [target.kept(sizes) for sizes in layer_sizes(config)]
    for layer, (before, after) in enumerate(zip(layer_sizes(config), kept, strict=True)):
        prefix = f"encoder.layers.{layer}."
        if after.heads < before.heads:
            heads = _largest(head_scores(state, layer, before.heads), after.heads)
            columns = (heads[:, None] * before.head_width + torch.arange(before.head_width)).flatten()
            _keep(state, f"{prefix}self_attn.", ("q_proj", "k_proj", "v_proj"), "out_proj", columns)
        if after.rows < before.rows:
            _keep(state, prefix, ("fc1",), "fc2", _largest(row_scores(state, layer), after.rows))
    smaller = dataclasses.replace(
        config,
        encoder_attention_heads=tuple(sizes.heads for sizes in kept),
        encoder_ffn_embed_dim=tuple(sizes.rows for sizes in kept),
        encoder_head_dim=kept[0].head_width,
    )
    rest = {key: value for key, value in checkpoint.rest.items() if key != "Optimizer"}
    quantizer = checkpoint.quantizer
    if quantizer is not None and quantizer.source == MODEL:
        below = slice(quantizer.layer)  # the layers of which the hidden states that it numbers are made
        quantizer = quantizer if kept[below] == list(layer_sizes(config))[below] else None
    return dataclasses.replace(checkpoint, config=smaller, state=state, rest=rest, quantizer=quantizer)


def _largest(scores: Tensor, count: int) -> Tensor:
    """Indices of the largest scores, in ascending order; of equal ones, the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _keep(state: dict[str, Tensor], prefix: str, inner: tuple[str, ...], outer: str, kept: Tensor) -> None:
    """Keep some rows of the linear layers into the inner width, and the same columns of the one out of it."""
    for name in inner:
        for part in ("weight", "bias"):
            state[f"{prefix}{name}.{part}"] = state[f"{prefix}{name}.{part}"][kept].contiguous()
    state[f"{prefix}{outer}.weight"] = state[f"{prefix}{outer}.weight"][:, kept].contiguous()


def origin(source: Checkpoint, target: Target, **training: object) -> dict[str, object]:
    """What the file of the smaller model says about its making, under `ORIGIN`.

    Args:
        source: the checkpoint that it was made of.
        target: what every layer kept.
        training: what it was trained on, and how long.
    """
    told = dense_config(source.config, source.rest, str(source.path)) if ORIGIN in source.rest else None
    what = " and ".join(["heads"] * (target.heads is not None) + ["rows"] * (target.rows is not None))
    before = source.rest.get(ORIGIN)
    return {
        "how": f"{what} of the smallest L1 norms removed",
        "dense": sizes_of(told or source.config),
        "from": {
            "weights_sha256": source.weights_digest(),
            "step": source.step,
            "sizes": sizes_of(source.config),
        },
        **({} if before is None else {"before": before}),
        **training,
        "made_by": f"s3prl-melhubert {__version__}",
    }
