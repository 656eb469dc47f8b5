"""The model's settings: one frozen dataclass, with the published defaults and the published key names."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.yaml_files import read_yaml_mapping

ACTIVATIONS = ("gelu", "relu", "tanh", "linear")

# Settings of the published YAML files that exist in one form only. A file may state them; a file that
# asks for something else is asking for a model that was never trained.
FIXED: dict[str, Any] = {
    "pos_emb_type": "conv",
    "pos_conv_depth": 1,
    "attention_type": "original",
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
}

# `model` sections of a YAML file or checkpoint: today's name, and that of the oldest checkpoints.
SECTIONS = ("melhubert", "hubert")

SAMPLE_RATE = 16_000  # Hz
N_MELS = 40  # mel bins of one 10 ms frame


@dataclass(frozen=True)
class MelHuBERTConfig:
    """Settings of a MelHuBERT model. The defaults are the published 20 ms base model.

    Raises:
        MelHuBERTError: a value that is impossible, named with what would be possible.
    """

    # What the model reads: 40 = one frame of 40 mel bins (10 ms), 80 = two frames side by side (20 ms).
    feat_emb_dim: int = 80

    # Encoder
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072  # width of the two-layer MLP
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False  # pre-norm layers instead of post-norm
    conv_pos: int = 128  # kernel of the positional convolution, in frames
    conv_pos_groups: int = 16

    # Output and loss
    num_cluster: int = 512
    pred_masked_weight: float = 1.0  # weight of the loss over masked frames
    pred_nomask_weight: float = 0.0  # and over unmasked ones
    skip_masked: bool = False  # leave the masked part out of the loss, whatever its weight
    skip_nomask: bool = True

    # Masking
    mask_prob: float = 0.7
    mask_length: int = 5  # frames of a span
    mask_min_space: int = 1  # counts only where spans may not overlap; kept because files name it
    learnable_mask_emb: bool = False  # a learned vector instead of zeros
    mask_before_proj: bool = True  # mask what is read, not what the projection makes of it

    # Dropout
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    encoder_layerdrop: float = 0.0  # probability of skipping a whole layer in training

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), field.type))
        for name in (
            "feat_emb_dim",
            "encoder_layers",
            "encoder_embed_dim",
            "encoder_ffn_embed_dim",
            "encoder_attention_heads",
            "conv_pos",
            "conv_pos_groups",
            "num_cluster",
            "mask_length",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("pred_masked_weight", "pred_nomask_weight"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("mask_prob", 0 <= self.mask_prob <= 1, "between 0 and 1")
        self._require("activation_fn", self.activation_fn in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        self._require(
            "encoder_attention_heads",
            self.encoder_embed_dim % self.encoder_attention_heads == 0,
            f"a divisor of encoder_embed_dim ({self.encoder_embed_dim})",
        )
        self._require(
            "conv_pos_groups",
            self.encoder_embed_dim % self.conv_pos_groups == 0,
            f"a divisor of encoder_embed_dim ({self.encoder_embed_dim})",
        )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise MelHuBERTError(f"model setting {name}: {getattr(self, name)!r} found, expected {expected}")

    @property
    def frame_period(self) -> int:
        """Milliseconds between two frames that the model reads: 10 or 20.

        Raises:
            MelHuBERTError: `feat_emb_dim` is neither 40 nor 80, so that the period cannot be known.
        """
        if self.feat_emb_dim not in (N_MELS, 2 * N_MELS):
            raise MelHuBERTError(
                f"model setting feat_emb_dim: {self.feat_emb_dim} found, expected 40 (10 ms frames) or 80 "
                "(20 ms frames) for a model that is to read audio"
            )
        return 10 * self.feat_emb_dim // N_MELS

    @property
    def has_projection(self) -> bool:
        """Whether a linear layer maps the input to the encoder's width (absent when the sizes agree)."""
        return self.feat_emb_dim != self.encoder_embed_dim

    @classmethod
    def from_mapping(
        cls, settings: Mapping[str, Any], where: str = "model settings", ignore_unknown: bool = False
    ) -> MelHuBERTConfig:
        """Read the settings that stand in a mapping, in their published names.

        Args:
            settings: the mapping itself, or one that holds it under `melhubert` (or, in old checkpoints,
                `hubert`).
            where: what to call the mapping in an error, usually its file.
            ignore_unknown: warn of an unknown name instead of refusing it. For the settings inside a
                checkpoint: its tensors are compared with the model in any case, and other versions of
                the trainer may have noted more than the model needs.

        Raises:
            MelHuBERTError: not a mapping, an unknown name, or an impossible value.
        """
        if not isinstance(settings, Mapping):
            raise MelHuBERTError(f"{where}: {type(settings).__name__} found, expected a mapping of settings")
        for section in SECTIONS:
            if section in settings:
                settings = settings[section]
                where = f"{where}, section {section}"
                break
        if not isinstance(settings, Mapping):
            raise MelHuBERTError(f"{where}: {type(settings).__name__} found, expected a mapping of settings")

        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [str(name) for name in settings if name not in known and name not in FIXED]
        if unknown and ignore_unknown:
            names = ", ".join(unknown)
            warnings.warn(
                f"{where}: ignoring settings that this version does not know: {names}", stacklevel=2
            )
        elif unknown:
            raise MelHuBERTError(
                f"{where}: unknown setting {', '.join(unknown)}{_suggestion(unknown[0], known | set(FIXED))}"
            )
        for name, only in FIXED.items():
            value = settings.get(name, only)
            if value != only:
                raise MelHuBERTError(f"{where}: {name}: {value!r} found, but only {only!r} is supported")
        try:
            return cls(**{name: value for name, value in settings.items() if name in known})
        except MelHuBERTError as error:
            raise MelHuBERTError(f"{where}: {error}") from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> MelHuBERTConfig:
        """Read a published model YAML file (section `melhubert`).

        Raises:
            MelHuBERTError: no such file, not YAML, or settings that `from_mapping` refuses.
        """
        return cls.from_mapping(read_yaml_mapping(path), where=str(path))

    def to_mapping(self) -> dict[str, Any]:
        """The settings in their published names, complete enough for the published scripts."""
        return {**FIXED, **dataclasses.asdict(self)}


def _typed(name: str, value: Any, expected: Any) -> Any:
    """`value` as the field's type (given as a string, because annotations are), or an error."""
    wants = {"int": int, "float": float, "bool": bool, "str": str}[str(expected)]
    if wants is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # YAML reads 1e-1 as a string (YAML 1.1 wants a dot); users mean the number.
    if wants is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, wants) or (wants is not bool and isinstance(value, bool)):
        raise MelHuBERTError(f"model setting {name}: {value!r} found, expected {wants.__name__}")
    if wants is float and value != value:
        raise MelHuBERTError(f"model setting {name}: NaN found, expected a number")
    return value


def _suggestion(name: str, known: set[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
