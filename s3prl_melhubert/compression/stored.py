"""Compressed checkpoints as their authors store them, read into settings and weights of ordinary models.

weight pruning    tensors `X_orig` and `X_mask` in place of X, which is their product
head pruning      layers whose q, k and v have fewer rows; the settings may still be the dense model's
row pruning       layers whose MLP is narrower; the same
distillation      the settings say the layers; those of the larger model stand in the section `teacher`

What a file says about heads that were pruned is not read: the shapes tell it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.config import LayerSizes, MelHuBERTConfig, layer_sizes
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.settings import errors_of
from s3prl_melhubert.support.tensor_files import check_tensor

ORIG, MASK = "_orig", "_mask"
ORIGIN = "Compression"  # the key of a checkpoint that tells what a compressed model was made of, and how
# The settings that differ between a compressed model and the dense one.
SIZES = ("encoder_layers", "encoder_attention_heads", "encoder_ffn_embed_dim")


def checked_weights(
    state: Mapping[str, Any], config: MelHuBERTConfig, where: str, file_size: int
) -> tuple[dict[str, Any], MelHuBERTConfig]:
    """The weights of a state dict as an ordinary model has them, and the settings that their shapes mean.

    Args:
        state: names and tensors, as a file holds them.
        config: the settings that stand beside them.
        where: what an error calls the file.
        file_size: bytes of the file, more than which a tensor cannot have.

    Raises:
        MelHuBERTError: a tensor holds no weights, or values that are not finite; or as `without_masks` and
            `settings_of_shapes`.
    """
    weights = without_masks(state, where, file_size)
    for name, tensor in weights.items():
        check_tensor(tensor, shown(name).strip("'"), where, file_size)
    return weights, settings_of_shapes(config, weights, where)


def without_masks(state: Mapping[str, Any], where: str, file_size: int) -> dict[str, Any]:
    """A state dict with the product of each `X_orig` and `X_mask` in their place, as X.

    Args:
        state: names and tensors, from a file.
        where: what an error calls the file.
        file_size: bytes of the file, more than which a tensor cannot have.

    Raises:
        MelHuBERTError: one of a pair is missing, both and X are there, or a mask is not 0 and 1 for every
            element of its tensor.
    """
    masked = {name.removesuffix(MASK) for name in state if isinstance(name, str) and name.endswith(MASK)}
    masked |= {name.removesuffix(ORIG) for name in state if isinstance(name, str) and name.endswith(ORIG)}
    if not masked:
        return dict(state)
    products: dict[str, Tensor] = {}
    for name in sorted(masked):
        parts = f"{name}{ORIG}", f"{name}{MASK}"
        for part in parts:
            if part not in state:
                raise MelHuBERTError(
                    f"{where}: {part} is missing; a weight-pruned tensor is stored as {' and '.join(parts)}"
                )
        if name in state:
            raise MelHuBERTError(f"{where}: {name} found beside {parts[0]}, expected one of them")
        original, mask = (state[part] for part in parts)
        check_tensor(original, parts[0], where, file_size)
        _check_mask(mask, original, parts[1], where)
        products[name] = original * mask.to(original.dtype)
    result: dict[str, Any] = {}
    for key, tensor in state.items():
        name = key.removesuffix(ORIG) if isinstance(key, str) else key
        if name in products:
            result[name] = products[name]
        elif not (isinstance(key, str) and key.removesuffix(MASK) in products):
            result[key] = tensor
    return result


def _check_mask(mask: object, original: Tensor, name: str, where: str) -> None:
    if not isinstance(mask, Tensor) or mask.layout != torch.strided or mask.is_meta or mask.is_quantized:
        raise MelHuBERTError(f"{where}: {name} is no dense tensor, expected a mask of bools")
    if mask.shape != original.shape:
        raise MelHuBERTError(
            f"{where}: {name} has shape {tuple(mask.shape)}, expected {tuple(original.shape)}, that of its "
            "tensor"
        )
    # torch's own pruning stores masks of the weights' type.
    if mask.dtype != torch.bool and not (mask.is_floating_point() and ((mask == 0) | (mask == 1)).all()):
        raise MelHuBERTError(f"{where}: {name} holds other values than 0 and 1, expected a mask of bools")


def settings_of_shapes(config: MelHuBERTConfig, state: Mapping[str, Any], where: str) -> MelHuBERTConfig:
    """Settings with the heads and rows that each layer really has, where these are fewer.

    Tensors that fit neither are left to `check_state`, which names them.

    Args:
        config: the settings of a checkpoint, whose heads have the width that the pruned ones had.
        state: its tensors.
        where: what an error calls the file.

    Raises:
        MelHuBERTError: the rows of a layer's queries are no whole number of heads, or no layer has any.
    """
    found: list[LayerSizes] = []
    for index, sizes in enumerate(layer_sizes(config)):
        name = f"encoder.layers.{index}.self_attn.q_proj.weight"
        queries = _length(state.get(name), sizes.heads * sizes.head_width)
        rows = _length(state.get(f"encoder.layers.{index}.fc1.weight"), sizes.rows)
        heads, rest = divmod(queries, sizes.head_width)
        if rest:
            raise MelHuBERTError(
                f"{where}: {name} has {queries} rows, expected a multiple of {sizes.head_width}, the width "
                "of a head by the settings (encoder_embed_dim / encoder_attention_heads, or encoder_head_dim)"
            )
        found.append(LayerSizes(heads, sizes.head_width, rows))
    if found == layer_sizes(config):
        return config
    with errors_of(where):
        return dataclasses.replace(
            config,
            encoder_attention_heads=tuple(sizes.heads for sizes in found),
            encoder_ffn_embed_dim=tuple(sizes.rows for sizes in found),
            encoder_head_dim=found[0].head_width,
        )


def _length(tensor: object, most: int) -> int:
    """The rows of a matrix, or `most` where there is none that has fewer."""
    is_smaller = isinstance(tensor, Tensor) and tensor.dim() == 2 and len(tensor) < most
    return len(tensor) if is_smaller else most  # type: ignore[arg-type]


def origin_of(
    settings: Mapping[str, Any], named: MelHuBERTConfig, config: MelHuBERTConfig, masked: bool
) -> dict[str, Any] | None:
    """What is known of the making of a checkpoint that does not say it under `ORIGIN`.

    Args:
        settings: its `Upstream_Config`.
        named: the settings of the model in it.
        config: the settings that its tensors really have.
        masked: whether tensors were stored with masks.

    Returns:
        A mapping for `ORIGIN`: how it was compressed and, if the file tells, the dense model's sizes; None
        where nothing shows that it was compressed.
    """
    how = ["weights pruned, by masks"] * masked + ["heads or rows pruned, by the shapes"] * (named != config)
    dense = named
    teacher = settings.get("teacher")
    if isinstance(teacher, Mapping):
        how.append("distilled")
        sizes = {name: teacher[name] for name in SIZES if name in teacher}
        with suppress(MelHuBERTError):  # A teacher of another kind tells nothing of this model's size.
            dense = dataclasses.replace(named, **{"encoder_head_dim": None, **sizes})
    return {"how": ", ".join(how), "dense": sizes_of(dense)} if how else None


def origin_in_training(
    config: MelHuBERTConfig, rest: Mapping[str, Any], layers: str | None, where: str
) -> dict[str, Any]:
    """What the checkpoints of a training hold, under `ORIGIN`, of the compressed model that it began with.

    Training fills in the zeros of pruned weights, so that nothing is left of a compression to the dense
    model's own sizes.

    Args:
        config: the compressed model's settings.
        rest: the further keys of its checkpoint.
        layers: which of its layers were taken, in the words of `--init_layers`; None for all.
        where: what an error calls the file.
    """
    dense = None
    if rest.get(ORIGIN) is not None:
        with suppress(MelHuBERTError):  # What is wrong in there keeps nobody from training.
            dense = dense_config(config, rest, where)
    if dense is None or layer_sizes(dense) == layer_sizes(config):
        return {}
    origin = dict(rest[ORIGIN])
    if layers is not None:
        how = [origin["how"]] * isinstance(origin.get("how"), str)
        origin["how"] = ", ".join([*how, f"layers {layers} of it taken"])
    return {ORIGIN: origin}


def sizes_of(config: MelHuBERTConfig) -> dict[str, Any]:
    """The settings that differ between a compressed model and the dense one."""
    mapping = config.own_mapping()
    return {name: mapping[name] for name in (*SIZES, "encoder_head_dim") if name in mapping}


def dense_config(config: MelHuBERTConfig, rest: Mapping[str, Any], where: str) -> MelHuBERTConfig | None:
    """The settings of the dense model that a compressed one was made of.

    Where a file of the authors' pruning does not tell, it is the model whose heads share the width and whose
    MLP is four times as wide, as in all published models.

    Args:
        config: the compressed model's settings.
        rest: the further keys of its checkpoint.
        where: what an error calls the file.

    Returns:
        None where nothing shows that the model was compressed.

    Raises:
        MelHuBERTError: what the file tells of the dense model is impossible.
    """
    origin, runner = rest.get(ORIGIN), rest.get("Runner")
    if origin is not None:
        dense = origin.get("dense") if isinstance(origin, Mapping) else None
        if not isinstance(dense, Mapping) or not set(dense) <= {*SIZES, "encoder_head_dim"}:
            raise MelHuBERTError(
                f"{where}: {ORIGIN} is {shown(origin)}, expected a mapping with dense: sizes"
            )
        with errors_of(f"{where}: {ORIGIN}: dense"):
            return dataclasses.replace(config, **{"encoder_head_dim": None, **dense})
    heads, rows = config.encoder_attention_heads, config.encoder_ffn_embed_dim
    width = config.encoder_embed_dim
    pruned = config.encoder_head_dim is not None or isinstance(rows, tuple)
    # Of any other file's layers nobody can tell whether they were pruned, or made so.
    if not (isinstance(runner, Mapping) and "prune" in runner):
        return None
    # The authors' pruning of rows counts them down in the settings, too.
    if not pruned and layer_sizes(config)[0].rows >= 4 * width:
        return None
    if config.encoder_head_dim is not None:
        heads, rest_of_width = divmod(width, config.encoder_head_dim)
        if rest_of_width:
            return None
    return dataclasses.replace(
        config, encoder_attention_heads=heads, encoder_ffn_embed_dim=4 * width, encoder_head_dim=None
    )
