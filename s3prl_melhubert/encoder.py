"""The Transformer encoder: positional convolution, then layers of self-attention and an MLP.

The modules and parameters have the names of the published checkpoints and stand in their order, so that
the state dicts and optimizer states of these load as they are. How the frames of a batch lie in memory is
the business of `packing.py`; the faster forms of the operations on a CPU are in `kernels/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.config import LayerSizes, MelHuBERTConfig, layer_sizes
from s3prl_melhubert.kernels import (
    Linear,
    dropout,
    gelu_dropout,
    grouped_conv1d,
    linears,
    wants_every_derivative,
)
from s3prl_melhubert.packing import Frames, frames_of

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def init_bert(module: nn.Module) -> None:
    """Initialize a linear layer as BERT does: its weights normal with deviation 0.02, its bias zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PositionalConv(nn.Module):
    """A grouped convolution over time that tells each frame its place.

    The convolution's weight is `weight_v`, normalized to unit length at each position of the kernel and
    scaled by `weight_g`. The published checkpoints keep the two apart (wav2vec 2.0, section 2).

    Args:
        width: channels C of the input and of the output.
        kernel: size of the kernel in frames.
        groups: groups of the convolution; C must be divisible by it.
    """

    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.kernel = kernel
        self.groups = groups
        weight = torch.empty(width, width // groups, kernel)
        nn.init.normal_(weight, std=math.sqrt(4 / (kernel * width)))
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve over time: (B, C, T) -> (B, C, T).

        Output frame t sees the input frames t - kernel // 2 to t + (kernel - 1) // 2.
        """
        v, g = self.weight_v, self.weight_g
        if wants_every_derivative():  # torch's fused form has none in forward mode.
            weight = v * (g / v.norm(dim=(0, 1), keepdim=True))  # (C, C / groups, kernel)
        else:
            weight = torch._weight_norm(v, g, 2)
        y = grouped_conv1d(x, weight, self.bias, self.kernel // 2, self.groups)
        return y[:, :, : x.shape[2]]  # an even kernel makes one frame too many


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: C, the size of a frame.
        heads: H, the number of heads.
        head_width: D, the columns of a head; in a dense model H x D is C.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        inner = heads * head_width
        self.k_proj = Linear(width, inner)
        self.v_proj = Linear(width, inner)
        self.q_proj = Linear(width, inner)
        self.out_proj = Linear(inner, width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Let each utterance attend to itself; x: (..., C), packed by `frames` -> (..., C)."""
        if self.heads == 0:  # All were pruned.
            return torch.zeros_like(x) + self.out_proj.bias.to(x.dtype)
        q, k, v = linears(x, self.q_proj, self.k_proj, self.v_proj)
        return self.out_proj(frames.attention(q, k, v, self.heads, self.dropout if self.training else 0.0))


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer MLP, each with a residual connection and a LayerNorm."""

    def __init__(self, config: MelHuBERTConfig, sizes: LayerSizes):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.activation_fn = config.activation_fn
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.self_attn = SelfAttention(width, sizes.heads, sizes.head_width, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, sizes.rows)
        self.fc2 = Linear(sizes.rows, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the layer; x: (..., C), packed by `frames` -> (..., C)."""
        if self.norm_first:
            x = x + self.drop(self.self_attn(self.self_attn_layer_norm(x), frames))
            return x + self.drop(self.mlp(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.drop(self.self_attn(x, frames)))
        return self.final_layer_norm(x + self.drop(self.mlp(x)))

    def drop(self, x: Tensor) -> Tensor:
        """Drop elements of what is added to the residual."""
        return dropout(x, self.dropout, self.training)

    def mlp(self, x: Tensor) -> Tensor:
        """The two linear layers with the activation between them: (..., C) -> (..., C)."""
        if self.fc1.out_features == 0:  # All rows were pruned.
            return torch.zeros_like(x) + self.fc2.bias.to(x.dtype)
        x = self.fc1(x)
        if self.activation_fn == "gelu":
            x = gelu_dropout(x, self.activation_dropout, self.training)
        else:
            x = dropout(ACTIVATION_FUNCTIONS[self.activation_fn](x), self.activation_dropout, self.training)
        return self.fc2(x)


class Encoder(nn.Module):
    """Add the position to the projected input, then run the layers."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.layerdrop = config.encoder_layerdrop
        self.conv_pos = config.conv_pos
        # This is a sequence of one module because the published parameters are called `pos_conv.0.*`.
        self.pos_conv = nn.Sequential(PositionalConv(width, config.conv_pos, config.conv_pos_groups))
        self.layers = nn.ModuleList(EncoderLayer(config, sizes) for sizes in layer_sizes(config))
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = config.dropout
        self.apply(init_bert)

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None,
        frames: Frames | None = None,
        every_layer: bool = True,
    ) -> tuple[list[Tensor], Tensor]:
        """Encode frames whose padded positions are zero.

        Args:
            x: (B, T, C) projected input, zero where padded.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.
            frames: how the frames lie, if the caller knows more of it than the mask says.
            every_layer: whether to keep the outputs of the layers, which take memory that training needs.

        Returns:
            The outputs of the layers, each (B, T, C), if they were to be kept, and the final output
            (B, T, C): the last layer's, after the closing LayerNorm in a pre-norm model.
        """
        frames = frames_of(x, padding_mask, self.conv_pos // 2) if frames is None else frames
        x = frames.pack(x)
        x = x + F.gelu(frames.convolve(self.pos_conv, x))
        if not self.norm_first:
            x = self.layer_norm(x)
        x = dropout(x, self.dropout, self.training)

        outputs = []
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() < self.layerdrop):
                x = layer(x, frames)
            if every_layer:
                outputs.append(frames.unpack(x))
        if self.norm_first:
            return outputs, frames.unpack(self.layer_norm(x))
        # A caller who wants the input alone asks a model that has no layers.
        return outputs, outputs[-1] if outputs else frames.unpack(x)
