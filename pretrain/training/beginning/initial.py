"""The checkpoint that a run starts from (`-i`): what of it the run's model takes, and what is new there.

A tensor is taken where shape and meaning agree. The head is new where the data has other clusters, the
projection where the frame period is another one. A setting by which the same weights would compute something
else, or by which layers have other shapes, is refused: of such a model nothing useful would be left.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from s3prl_melhubert.checkpoint import LAYER, Checkpoint, check_state, open_checkpoint, resolve_stats
from s3prl_melhubert.config import N_MELS, MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.clusters import target_quantizer, told_clusters
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.settings import errors_of
from s3prl_melhubert.units.quantizer import Quantizer

MODEL, DATA = "model", "data"  # whose statistics a run goes on with

# The parts that may be new, in words. Everything else is taken, or the checkpoint is refused.
PARTS = {"final_proj": "head", "pre_extract_proj": "projection", "mask_emb": "learned mask"}

# The settings in which a run may differ from the model that it starts from. They say what is trained on, how
# it is masked and weighted, and what is dropped. All others say what the layers compute.
MAY_DIFFER = {
    *("feat_emb_dim", "num_cluster"),
    *("pred_masked_weight", "pred_nomask_weight", "skip_masked", "skip_nomask"),
    *("mask_prob", "mask_length", "mask_min_space", "learnable_mask_emb", "mask_before_proj"),
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"),
}

LAYER_RANGE = re.compile(r"(-?\d{1,4})(?:-(-?\d{1,4}))?")


class Initial:
    """A checkpoint to start from, which is read when it is first needed.

    Args:
        source: a checkpoint file of any format, a folder in transformers' layout, or ORG/NAME[@REVISION] on
            the Hugging Face Hub.
        layers: which of its layers to take, such as `1-6` or `1,3,5`, in their new order; all if not given.
            The first is 1 and the last -1, as for `extract --layer`.
        stats: whose statistics the run goes on with: those of the MODEL, or those of the DATA.
    """

    def __init__(self, source: str | Path, layers: str | None = None, stats: str = MODEL):
        self.source = source
        self.layers = layers
        self.stats = stats
        self._opened: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The content of the checkpoint, whose weights have the shapes of its settings.

        Raises:
            MelHuBERTError: it cannot be had or read, or its weights are not those of its settings.
        """
        if self._opened is None:
            opened = open_checkpoint(self.source)
            opened.checked_shapes()
            self._opened = opened
        return self._opened

    def release(self) -> None:
        """Let the memory of the weights go; they are read again if they are needed again."""
        self._opened = None

    def known_stats(self) -> FeatureStats | None:
        """What the model was trained with: what the checkpoint says, or the table of published ones."""
        try:
            return resolve_stats(self.checkpoint)
        except MelHuBERTError:
            return None

    def settings(self, frame_period: int | None, sets: Sequence[str]) -> MelHuBERTConfig:
        """The settings of the model to train, where no file gives them: the checkpoint's, for this data.

        Args:
            frame_period: 10 or 20 ms; None for the checkpoint's.
            sets: the prepared sets to train on, by whose clusters the head is made.

        Raises:
            MelHuBERTError: the checkpoint cannot be used, or has no such layers.
        """
        config = self._of_chosen_layers()
        clusters, quantizer = told_clusters(sets), self.checkpoint.quantizer
        if clusters is not None and not (quantizer is not None and _are_labelled_by(quantizer, sets)):
            config = dataclasses.replace(config, num_cluster=clusters)
        if frame_period is not None:
            config = dataclasses.replace(config, feat_emb_dim=N_MELS * frame_period // 10)
        return config

    def put_into(self, model: MelHuBERT, *, with_optimizer: bool = False) -> list[str]:
        """Put everything that fits into a model, whose other parts stay as they were initialized.

        Args:
            model: the model to train.
            with_optimizer: whether the state of the checkpoint's optimizer is wanted, too.

        Returns:
            What was taken, a line for each part that is new, and one for each that was left out.

        Raises:
            MelHuBERTError: the checkpoint is of another kind of model; the message names the setting. Or the
                optimizer's state is wanted and is that of other tensors.
        """
        self._refuse_other_kind(model.config)
        state, wanted = self._state(), model.state_dict()
        new = [
            name
            for name, tensor in wanted.items()
            if part_of(name) and (name not in state or state[name].shape != tensor.shape)
        ]
        left_out = [name for name in state if part_of(name) and name not in wanted]
        taken = {name: state[name] for name in state if name not in {*new, *left_out}}
        taken |= {name: wanted[name] for name in new}
        check_state(taken, wanted, f"{self.source} (for the model of this run)")
        if with_optimizer and (new or left_out or self.layers is not None):
            other = f"--init_layers {self.layers} chooses among its layers"
            if new or left_out:
                other = f"{part_of([*new, *left_out][0])} is {'new' if new else 'left out'} here"
            raise MelHuBERTError(
                f"--init_optimizer_from_initial_weight: the optimizer's state in {self.source} is of its "
                f"own tensors, and {other}; leave the option out"
            )
        model.load_state_dict(taken)
        lines = [self._introduction()]
        for part, names in _by_part(new).items():
            before = _shapes({name: state[name] for name in names if name in state})
            shapes = _shapes({name: wanted[name] for name in names})
            lines.append(f"new: {part} ({PARTS[part]}), {shapes}; there: {before or 'none'}")
        for part, names in _by_part(left_out).items():
            shapes = _shapes({name: state[name] for name in names})
            lines.append(f"left out: {part} ({PARTS[part]}), {shapes}; this model has none")
        return lines

    def _introduction(self) -> str:
        step, count = self.checkpoint.step, self.checkpoint.config.encoder_layers
        trained = f", trained for {step} steps" if step else ""
        numbers = ", ".join(str(layer + 1) for layer in self._chosen())
        chosen = f", of its {count} layers {numbers}" if self.layers is not None else ""
        return f"initial weights: {self.source}{trained}{chosen}"

    def _refuse_other_kind(self, config: MelHuBERTConfig) -> None:
        """Raise a MelHuBERTError that names the setting by which the layers of a model are others."""
        own = self._of_chosen_layers()
        for field in dataclasses.fields(config):
            there, here = getattr(own, field.name), getattr(config, field.name)
            if field.name in MAY_DIFFER or there == here:
                continue
            advice = f"set it to {there}, or leave -g out to have this model's settings"
            if field.name == "encoder_layers" and here < there:
                advice = f"--init_layers 1-{here} takes the first {here}"
            raise MelHuBERTError(
                f"{self.source}: its weights do not fit: {field.name} is {there} there and {here} in the "
                f"model of this run; {advice}"
            )

    # The layers -------------------------------------------------------------------------------------

    def _chosen(self) -> list[int]:
        """The layers that are taken, counted from 0."""
        return chosen_layers(self.layers, self.checkpoint.config.encoder_layers, str(self.source))

    def _of_chosen_layers(self) -> MelHuBERTConfig:
        """The checkpoint's settings, with as many layers as are taken of it."""
        config, chosen = self.checkpoint.config, self._chosen()
        changes: dict[str, object] = {"encoder_layers": len(chosen)}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if isinstance(value, tuple) and len(value) == config.encoder_layers:  # one for each layer
                changes[field.name] = tuple(value[layer] for layer in chosen)
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    def _state(self) -> dict[str, Tensor]:
        """The checkpoint's tensors, those of the layers that are taken under their new numbers."""
        state = self.checkpoint.state
        places: dict[int, list[int]] = {}
        for place, layer in enumerate(self._chosen()):
            places.setdefault(layer, []).append(place)
        numbered = {}
        for name, tensor in state.items():
            match = LAYER.match(name)
            if match is None:
                numbered[name] = tensor
                continue
            for place in places.get(int(match[1]), ()):
                numbered[f"encoder.layers.{place}.{name[match.end() :]}"] = tensor
        return numbered


def _are_labelled_by(quantizer: Quantizer, sets: Sequence[str]) -> bool:
    """Whether the labels of all these sets stand for what a quantizer's numbers stand for."""
    found = map(target_quantizer, sets)
    return all(labels is not None and labels.is_as(quantizer) for labels in found)


def chosen_layers(text: str | None, count: int, where: str) -> list[int]:
    """Which layers `--init_layers` takes, counted from 0, in their new order.

    Args:
        text: such as `1-6` or `1,3,5`; None for all.
        count: layers of the checkpoint.
        where: what an error calls the checkpoint.

    Raises:
        MelHuBERTError: the text is neither, or there are no such layers.
    """
    if text is None:
        return list(range(count))
    chosen: list[int] = []
    with errors_of(f"--init_layers {text}"):
        for stretch in parse_layers(text):
            for layer in stretch:
                if not 1 <= abs(layer) <= count:
                    raise MelHuBERTError(f"{where} has no layer {layer}; expected layers of 1 to {count}")
            first, last = (layer - 1 if layer > 0 else layer + count for layer in stretch)
            if first > last:
                raise MelHuBERTError(f"layer {first + 1} is above {last + 1}; the lower one comes first")
            chosen += range(first, last + 1)
    return chosen


def parse_layers(text: str) -> list[tuple[int, int]]:
    """Read `1-6` or `1,3,5`: the first and the last layer of each stretch.

    Raises:
        MelHuBERTError: it is neither.
    """
    stretches = []
    for piece in text.split(","):
        match = LAYER_RANGE.fullmatch(piece.strip())
        if match is None:
            raise MelHuBERTError(f"{shown(piece)} found, expected layers such as 1-6 or 1,3,5")
        first = int(match[1])
        stretches.append((first, int(match[2]) if match[2] else first))
    return stretches


def part_of(name: str) -> str:
    """The part that a tensor is of, if it is one that may be new: `final_proj` of `final_proj.weight`."""
    part = name.partition(".")[0]
    return part if part in PARTS else ""


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Put the names of each part's tensors together."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)
    return parts


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    """`weight 50 x 48, bias 50`."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {' x '.join(map(str, tensor.shape))}" for name, tensor in tensors.items()
    )
