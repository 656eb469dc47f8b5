"""The quantizer of a checkpoint: a layer, its centroids, and the nearest of these for every frame.

Centroids mean nothing without the model whose frames they were found among, as weights mean nothing without
their statistics; so a checkpoint carries its quantizer. There are three kinds, by what the frames are:

    log-Mel    normalized log-Mel frames, every 10 ms: what `prepare` clusters
    model      hidden states of this checkpoint's own model: what `relabel` clusters
    teacher    hidden states of another model, the one that made the labels which this one was trained on

The third kind says what the numbers that a model predicts stand for. It makes no units of this model's own
hidden states, which lie elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.config import N_MELS, MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.tensor_files import check_tensor, content_hash
from s3prl_melhubert.units.nearest import NearestCentroid

LOG_MEL, MODEL, TEACHER = "log-Mel", "model", "teacher"
LOG_MEL_PERIOD = 10  # ms; log-Mel frames are clustered before two of them are put side by side

HASH = "SHA256"  # the key of the hash of a quantizer's content in a checkpoint


@dataclass(frozen=True, eq=False)
class Quantizer:
    """The layer whose frames become units, and the centroids that number them.

    Example::

        checkpoint = load_checkpoint("melhubert.ckpt")
        output = model(features, padding_mask)
        units = checkpoint.quantizer(output.hidden_states[checkpoint.quantizer.layer])  # (B, T) int64
    """

    layer: int  # an index into `hidden_states`; 0 for log-Mel frames, which come before all of them
    centroids: np.ndarray  # (clusters, dim) float32, finite
    source: str = MODEL  # whose frames these are the centroids of: LOG_MEL, MODEL or TEACHER
    made_by: Mapping[str, Any] = field(default_factory=dict)  # the command that found them, and its arguments
    _nearest: dict[torch.device, NearestCentroid] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_arrays(
        cls, layer: int, centroids: Any, source: str, made_by: Mapping[str, Any], where: str
    ) -> Quantizer:
        """Check and keep a layer and its centroids.

        Args:
            layer: 0 to the number of layers.
            centroids: (clusters, dim) finite floating-point figures.
            source: LOG_MEL, MODEL or TEACHER.
            made_by: the command that found the centroids, as `dataset.yaml` has it.
            where: what an error calls them.

        Raises:
            MelHuBERTError: one of these cannot be.
        """
        centroids = np.asarray(centroids)
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise MelHuBERTError(f"{where}: layer {shown(layer)} found, expected 0 or a layer's number")
        if source not in (LOG_MEL, MODEL, TEACHER):
            raise MelHuBERTError(f"{where}: source {shown(source)} found, expected log-Mel, model or teacher")
        if centroids.ndim != 2 or 0 in centroids.shape or centroids.dtype.kind != "f":
            raise MelHuBERTError(
                f"{where}: centroids of shape {centroids.shape} and type {centroids.dtype} found, expected a "
                "row of floating-point figures per cluster"
            )
        if not np.isfinite(centroids).all():
            raise MelHuBERTError(f"{where}: centroids that are not finite; the file is damaged")
        if source == LOG_MEL and (layer, centroids.shape[1]) != (0, N_MELS):
            raise MelHuBERTError(
                f"{where}: centroids of log-Mel frames are {centroids.shape[1]} wide at layer {layer}, "
                f"expected {N_MELS} at layer 0"
            )
        # The copy is no view of a file, which may go.
        return cls(layer, np.array(centroids, np.float32, order="C"), source, dict(made_by))

    @property
    def clusters(self) -> int:
        """How many units there are; they are numbered from 0."""
        return len(self.centroids)

    @property
    def digest(self) -> str:
        """A SHA-256 of layer, source, origin and centroids, which files keep beside them."""
        said = {"layer": str(self.layer), "source": self.source, "made_by": _as_json(self.made_by)}
        return content_hash({"centroids": torch.from_numpy(self.centroids)}, said)

    def period(self, frame_period: int) -> int:
        """Milliseconds from one unit to the next: 10 for log-Mel frames, else the model's frame period."""
        return LOG_MEL_PERIOD if self.source == LOG_MEL else frame_period

    def __call__(self, frames: Tensor) -> Tensor:
        """Number the frames of a layer.

        Args:
            frames: (..., dim) float: hidden states of `layer`, or for log-Mel centroids, normalized log-Mel
                frames of 10 ms (`frontend.normalize(log_mel(waveform))`).

        Returns:
            (...) int64 units in [0, clusters), on the same device. A frame at padding gets one, too.

        Raises:
            MelHuBERTError: the frames are of another width, or are no finite floating-point figures.
        """
        dim = self.centroids.shape[1]
        if not isinstance(frames, Tensor) or not frames.is_floating_point():
            found = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
            raise MelHuBERTError(
                f"quantizer: frames are {found}, expected a tensor of floating-point figures"
            )
        if frames.shape[-1:] != (dim,):
            width = frames.shape[-1] if frames.dim() else "none"
            raise MelHuBERTError(
                f"quantizer: frames of width {width} found, expected {dim}, the width of {self.what_frames()}"
            )
        if frames.device not in self._nearest:
            self._nearest[frames.device] = NearestCentroid(self.centroids, frames.device)
        # numpy has no bfloat16.
        units = self._nearest[frames.device](frames.detach().float().reshape(-1, dim))
        return torch.from_numpy(units).long().to(frames.device).reshape(frames.shape[:-1])

    def what_frames(self) -> str:
        """What is numbered, in words: `log-Mel frames`, `layer 9`, `layer 9 of its teacher`."""
        if self.source == LOG_MEL:
            return "log-Mel frames"
        return f"layer {self.layer}" + (" of its teacher" if self.source == TEACHER else "")

    def check_fits(self, config: MelHuBERTConfig, where: str) -> None:
        """Raise a MelHuBERTError where this cannot be the quantizer of a model with these settings.

        Centroids of a teacher's hidden states fit any model, because it is not their frames that they number.
        """
        if self.source != MODEL:
            return
        if self.layer > config.encoder_layers:
            raise MelHuBERTError(
                f"{where}: is of layer {self.layer}, but the model has {config.encoder_layers} layers"
            )
        if self.centroids.shape[1] != config.encoder_embed_dim:
            raise MelHuBERTError(
                f"{where}: centroids {self.centroids.shape[1]} wide found, expected "
                f"{config.encoder_embed_dim}, the width of the model's layers; they are another model's"
            )

    def is_as(self, other: Quantizer) -> bool:
        """Whether both number the same frames in the same way, however they were found."""
        return (self.source, self.layer) == (other.source, other.layer) and np.array_equal(
            self.centroids, other.centroids
        )

    def to_mapping(self) -> dict[str, Any]:
        """What a checkpoint keeps: `layer`, `source`, `made_by`, `centroids` (a tensor) and their hash."""
        return {
            "layer": self.layer,
            "source": self.source,
            "made_by": json.loads(_as_json(self.made_by)),
            "centroids": torch.from_numpy(self.centroids.copy()),
            HASH: self.digest,
        }

    @classmethod
    def from_mapping(cls, mapping: Any, where: str, file_size: int) -> Quantizer:
        """The quantizer of a checkpoint's content.

        Args:
            mapping: what `to_mapping` made.
            where: what an error calls it.
            file_size: bytes of the file, more than which the centroids cannot have.

        Raises:
            MelHuBERTError: a key is missing or impossible, or the content is not what was written.
        """
        expected = ("layer", "source", "made_by", "centroids", HASH)
        if not isinstance(mapping, Mapping) or set(mapping) != set(expected):
            found = sorted(map(str, mapping)) if isinstance(mapping, Mapping) else mapping
            raise MelHuBERTError(f"{where}: {shown(found)} found, expected {', '.join(expected)}")
        if not isinstance(mapping["made_by"], Mapping):
            raise MelHuBERTError(f"{where}: made_by is {shown(mapping['made_by'])}, expected a mapping")
        check_tensor(mapping["centroids"], "centroids", where, file_size)
        quantizer = cls.from_arrays(
            mapping["layer"],
            mapping["centroids"].detach().float().numpy(),
            mapping["source"],
            mapping["made_by"],
            where,
        )
        if mapping[HASH] != quantizer.digest:
            raise MelHuBERTError(
                f"{where}: its content is not what was written (its SHA-256 differs); copy or fetch it again"
            )
        return quantizer


def _as_json(made_by: Mapping[str, Any]) -> str:
    return json.dumps(dict(made_by), sort_keys=True, default=str)
