"""MelHuBERT as an upstream of s3prl that needs torch alone, for SUPERB's hidden set.

s3prl runs it with `run_downstream.py --hub huggingface -u ORG/NAME`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s3prl_melhubert.frontend import Frontend, lengthen_for_s3prl
from s3prl_melhubert.model import MelHuBERT

# SUPERB's tasks, and the name that its organizers have for theirs. All read the same hidden states.
TASKS = ("PR", "SID", "ER", "ASR", "ASV", "SD", "KS", "IC", "SF", "QbE", "ST", "SE", "SS", "VC", "secret")


class MelHuBERTConfig(SimpleNamespace):
    """The settings of a model, as its checkpoint holds them."""

    feat_emb_dim: int
    encoder_embed_dim: int

    @property
    def has_projection(self) -> bool:
        """Whether a linear layer maps the input to the encoder's width."""
        return self.feat_emb_dim != self.encoder_embed_dim


class FeatureStats(NamedTuple):
    """Mean and deviation of the natural logarithms of mel energies, 40 figures each."""

    mean: Tensor
    std: Tensor


class UpstreamExpert(nn.Module):
    """MelHuBERT as an upstream.

    Args:
        ckpt: the model's file, which is beside this one.
        model_config: nothing; the settings are in the model's file.
        kwargs: what s3prl passes to every upstream.
    """

    def __init__(self, ckpt: str = "./model.pt", model_config: str | None = None, **kwargs: Any):
        super().__init__()
        if not Path(ckpt).is_file():
            ckpt = str(Path(__file__).resolve().with_name(Path(ckpt).name))
        # torch writes checksums, and does not look at them.
        with zipfile.ZipFile(ckpt) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{ckpt}: is damaged (the checksum of {damaged} in it differs); fetch it again")
        content = torch.load(ckpt, map_location="cpu", weights_only=True)
        settings: Any = MelHuBERTConfig(**content["Upstream_Config"]["melhubert"])
        figures = (content["Feature_Stats"][key] for key in ("mean", "std"))
        stats: Any = FeatureStats(*(torch.tensor(each, dtype=torch.float32) for each in figures))
        self.frontend = Frontend(stats, content["Frame_Period"])
        self.model = MelHuBERT(settings).float()  # whatever torch's default type is
        self.model.load_state_dict(content["model"])
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples between two frames of any output: 160 or 320."""
        return self.frontend.samples_per_frame

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Compute the hidden states of a batch.

        Args:
            wavs: unpadded 1-D float waveforms in [-1, 1] at 16 kHz, on the model's device.

        Returns:
            `hidden_states` and, under the name of each of SUPERB's tasks, the same: a list of (B, T, C)
            float32, the projected input and the output of each layer; `last_hidden_state`: (B, T, C).
        """
        features, padding_mask = self.frontend(wavs)
        with torch.autocast(features.device.type, enabled=False):
            output = self.model(features, padding_mask)
        longest, hop = max(len(wav) for wav in wavs), self.frontend.samples_per_frame
        hidden_states = [lengthen_for_s3prl(hidden, longest, hop) for hidden in output.hidden_states]
        last = lengthen_for_s3prl(output.last_hidden_state, longest, hop)
        return {
            "hidden_states": hidden_states,
            "last_hidden_state": last,
            **dict.fromkeys(TASKS, hidden_states),
            **{f"hidden_state_{i}": hidden for i, hidden in enumerate(hidden_states)},
        }
