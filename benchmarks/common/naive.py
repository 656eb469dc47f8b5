"""MelHuBERT's encoder as one writes it down first: what the package's model is compared with.

Every score of the attention stands in memory, with its softmax and what dropout leaves of it; dropout is
torch's; padding is worked on as if it were speech. The parameters have the names of the package's, so that
one's state dict fits the other.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.config import MelHuBERTConfig


class NaiveAttention(nn.Module):
    def __init__(self, width: int, heads: int, p: float):
        super().__init__()
        self.heads, self.p = heads, p
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None], float("-inf"))
        weights = F.dropout(scores.softmax(-1), self.p, self.training)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class NaiveLayer(nn.Module):
    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width, inner = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.p = config.dropout
        self.self_attn = NaiveAttention(width, config.encoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        y = F.dropout(self.self_attn(x, padding_mask), self.p, self.training)
        x = self.self_attn_layer_norm(x + y)
        y = F.dropout(F.gelu(self.fc1(x)), self.p, self.training)
        return self.final_layer_norm(x + F.dropout(self.fc2(y), self.p, self.training))


class NaiveEncoder(nn.Module):
    """Post-norm only, GELU only; takes the place of `MelHuBERT.encoder`."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.p = config.dropout
        conv = nn.Conv1d(
            width, width, config.conv_pos, padding=config.conv_pos // 2, groups=config.conv_pos_groups
        )
        self.pos_conv = nn.Sequential(nn.utils.weight_norm(conv, dim=2))
        self.layers = nn.ModuleList(NaiveLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, padding_mask: Tensor | None, frames: object = None, every_layer: bool = True
    ) -> tuple[list[Tensor], Tensor]:
        position = self.pos_conv(x.transpose(1, 2))[..., : x.shape[1]]
        x = self.layer_norm(x + F.gelu(position).transpose(1, 2))
        x = F.dropout(x, self.p, self.training)
        outputs = []
        for layer in self.layers:
            x = layer(x, padding_mask)
            outputs += [x] * every_layer
        return outputs, x


def naive(model: nn.Module) -> nn.Module:
    """The model with its encoder written naively; the same parameters' values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm: its successor has other names
        encoder = NaiveEncoder(model.config)
    encoder.load_state_dict(model.encoder.state_dict())
    model.encoder = encoder.train(model.training)
    for name, module in list(model.named_children()):
        if isinstance(module, nn.Linear):
            plain = nn.Linear(module.in_features, module.out_features)
            plain.load_state_dict(module.state_dict())
            setattr(model, name, plain)
    return model


def check(config: MelHuBERTConfig | None = None) -> float:
    """Largest difference of the last hidden state between the two, on a padded batch."""
    from s3prl_melhubert.model import MelHuBERT

    torch.manual_seed(0)
    model = MelHuBERT(config).eval()
    features = torch.randn(2, 60, model.config.feat_emb_dim)
    padding_mask = torch.zeros(2, 60, dtype=torch.bool)
    padding_mask[1, 40:] = True
    with torch.no_grad():
        ours = model(features, padding_mask).last_hidden_state
        theirs = naive(model)(features, padding_mask).last_hidden_state
    return float((ours - theirs)[~padding_mask].abs().max())
