"""Hidden states of many utterances: batched by length, of chosen layers, on any device.

    for index, states in hidden_states(model, lengths, load, frontend, layers=[6]):
        ...                                    # states: (1, T, C) of utterance `index`

The functions `load` and `collate` decide what an utterance is: a waveform for a `Frontend`, or log-Mel
features that are already there for `pad_features`. Memory grows with the batch, not with the number of
utterances.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from s3prl_melhubert import frontend
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS
from s3prl_melhubert.support.read_ahead import groups_ahead

# The frames of a batch, padding included. A CPU gains nothing from larger batches (the base model on one core
# does 9 times real time with 1000 frames, 6 times with 4000), but a GPU does. The base model's hidden states
# of 32000 frames take 1.3 GB.
MAX_FRAMES = 1_000
MAX_FRAMES_CUDA = 32_000

BATCHES_AHEAD = 3  # batches that are read while the model works on the one before them

Module = TypeVar("Module", bound=nn.Module)


def resolve_layers(layers: Iterable[int] | None, config: MelHuBERTConfig) -> list[int]:
    """Return indices into `hidden_states`: all of them if none are given; negative ones count from the end.

    Raises:
        MelHuBERTError: the model has no such layer, or the list is empty.
    """
    count = config.encoder_layers + 1
    if layers is None:
        return list(range(count))
    resolved = []
    for layer in layers:
        if not -count <= layer < count:
            raise MelHuBERTError(
                f"layer {layer}: expected 0 (the projected input) to {count - 1} (the last layer)"
            )
        resolved.append(layer % count)
    if not resolved:
        raise MelHuBERTError(f"layers: none found, expected some of 0 to {count - 1}, or None for all")
    return resolved


def length_batches(lengths: Sequence[int], max_frames: int) -> list[list[int]]:
    """Group utterances of like lengths, the longest first, so that what does not fit shows at once.

    Args:
        lengths: the frames of each utterance.
        max_frames: the frames of a batch, padding included. A single utterance that is longer is a batch by
            itself.

    Returns:
        The batches, as indices into `lengths`; each index appears once.
    """
    # Utterances of one length keep their order.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = []
    start = 0
    while start < len(order):
        size = max(1, max_frames // max(1, lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Put the features of B utterances into one batch.

    Args:
        features: (T_i, D) of each utterance.

    Returns:
        (B, T, D), zero at padding, and the (B, T) bool padding mask, or None if all are of one length.
    """
    lengths = [len(frames) for frames in features]
    batch = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return batch, frontend.padding_mask(lengths, batch.device) if min(lengths) < max(lengths) else None


def hidden_states(
    model: MelHuBERT,
    lengths: Sequence[int],
    load: Callable[[int], Tensor],
    collate: Callable[[list[Tensor]], tuple[Tensor, Tensor | None]],
    *,
    layers: Iterable[int] | None = None,
    max_frames: int | None = None,
    precision: str = "fp32",
    readers: int = 2,
    on_error: Callable[[int, MelHuBERTError], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Compute the hidden states of utterances, one utterance at a time, in the order of their batches.

    An utterance's result does not depend on its batch mates.

    Args:
        model: a model in evaluation mode, on the device that does the work.
        lengths: the frames of each utterance as the model reads it; a guess only makes batches less even.
        load: a function from an utterance's index to what `collate` takes; it is called from several threads.
        collate: a function from what was loaded of a batch to features (B, T, D) on the model's device and
            their padding mask, as `Frontend` or `pad_features` makes them.
        layers: indices into `MelHuBERTOutput.hidden_states`; all if not given. Layers above the highest
            of them are not run.
        max_frames: the frames of a batch, padding included; a default for the device if not given.
        precision: `fp32`, or `bf16` for matrix products in bfloat16 (torch.autocast).
        readers: the number of threads that load.
        on_error: a function that is told of an utterance for which `load` raises a MelHuBERTError; the
            utterance is then left out. Without it, the error ends the iteration.

    Yields:
        The utterance's index, and (layers, T, C) float32 hidden states of its T frames, on the model's
        device.

    Raises:
        MelHuBERTError: there is no such layer or precision, or a batch does not fit into memory.
    """
    if precision not in INFERENCE_PRECISIONS:
        raise MelHuBERTError(
            f"precision {shown(precision)}: expected one of {', '.join(INFERENCE_PRECISIONS)}"
        )
    device = next(model.parameters()).device
    if max_frames is None:
        max_frames = MAX_FRAMES_CUDA if device.type == "cuda" else MAX_FRAMES
    if max_frames < 1:
        raise MelHuBERTError(f"frames of a batch: {max_frames} found, expected at least 1")
    chosen = resolve_layers(layers, model.config)
    model = _without_layers_above(model, max(chosen, default=0))

    for indices, items in _load_ahead(length_batches(lengths, max_frames), load, readers, on_error):
        try:
            with torch.inference_mode():
                features, padding_mask = collate(items)
                states = _layer_outputs(model, features, padding_mask, chosen, precision)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            longest = max(lengths[i] for i in indices)
            raise MelHuBERTError(
                f"out of memory on {device} with a batch of {len(indices)} utterances, the longest of "
                f"{longest} frames; lower the frames of a batch (--max-frames), or read long recordings "
                "in windows (--window SECONDS)"
            ) from None
        yield from zip(indices, states, strict=True)


def _layer_outputs(
    model: MelHuBERT, features: Tensor, padding_mask: Tensor | None, layers: list[int], precision: str
) -> list[Tensor]:
    """Return the (layers, T_i, C) float32 hidden states of each utterance of a batch, without its padding."""
    device = features.device
    bf16 = precision == "bf16"
    with torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else _without_tf32():
        outputs = model(features, padding_mask).hidden_states
    chosen = torch.stack([outputs[layer].float() for layer in layers])  # (L, B, T, C)
    if padding_mask is None:
        return list(chosen.unbind(1))
    lengths = (~padding_mask).sum(1).tolist()
    return [chosen[:, i, :length] for i, length in enumerate(lengths)]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keep cuDNN from computing the positional convolution in TF32, its default, with errors around 1e-3."""
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # The program has set TF32 for each kind of operation, which stays as it is.
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _without_layers_above(model: MelHuBERT, highest: int) -> MelHuBERT:
    """Return the model with its first `highest` layers alone, which shares its parameters with the model."""
    if highest >= len(model.encoder.layers):
        return model
    encoder = _shallow_copy(model.encoder)
    encoder.layers = model.encoder.layers[:highest]
    short = _shallow_copy(model)
    short.encoder = encoder
    return short


def _shallow_copy(module: Module) -> Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)  # copy.copy alone would share the table of submodules.
    return twin


def _load_ahead(
    batches: list[list[int]],
    load: Callable[[int], Tensor],
    readers: int,
    on_error: Callable[[int, MelHuBERTError], None] | None,
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield batches of loaded utterances, while threads read the next ones."""
    for batch in groups_ahead(load, batches, max(1, readers), BATCHES_AHEAD):
        indices, items = [], []
        for i, loading in batch:
            try:
                items.append(loading.result())
                indices.append(i)
            except MelHuBERTError as error:
                if on_error is None:
                    raise
                on_error(i, error)
        if items:
            yield indices, items


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError: "... DefaultCPUAllocator: can't allocate memory ...".
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        error
    )
