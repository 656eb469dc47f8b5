"""The Transformer encoder: positional convolution, then layers of self-attention and an MLP.

Modules and parameters have the names (and stand in the order) of the published checkpoints, so that
their state dicts and optimizer states load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.config import MelHuBERTConfig

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def init_bert(module: nn.Module) -> None:
    """Initialize as BERT: linear weights normal with deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PositionalConv(nn.Module):
    """A grouped convolution over time, weight-normalized over the kernel axis, that tells frames their place.

    The weight is `weight_v`, normalized to unit length for each kernel position and scaled by
    `weight_g`: the published checkpoints keep the two apart (wav2vec 2.0, section 2).
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
        """x: (B, C, T) -> (B, C, T); output t sees frames t - kernel // 2 to t + (kernel - 1) // 2."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 2)  # (C, C / groups, kernel)
        y = F.conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return y[:, :, : x.shape[2]]  # an even kernel makes one frame too many


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """x: (B, T, C); attend: (B, 1, 1, T) bool, true at keys to attend to, None for all -> (B, T, C)."""
        batch, time, width = x.shape
        q, k, v = (
            projection(x).view(batch, time, self.heads, -1).transpose(1, 2)  # (B, H, T, D)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)  # (B, H, T, D)
        return self.out_proj(y.transpose(1, 2).reshape(batch, time, width))


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer MLP, each with a residual connection and a LayerNorm."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.activation = ACTIVATION_FUNCTIONS[config.activation_fn]
        self.self_attn = SelfAttention(width, config.encoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """x: (B, T, C), attend as in `SelfAttention` -> (B, T, C)."""
        if self.norm_first:
            x = x + self.residual_dropout(self.self_attn(self.self_attn_layer_norm(x), attend))
            return x + self.mlp(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.residual_dropout(self.self_attn(x, attend)))
        return self.final_layer_norm(x + self.mlp(x))

    def mlp(self, x: Tensor) -> Tensor:
        x = self.activation_dropout(self.activation(self.fc1(x)))
        return self.residual_dropout(self.fc2(x))


class Encoder(nn.Module):
    """Adds position to the projected input and runs the layers."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.layerdrop = config.encoder_layerdrop
        # A sequence of one, because the published parameters are called `pos_conv.0.*`.
        self.pos_conv = nn.Sequential(PositionalConv(width, config.conv_pos, config.conv_pos_groups))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.apply(init_bert)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Encode frames whose padded positions are zero.

        Args:
            x: (B, T, C) projected input, zero where padded.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.

        Returns:
            The outputs of the layers, each (B, T, C), and the final output (B, T, C): the last layer's,
            after the closing LayerNorm in a pre-norm model.
        """
        position = F.gelu(self.pos_conv(x.transpose(1, 2))).transpose(1, 2)  # (B, T, C)
        x = x + position
        if not self.norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)

        attend = None if padding_mask is None else ~padding_mask[:, None, None, :]  # (B, 1, 1, T)
        outputs = []
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() < self.layerdrop):
                x = layer(x, attend)
            outputs.append(x)
        return outputs, self.layer_norm(x) if self.norm_first else x
