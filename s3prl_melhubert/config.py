"""The model's settings: one frozen dataclass, with the published defaults and the published key names."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning, shown
from s3prl_melhubert.support.settings import (
    errors_of,
    read_yaml_mapping,
    refuse_unknown,
    refusing_unknown_names,
    require,
    typed,
)

ACTIVATIONS = ("gelu", "relu", "tanh", "linear")

# These settings of the published YAML files have one possible value. A file may state them, but a file that
# asks for another value asks for a model that was never trained.
FIXED: dict[str, Any] = {
    "pos_emb_type": "conv",
    "pos_conv_depth": 1,
    "attention_type": "original",
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
}

MAX_CONFIG_JSON = 1 << 20  # bytes

# The authors' distillation notes in the student's settings how it began, which changes nothing later.
IGNORED = ("initial_from_teacher",)

# A model's section in a YAML file or checkpoint has the first name today and had the second one at first.
SECTIONS = ("melhubert", "hubert")

SAMPLE_RATE = 16_000  # Hz
N_MELS = 40  # mel bins of one 10 ms frame
# Samples lie in [-1, 1], and what was amplified a little beyond. At a thousand they are integers that were
# not divided, or no audio; much later, energies would overflow.
MAX_AMPLITUDE = 1000.0
MAX_LAYERS = 10**6  # No machine holds so many, and a list of their sizes is made in no time.


class LayerSizes(NamedTuple):
    """What one layer of the encoder has; in a pruned model, that differs from layer to layer."""

    heads: int  # of attention; 0 leaves the bias of its output alone
    head_width: int  # columns of a head
    rows: int  # width of the two-layer MLP; 0 leaves the bias of its output alone


def layer_sizes(settings: Any) -> list[LayerSizes]:
    """What each layer has, by a `MelHuBERTConfig` or by transformers' configuration of a model."""
    layers = settings.encoder_layers
    heads = _one_if_alike(settings.encoder_attention_heads)
    rows = _one_if_alike(settings.encoder_ffn_embed_dim)
    # A dense model has no setting for the width of its heads, which share the encoder's.
    width = getattr(settings, "encoder_head_dim", None) or settings.encoder_embed_dim // heads
    if isinstance(heads, int) and isinstance(rows, int):
        return [LayerSizes(heads, width, rows)] * layers
    each = [[value] * layers if isinstance(value, int) else value for value in (heads, rows)]
    return [LayerSizes(heads, width, rows) for heads, rows in zip(*each, strict=True)]


def check_possible(settings: Any) -> None:
    """Check that a model can have these settings, a `MelHuBERTConfig` or transformers' configuration.

    Raises:
        MelHuBERTError: a value is impossible; the message says what would be possible.
    """
    for name in (
        "feat_emb_dim",
        "encoder_layers",
        "encoder_embed_dim",
        "conv_pos",
        "conv_pos_groups",
        "num_cluster",
        "mask_length",
    ):
        require(settings, name, getattr(settings, name) >= 1, "at least 1")
    require(settings, "encoder_layers", settings.encoder_layers <= MAX_LAYERS, f"at most {MAX_LAYERS}")
    for name in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"):
        require(settings, name, 0 <= getattr(settings, name) < 1, "at least 0 and below 1")
    for name in ("pred_masked_weight", "pred_nomask_weight"):
        require(settings, name, getattr(settings, name) >= 0, "at least 0")
    require(settings, "mask_prob", 0 <= settings.mask_prob <= 1, "between 0 and 1")
    known = settings.activation_fn in ACTIVATIONS
    require(settings, "activation_fn", known, f"one of {', '.join(ACTIVATIONS)}")
    _check_layers(settings)
    width = settings.encoder_embed_dim
    divides = width % settings.conv_pos_groups == 0
    require(settings, "conv_pos_groups", divides, f"a divisor of encoder_embed_dim ({width})")

    learns_masked = not settings.skip_masked and settings.pred_masked_weight > 0
    learns_unmasked = not settings.skip_nomask and settings.pred_nomask_weight > 0
    if not learns_masked and not learns_unmasked:
        names = ("skip_masked", "pred_masked_weight", "skip_nomask", "pred_nomask_weight")
        found = ", ".join(f"{name}: {getattr(settings, name)}" for name in names)
        raise MelHuBERTError(
            f"{found} found, with which nothing would be learned; expected masked or unmasked frames to "
            "be neither skipped nor of weight 0"
        )


def refuse_unsupported(settings: Mapping[str, Any]) -> None:
    """Raise a MelHuBERTError where settings ask for one of the models that were never trained (`FIXED`)."""
    for name, only in FIXED.items():
        value = settings.get(name, only)
        if not isinstance(value, str | int | float) or value != only:
            raise MelHuBERTError(f"{name}: {shown(value)} found, but only {shown(only)} is supported")


def _check_layers(settings: Any) -> None:
    layers, width = settings.encoder_layers, settings.encoder_embed_dim
    for name in ("encoder_attention_heads", "encoder_ffn_embed_dim"):
        value = getattr(settings, name)
        if isinstance(value, list | tuple):
            expected = f"a number, or a list with one for each of the {layers} layers"
            require(settings, name, len(value) == layers, expected)
            require(settings, name, min(value) >= 0, "numbers of at least 0")
            value = _one_if_alike(value)
        if isinstance(value, int) and value < 1:
            raise MelHuBERTError(f"{name}: {value} found, expected at least 1")
    heads, head_width = _one_if_alike(settings.encoder_attention_heads), settings.encoder_head_dim
    if head_width is not None:
        require(settings, "encoder_head_dim", head_width >= 1, "at least 1")
    elif isinstance(heads, int):
        expected = f"a divisor of encoder_embed_dim ({width}), or encoder_head_dim, too"
        require(settings, "encoder_attention_heads", width % heads == 0, expected)
    else:
        require(settings, "encoder_attention_heads", False, "encoder_head_dim, too: the columns of a head")


def _one_if_alike(value: Any) -> Any:
    """A number for all layers, where the numbers of a list are all the same one."""
    return value[0] if isinstance(value, list | tuple) and len(set(value)) == 1 else value


@refusing_unknown_names
@dataclass(frozen=True)
class MelHuBERTConfig:
    """The settings of a MelHuBERT model. The defaults are those of the published 20 ms base model.

    Raises:
        MelHuBERTError: a name that is unknown, or a value that is impossible, with what would be possible.
    """

    # What the model reads: 40 = one frame of 40 mel bins (10 ms), 80 = two frames side by side (20 ms).
    feat_emb_dim: int = 80

    # Encoder
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    # In a pruned model these two are a number for all layers, or a list with one for each of them.
    encoder_ffn_embed_dim: int | tuple[int, ...] = 3072  # width of the two-layer MLP
    encoder_attention_heads: int | tuple[int, ...] = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False  # pre-norm layers instead of post-norm
    conv_pos: int = 128  # kernel of the positional convolution, in frames
    conv_pos_groups: int = 16

    # Output and loss
    num_cluster: int = 512
    pred_masked_weight: float = 1.0  # weight of the loss over masked frames
    pred_nomask_weight: float = 0.0  # weight of the loss over unmasked frames
    skip_masked: bool = False  # leave the masked part out of the loss, whatever its weight
    skip_nomask: bool = True

    # Masking
    mask_prob: float = 0.7
    mask_length: int = 5  # frames of a span
    mask_min_space: int = 1  # has no effect, because spans may overlap; published files name it
    learnable_mask_emb: bool = False  # a learned vector instead of zeros
    mask_before_proj: bool = True  # mask what is read, not what the projection makes of it

    # Dropout
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    encoder_layerdrop: float = 0.0  # probability of skipping a whole layer in training

    # Columns of a head, where some heads were pruned; None: the heads share the encoder's width.
    encoder_head_dim: int | None = None

    def __post_init__(self):
        for name, expected in TYPES.items():
            object.__setattr__(self, name, typed(name, getattr(self, name), expected))
        check_possible(self)
        # Alike settings are written in one way.
        for name in ("encoder_attention_heads", "encoder_ffn_embed_dim"):
            object.__setattr__(self, name, _one_if_alike(getattr(self, name)))
        heads, head_width = self.encoder_attention_heads, self.encoder_head_dim
        if isinstance(heads, int) and head_width is not None and heads * head_width == self.encoder_embed_dim:
            object.__setattr__(self, "encoder_head_dim", None)

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
        """Read the settings that stand in a mapping under their published names.

        Args:
            settings: the mapping itself, or one that holds it under `melhubert` (or, in old checkpoints,
                `hubert`).
            where: what to call the mapping in an error, usually its file.
            ignore_unknown: warn of an unknown name instead of refusing it. This is for the settings inside
                a checkpoint: its tensors are compared with the model in any case, and other versions of the
                trainer may have noted more than the model needs.

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
        unknown = [str(name) for name in settings if name not in {*known, *FIXED, *IGNORED}]
        if unknown and ignore_unknown:
            names = ", ".join(unknown)
            warnings.warn(
                f"{where}: ignoring settings that this version does not know: {names}",
                MelHuBERTWarning,
                stacklevel=2,
            )
        else:
            refuse_unknown(unknown, {*known, *FIXED}, where)
        with errors_of(where):
            refuse_unsupported(settings)
            return cls(**{name: value for name, value in settings.items() if name in known})

    @classmethod
    def from_yaml(cls, path: str | Path) -> MelHuBERTConfig:
        """Read a published model YAML file (section `melhubert`).

        A line warns of a setting that has no effect.

        Raises:
            MelHuBERTError: no such file, not YAML, or settings that `from_mapping` refuses.
        """
        config = cls.from_mapping(read_yaml_mapping(path), where=str(path))
        if config.mask_min_space != cls.mask_min_space:
            warnings.warn(
                f"{path}: mask_min_space: {config.mask_min_space} found, which has no effect, because masked "
                "spans may overlap; leave it out",
                MelHuBERTWarning,
                stacklevel=2,
            )
        return config

    def to_mapping(self) -> dict[str, Any]:
        """The settings under their published names, complete enough for the published scripts."""
        return {**FIXED, **self.own_mapping()}

    def own_mapping(self) -> dict[str, Any]:
        """The settings that can differ, in plain types."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
        if self.encoder_head_dim is None:
            del settings["encoder_head_dim"]  # A dense model's file has the published names alone.
        return settings


# The settings' types as `typed` takes them, by their names.
TYPES: dict[str, str] = {field.name: str(field.type) for field in dataclasses.fields(MelHuBERTConfig)}


def read_config_json(path: Path) -> dict[str, Any]:
    """Settings and statistics from transformers' file beside the weights, as a checkpoint has them.

    Nothing is read where the file is another model's.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_JSON:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("model_type") != "melhubert":
        return {}
    known = [*(each.name for each in dataclasses.fields(MelHuBERTConfig)), *FIXED]
    found: dict[str, Any] = {
        "Upstream_Config": {"melhubert": {name: content[name] for name in known if name in content}}
    }
    if "frame_period" in content:
        found["Frame_Period"] = content["frame_period"]
    if content.get("feature_mean") is not None:
        found["Feature_Stats"] = {"mean": content["feature_mean"], "std": content.get("feature_std")}
    return found
