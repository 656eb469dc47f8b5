"""Reads and writes checkpoints: the published format (a pickled dict), ours (a few more keys), safetensors.

A checkpoint from the internet must not run code and must be what was written: `support.tensor_files` reads
it as data, with its checksums. Statistics travel with the weights, because weights mean nothing without them.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.compression.stored import ORIGIN, checked_weights, origin_of
from s3prl_melhubert.config import SECTIONS, MelHuBERTConfig, read_config_json
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning, shown
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.published import advice_for_name, recognize
from s3prl_melhubert.statistics import FeatureStats, published_stats
from s3prl_melhubert.support.devices import any_device
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.huggingface import (
    SETTINGS,
    checkpoint_file,
    fetch_model,
    names_repository,
    repository_of,
)
from s3prl_melhubert.support.tensor_files import (
    check_without_code,
    content_hash,
    is_safetensors,
    named_safetensors,
    read_safetensors,
    read_torch_file,
    refuse_onnx,
    unreadable,
    write_safetensors,
)
from s3prl_melhubert.units.quantizer import Quantizer

# A .safetensors file keeps these in its metadata, as JSON. The state of the trainer is left out.
SAFETENSORS_KEYS = ("Upstream_Config", "Feature_Stats", "Frame_Period", "Step", "Quantizer", ORIGIN)
CENTROIDS = "quantizer.centroids"  # the name of the quantizer's tensor in a .safetensors file
# transformers' models hold ours under this name, which stands before the names of their tensors.
TRANSFORMERS_PREFIX = "melhubert."
MANY_LAYERS = 1000  # more than any model has, and few enough to compare their shapes in a second
DOWNSTREAM_ARGUMENTS = {"-u": "upstream", "-k": "upstream_ckpt"}  # s3prl's names of what chooses an upstream
LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    config: MelHuBERTConfig
    state: dict[str, Tensor]  # the parameters on the CPU, with their published names
    stats: FeatureStats | None = None  # None in published files, which do not hold statistics
    step: int | None = None  # optimizer steps of training
    rest: dict[str, Any] = field(default_factory=dict)  # the rest of the file: Optimizer, Args, Runner...
    quantizer: Quantizer | None = None  # numbers the frames of a layer: discrete units

    @property
    def frame_period(self) -> int:
        """The frame period in milliseconds: 10 or 20."""
        return self.config.frame_period

    def weights_digest(self) -> str:
        """A SHA-256 of the weights alone: the same in every file format, whatever else a file holds."""
        return content_hash(self.state, {})

    def build_model(self) -> MelHuBERT:
        """Build the model with these weights in float32, in evaluation mode.

        Raises:
            MelHuBERTError: a tensor is missing, of another shape, or unknown to the model.
        """
        model = self.checked_shapes().to_empty(device="cpu")
        model.load_state_dict(self.state)
        return model.eval()

    def checked_shapes(self) -> MelHuBERT:
        """The model of these settings without memory (on the meta device), after its weights were compared.

        Raises:
            MelHuBERTError: a tensor is missing, of another shape, or unknown to the model, or the settings
                ask for a model that no machine can hold.
        """
        self._check_layers()
        try:
            with torch.device("meta"):  # only shapes, so that no memory is allocated before they are compared
                # Whatever torch's default type is: load_state_dict would round the weights to it.
                model = MelHuBERT(self.config).float()
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise MelHuBERTError(
                f"{self.path}: its settings ask for a model that no machine can hold ({str(error)[:100]})"
            ) from None
        check_state(self.state, model.state_dict(), str(self.path))
        return model

    def _check_layers(self) -> None:
        """Raise a MelHuBERTError if the settings name far more layers than the file has tensors for.

        `check_state` would say so, too, but only after a model of a million layers was built.
        """
        layers = {match[1] for name in self.state if (match := LAYER.match(str(name)))}
        if self.config.encoder_layers > max(len(layers), MANY_LAYERS):
            raise MelHuBERTError(
                f"{self.path}: the weights do not fit their settings: encoder_layers is "
                f"{self.config.encoder_layers}, but there are tensors of {len(layers)} layers"
            )


class DownstreamCheckpoint(MelHuBERTError):
    """A file is no MelHuBERT's but s3prl's, of a downstream model and perhaps of its fine-tuned upstream.

    Args:
        path: the file.
        content: what it holds.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]):
        self.path, self.content = path, content
        given = getattr(content.get("Args"), "__dict__", {})
        options = (f"{option} {shown(given.get(name))}" for option, name in DOWNSTREAM_ARGUMENTS.items())
        super().__init__(
            f"{path}: is s3prl's checkpoint of a downstream model; "
            + (
                f"take its fine-tuned upstream out with: melhubert convert {path} OUT.ckpt"
                if "Upstream" in content
                else f"its upstream was frozen: give the one that it was trained with ({', '.join(options)})"
            )
        )

    def __reduce__(self) -> Any:  # A worker process sends what it says, without the weights.
        return MelHuBERTError, self.args


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compare a state dict with a model's, tensor by tensor.

    Raises:
        MelHuBERTError: names `where` and the first tensors that are missing, misshapen or unknown.
    """
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, tensor in state.items():
        if name not in expected:
            problems.append(f"{name} is not a tensor of this model")
        elif not isinstance(tensor, Tensor):
            problems.append(f"{name} is a {type(tensor).__name__}, not a tensor")
        elif tensor.shape != expected[name].shape:
            found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            problems.append(f"{name} has shape {found}, expected {wanted}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MelHuBERTError(
            f"{where}: the weights do not fit their settings: {', '.join(problems[:3])}{more}"
        )


def load_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Read a published checkpoint, one of ours, or a .safetensors file written by `save_checkpoint`.

    Args:
        path: the file, or a folder in transformers' layout with a model.safetensors and a config.json.
        trust: run code that a pickle may hold. Only for a file whose source you trust.

    Raises:
        MelHuBERTError: no such file, damaged, in need of code, or not of a MelHuBERT; its message names
            the file and what to do.
    """
    path = checkpoint_file(Path(path).expanduser(), advice_for_name(str(path)))
    content = _read_safetensors(path) if is_safetensors(path) else _read_pickle(path, trust)

    if {"Featurizer", "Downstream"} <= content.keys():
        raise DownstreamCheckpoint(path, content)
    found = ", ".join(shown(key).strip("'") for key in list(content)[:8])
    settings, state = content.pop("Upstream_Config", None), content.pop("model", None)
    if (
        not isinstance(state, Mapping)
        or not isinstance(settings, Mapping)
        or not set(settings) & set(SECTIONS)
    ):
        raise MelHuBERTError(
            f"{path}: not a MelHuBERT checkpoint: keys {found or '(none)'} found, expected model and "
            "Upstream_Config with a section melhubert; is it another model's file?"
        )
    named = MelHuBERTConfig.from_mapping(settings, f"{path}: Upstream_Config", ignore_unknown=True)
    size = path.stat().st_size
    stored, (state, config) = state, checked_weights(state, named, str(path), size)
    origin = origin_of(settings, named, config, masked=len(stored) != len(state))
    if origin is not None:
        content.setdefault(ORIGIN, origin)
    stats = content.pop("Feature_Stats", None)
    if stats is not None:
        stats = FeatureStats.from_mapping(stats, f"in {path}")
    period = content.pop("Frame_Period", None)
    if period is not None and (not isinstance(period, int) or period != config.frame_period):
        raise MelHuBERTError(
            f"{path}: Frame_Period is {shown(period)} ms, but feat_emb_dim {config.feat_emb_dim} means "
            f"{config.frame_period} ms"
        )
    quantizer = content.pop("Quantizer", None)
    if quantizer is not None:
        quantizer = Quantizer.from_mapping(quantizer, f"{path}: Quantizer", size)
        quantizer.check_fits(config, f"{path}: Quantizer")
    step = content.pop("Step", None)
    if not isinstance(step, int | None) or isinstance(step, bool):
        raise MelHuBERTError(f"{path}: Step is {shown(step)}, expected a number of optimizer steps")
    return Checkpoint(path, config, state, stats, step, content, quantizer)


def open_checkpoint(source: str | Path, trust: bool = False) -> Checkpoint:
    """Read a checkpoint as `load_checkpoint` does, or from the Hugging Face Hub: ORG/NAME[@REVISION].

    Raises:
        MelHuBERTError: it cannot be had from there, or `load_checkpoint` refuses it.
    """
    path = fetch_model(repository_of(str(source))) if names_repository(source) else source
    return load_checkpoint(path, trust)


def _read_pickle(path: Path, trust: bool) -> dict[str, Any]:
    content = read_torch_file(path, trust)
    if not isinstance(content, dict):
        raise MelHuBERTError(
            f"{path}: not a MelHuBERT checkpoint: a {type(content).__name__} found, expected a dict with "
            "model and Upstream_Config; is it another model's file?"
        )
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    state, metadata = read_safetensors(path)
    try:
        content = {key: json.loads(metadata[key]) for key in SAFETENSORS_KEYS if key in metadata}
    except (ValueError, RecursionError) as error:
        raise unreadable(path, error) from None
    centroids = state.pop(CENTROIDS, None)  # of no known layer where another program dropped the metadata
    if isinstance(content.get("Quantizer"), dict):
        content["Quantizer"]["centroids"] = centroids
    if "Upstream_Config" not in content:
        content |= read_config_json(path.with_name(SETTINGS))
    return {"model": {name.removeprefix(TRANSFORMERS_PREFIX): state[name] for name in state}, **content}


def save_checkpoint(
    path: str | Path,
    config: MelHuBERTConfig,
    state: Mapping[str, Tensor],
    stats: str | Path | Mapping[str, Any] | FeatureStats | None,
    step: int | None = 0,
    rest: Mapping[str, Any] | None = None,
    quantizer: Quantizer | None = None,
    prefix: str = "",
) -> None:
    """Write a checkpoint that `load_model` will take. Readers see the old file or the new one, never a part.

    Args:
        path: a name ending in .safetensors chooses that format, any other the published one (with our
            keys `Feature_Stats`, `Frame_Period` and `Quantizer` added).
        config: the model's settings.
        state: the model's `state_dict()`.
        stats: the statistics the model was trained with, as `FeatureStats.load` takes them; None only for
            a published file converted without knowing them.
        step: optimizer steps of training so far; None if nobody knows, which the file then does not say.
        rest: more keys, such as `Optimizer`; .safetensors files cannot hold them and leave them out.
        quantizer: the centroids that make units of a layer, if there are any.
        prefix: what stands before the names of the weights, `TRANSFORMERS_PREFIX` in a file for transformers.

    Raises:
        MelHuBERTError: the folder cannot be written, the name is that of an .onnx file, the weights do not
            fit their settings or are not finite, or what is given could not be read again as data.
    """
    path = Path(path)
    refuse_onnx(path)
    try:
        step = None if step is None else operator.index(step)
    except TypeError:
        raise MelHuBERTError(f"{path}: step {shown(step)} found, expected a whole number of steps") from None
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    weights, real = checked_weights(state, config, f"{path}: not written", sys.maxsize)
    Checkpoint(path, real, weights).checked_shapes()
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    content: dict[str, Any] = {
        "Upstream_Config": {"melhubert": config.to_mapping()},
        "Frame_Period": config.frame_period,
    }
    if step is not None:
        content["Step"] = step
    if stats is not None:
        content["Feature_Stats"] = FeatureStats.load(stats).to_mapping()
    if quantizer is not None:
        content["Quantizer"] = quantizer.to_mapping()
    if rest and rest.get(ORIGIN) is not None:
        content[ORIGIN] = rest[ORIGIN]
    with atomic_path(path) as temporary:
        if named_safetensors(path):
            if quantizer is not None:
                state[CENTROIDS] = content["Quantizer"].pop("centroids")
            metadata = {
                key: json.dumps(content[key], default=str) for key in SAFETENSORS_KEYS if key in content
            }
            write_safetensors(temporary, state, {"format": "pt", **metadata})  # transformers asks for it
        else:
            # The published scripts look these keys up, whether or not they use them.
            published: dict[str, Any] = {"Optimizer": None, "Args": argparse.Namespace(), "Runner": {}}
            # Of a path, torch would close the file while it holds Python's lock, and every other thread would
            # wait until the file system has brought what is left to the disk.
            with temporary.open("wb") as file:
                torch.save({**published, **(rest or {}), **content, "model": state}, file)
            check_without_code(temporary, str(path))


def resolve_stats(
    checkpoint: Checkpoint,
    feature_stats: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    configured: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    entry_stats: str | None = None,
) -> FeatureStats:
    """Return the statistics of a checkpoint, from the first place that has them.

    Args:
        checkpoint: first, what the file itself holds.
        feature_stats: second, what the caller gives: a name, a file, a mapping, or the statistics.
        configured: third, what a settings file gives, in the same forms.
        entry_stats: fourth, the name of a published checkpoint's; if not given, the file is looked up
            among the published ones by its name and hash.

    Raises:
        MelHuBERTError: none of these has any.
    """
    given = [FeatureStats.load(source) for source in (feature_stats, configured) if source is not None]
    if checkpoint.stats is not None:
        if given and given[0] != checkpoint.stats:
            warnings.warn(
                f"{checkpoint.path}: uses the statistics that it was trained with and ignores those of "
                f"{given[0].name}",
                MelHuBERTWarning,
                stacklevel=2,
            )
        return checkpoint.stats
    if given:
        return given[0]
    if entry_stats is None:
        published = recognize(checkpoint.path)
        entry_stats = published.feature_stats if published else None
    if entry_stats is not None:
        return FeatureStats.load(entry_stats)
    raise MelHuBERTError(
        f"{checkpoint.path}: its log-Mel statistics are unknown: the file holds none, none were given "
        f"(feature_stats= in Python, --stats on the command line, `feature_stats:` in s3prl's -g YAML), and "
        f"it is no published checkpoint; give a name ({', '.join(published_stats())}) or a .yaml or .npy file"
    )


def load_model(
    path: str | Path,
    feature_stats: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    device: str | int | torch.device = "cpu",
) -> tuple[MelHuBERT, Frontend]:
    """Load a checkpoint's model, ready to use, and the frontend that makes its input.

    Args:
        path: a checkpoint file; a folder in transformers' layout; or a repository of the Hugging Face Hub,
            `ORG/NAME` or `ORG/NAME@REVISION`, of which nothing but `model.safetensors` and `config.json` is
            fetched and read.
        feature_stats: statistics, where the file holds none: a name (`librispeech-360h`), a .yaml or
            .npy file, or a mapping with `mean` and `std`.
        device: where to put both.

    Returns:
        The model in evaluation mode, and its `Frontend`.

    Raises:
        MelHuBERTError: the file cannot be used, its statistics are unknown, or there is no such device.

    Example::

        model, frontend = load_model("melhubert.ckpt", feature_stats="librispeech-360h")
        features, padding_mask = frontend([waveform])  # waveform: (n,) float32 at 16 kHz
        hidden_states = model(features, padding_mask).hidden_states  # 13 x (1, T, 768)
    """
    device = any_device(device)
    checkpoint = open_checkpoint(path)
    frontend = Frontend(resolve_stats(checkpoint, feature_stats), checkpoint.frame_period)
    return checkpoint.build_model().to(device), frontend.to(device)
