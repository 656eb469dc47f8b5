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
from s3prl_melhubert.kernels import Linear, dropout, gelu_dropout, packed_attention

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
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


class Frames:
    """How the frames of a batch lie in memory, and so who attends to whom.

    Here: as a padded batch (B, T, C), padding included, which is what a GPU does best.

    Args:
        padding_mask: (B, T) bool, true at padding; None if nothing is padded.
    """

    def __init__(self, padding_mask: Tensor | None):
        self.attend = None if padding_mask is None else ~padding_mask[:, None, None, :]  # (B, 1, 1, T)

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, C) -> the frames as the layers take them."""
        return x

    def unpack(self, x: Tensor) -> Tensor:
        """What a layer made of them -> (B, T, C), finite at padding."""
        return x

    def convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        """The convolution over each utterance's time, which sees zeros before and after it."""
        return conv(x.transpose(1, 2)).transpose(1, 2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, dropout_p: float) -> Tensor:
        """Softmax attention of each utterance to itself: three of a layer's shape (..., C) -> (..., C)."""
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attend, dropout_p=dropout_p)
        return y.transpose(1, 2).flatten(2)


class PackedFrames(Frames):
    """The frames of all utterances one after the other, (N, C), without padding: what a CPU does best.

    Padding then costs nothing in the layers, which are nearly all of the work.

    Args:
        padding_mask: (B, T) bool, true at padding, which follows each utterance; None if nothing is padded.
        shape: B and T.
        gap: zeros that the convolution wants between two utterances: the frames that it looks back.
    """

    def __init__(self, padding_mask: Tensor | None, shape: tuple[int, int], gap: int):
        self.shape, self.gap = shape, gap
        self.valid = None if padding_mask is None else ~padding_mask  # (B, T)
        self.lengths = [shape[1]] * shape[0] if self.valid is None else self.valid.sum(1).tolist()

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1) if self.valid is None else x[self.valid]

    def unpack(self, x: Tensor) -> Tensor:
        if self.valid is None:
            return x.unflatten(0, self.shape)
        padded = nn.utils.rnn.pad_sequence(x.split(self.lengths), batch_first=True)
        missing = self.shape[1] - padded.shape[1]  # where the batch is longer than its longest utterance
        return F.pad(padded, (0, 0, 0, missing)) if missing else padded

    def convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        if self.valid is None:
            return super().convolve(conv, x.unflatten(0, self.shape)).flatten(0, 1)
        # One long row, with zeros between two utterances.
        utterance = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))  # (N,)
        place = torch.arange(len(x)) + self.gap * utterance
        row = x.new_zeros(len(x) + self.gap * len(self.lengths), x.shape[1]).index_copy(0, place, x)
        return super().convolve(conv, row[None])[0, place]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, dropout_p: float) -> Tensor:
        return packed_attention(q, k, v, self.lengths, heads, dropout_p)


def frames_of(x: Tensor, padding_mask: Tensor | None, gap: int) -> Frames:
    """The layout for a padded batch (B, T, C); `gap` as in `PackedFrames`."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and _is_at_the_end(padding_mask):
        return PackedFrames(padding_mask, (x.shape[0], x.shape[1]), gap)
    return Frames(padding_mask)


def _is_at_the_end(padding_mask: Tensor | None) -> bool:
    return padding_mask is None or not (padding_mask[:, :-1] & ~padding_mask[:, 1:]).any()


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """x: (..., C), packed as `frames` -> (..., C)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(frames.attention(q, k, v, self.heads, self.dropout if self.training else 0.0))


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer MLP, each with a residual connection and a LayerNorm."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.activation_fn = config.activation_fn
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.self_attn = SelfAttention(width, config.encoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """x: (..., C), packed as `frames` -> (..., C)."""
        if self.norm_first:
            x = x + self.drop(self.self_attn(self.self_attn_layer_norm(x), frames))
            return x + self.drop(self.mlp(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.drop(self.self_attn(x, frames)))
        return self.final_layer_norm(x + self.drop(self.mlp(x)))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def mlp(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.activation_fn == "gelu":
            x = gelu_dropout(x, self.activation_dropout, self.training)
        else:
            x = dropout(ACTIVATION_FUNCTIONS[self.activation_fn](x), self.activation_dropout, self.training)
        return self.fc2(x)


class Encoder(nn.Module):
    """Adds position to the projected input and runs the layers."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.layerdrop = config.encoder_layerdrop
        self.conv_pos = config.conv_pos
        # A sequence of one, because the published parameters are called `pos_conv.0.*`.
        self.pos_conv = nn.Sequential(PositionalConv(width, config.conv_pos, config.conv_pos_groups))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = config.dropout
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
        frames = frames_of(x, padding_mask, self.conv_pos // 2)
        x = frames.pack(x)
        x = x + F.gelu(frames.convolve(self.pos_conv, x))
        if not self.norm_first:
            x = self.layer_norm(x)
        x = dropout(x, self.dropout, self.training)

        outputs = []
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() < self.layerdrop):
                x = layer(x, frames)
            outputs.append(frames.unpack(x))
        last = outputs[-1] if outputs else frames.unpack(x)  # no layers: who asks for the input alone
        return outputs, self.layer_norm(last) if self.norm_first else last
