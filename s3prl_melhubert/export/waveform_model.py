"""From waveforms to hidden states as one module, of operations that other runtimes have, too.

`Frontend` works on a list of waveforms and looks at their values; a graph works on one padded batch and knows
their lengths as a tensor alone. This module takes such a batch the whole way, with the model's own encoder.
The Fourier transform is a product with its matrix, because few runtimes have a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.encoder import PositionalConv
from s3prl_melhubert.fbank import (
    FFT_SIZE,
    FRAME_LENGTH,
    FRAME_SHIFT,
    INT16_SCALE,
    MEL_FLOOR,
    PRE_EMPHASIS,
)
from s3prl_melhubert.frontend import Frontend, mel_banks, window
from s3prl_melhubert.model import MelHuBERT

MIN_SAMPLES = FRAME_LENGTH  # of the batch; shorter waveforms are followed by zeros


class WaveformModel(nn.Module):
    """Log-Mel frames, normalization and model in one.

    Args:
        model: the model, which this module changes to its own: layers above the highest are left out.
        frontend: the frontend that makes its input.
        layers: indices of the hidden states that are wanted.
    """

    transform: Tensor
    banks: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: MelHuBERT, frontend: Frontend, layers: Sequence[int]):
        super().__init__()
        self.model = model.eval()
        self.has_last = max(layers) == model.config.encoder_layers
        model.encoder.layers = model.encoder.layers[: max(layers)]
        conv = model.encoder.pos_conv[0]
        assert isinstance(conv, PositionalConv)
        model.encoder.pos_conv = nn.Sequential(_PlainConv(conv))
        self.frame_period = frontend.frame_period
        self.layers = list(layers)
        cpu = torch.device("cpu")
        self.register_buffer("transform", _transform(), persistent=False)  # (400, 2 x 257)
        self.register_buffer("banks", mel_banks(cpu, torch.float32).T.contiguous(), persistent=False)
        self.register_buffer("mean", frontend.mean.cpu().clone(), persistent=False)
        self.register_buffer("std", frontend.std.cpu().clone(), persistent=False)

    @property
    def outputs(self) -> list[str]:
        """The names of what `forward` returns."""
        return ["hidden_states", *(["last_hidden_state"] if self.has_last else []), "frames"]

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Compute hidden states of a padded batch.

        Args:
            waveforms: (B, n) float32 samples in [-1, 1] at 16 kHz, n >= 400; anything after an utterance.
            lengths: (B,) int64 samples of each utterance, from 1 to n; a larger number counts as n.

        Returns:
            (layers, B, T, C) the hidden states of the layers; (B, T, C) the model's final output, if its last
            layer is among them; and the (B,) int64 frames of each utterance. What stands after these has no
            meaning but is finite.
        """
        lengths = lengths.clamp(max=waveforms.shape[1])  # A graph cannot refuse what it is given.
        # Log-Mel frames of 10 ms, and how many of them belong to the utterance.
        frames = self.log_mel(waveforms, lengths)  # (B, F, 40)
        counts = 1 + (lengths - FRAME_LENGTH).clamp(min=0) // FRAME_SHIFT  # (B,)
        frames = (frames - self.mean) / self.std
        inside = torch.arange(frames.shape[1], device=lengths.device) < counts[:, None]  # (B, F)
        features = torch.where(inside[..., None], frames, 0.0)
        if self.frame_period == 20:
            count = (features.shape[1] + 1) // 2
            features = F.pad(features, (0, 0, 0, 1))[:, : 2 * count].reshape(
                features.shape[0], count, 2 * features.shape[2]
            )
            counts = (counts + 1) // 2
        padding_mask = torch.arange(features.shape[1], device=lengths.device) >= counts[:, None]  # (B, T)
        output = self.model(features, padding_mask)
        chosen = torch.stack([output.hidden_states[layer] for layer in self.layers])
        return (chosen, output.last_hidden_state, counts) if self.has_last else (chosen, counts)

    def log_mel(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """`frontend.log_mel` of a padded batch: (B, n) -> (B, F, 40), F = 1 + (n - 400) // 160."""
        samples = torch.arange(waveforms.shape[1], device=lengths.device)
        waveforms = torch.where(samples < lengths[:, None], waveforms, 0.0) * INT16_SCALE
        count = (waveforms.shape[1] - FRAME_LENGTH) // FRAME_SHIFT + 1
        begins = FRAME_SHIFT * torch.arange(count, device=lengths.device)[:, None]
        frames = waveforms[:, begins + torch.arange(FRAME_LENGTH, device=lengths.device)]  # (B, F, 400)
        frames = frames - frames.mean(-1, keepdim=True)
        # The rows of the matrix already hold pre-emphasis and window.
        real, imaginary = (frames @ self.transform).chunk(2, dim=-1)  # (B, F, 257) each
        power = real.square() + imaginary.square()
        return (power @ self.banks).clamp(min=MEL_FLOOR).log()


class _PlainConv(nn.Module):
    """The positional convolution with its weight computed once."""

    def __init__(self, conv: PositionalConv):
        super().__init__()
        weight = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())
        self.groups = conv.groups

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv1d(x, self.weight, self.bias, padding=self.weight.shape[2] // 2, groups=self.groups)
        return y[:, :, : x.shape[2]]  # an even kernel makes one frame too many


def _transform() -> Tensor:
    """(400, 2 x 257): pre-emphasis, window, zeros to 512 samples, and the real Fourier transform, in one."""
    samples = torch.arange(FRAME_LENGTH, dtype=torch.float64)
    emphasis = torch.eye(FRAME_LENGTH, dtype=torch.float64)
    emphasis -= PRE_EMPHASIS * torch.diag(torch.ones(FRAME_LENGTH - 1, dtype=torch.float64), 1)
    emphasis[0, 0] -= PRE_EMPHASIS  # The first sample is taken to be preceded by itself.
    bins = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64)
    angles = 2 * math.pi / FFT_SIZE * samples[:, None] * bins  # (400, 257)
    waves = torch.cat((angles.cos(), -angles.sin()), dim=1)
    return (emphasis @ (window(torch.device("cpu"), torch.float64)[:, None] * waves)).float()
