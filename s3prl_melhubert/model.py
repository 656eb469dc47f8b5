"""MelHuBERT: log-Mel frames in, hidden states and predictions of cluster labels out (arXiv 2211.09944)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.encoder import Encoder, init_bert
from s3prl_melhubert.kernels import Linear
from s3prl_melhubert.masking import span_mask


@dataclass
class MelHuBERTOutput:
    """What the model makes of a batch of B utterances, padded to T frames.

    Positions at padding hold no meaning (but are finite); `padding_mask` of the input tells them.
    """

    hidden_states: list[Tensor]  # the projected input (zero at padding), then each layer's output: (B, T, C)
    last_hidden_state: Tensor  # (B, T, C) the final output
    mask: Tensor | None  # (B, T) bool, true where the input was masked; None if nothing was


@dataclass
class PredictionLoss:
    """The training loss of a batch, and what one wants to see of it in a log.

    The sums are over frames, so that batches can be added up exactly: a mean over several batches is the
    sum of their sums over the sum of their counts.
    """

    loss: Tensor  # () weighted mean of the two cross-entropies, what is minimized
    masked_loss: Tensor  # () sum of the cross-entropy over masked frames, in nats
    masked_correct: Tensor  # () number of masked frames predicted right
    masked_frames: Tensor  # () number of masked frames
    unmasked_loss: Tensor
    unmasked_correct: Tensor
    unmasked_frames: Tensor

    @property
    def masked_accuracy(self) -> Tensor:
        return self.masked_correct / self.masked_frames.clamp(min=1)

    @property
    def unmasked_accuracy(self) -> Tensor:
        return self.unmasked_correct / self.unmasked_frames.clamp(min=1)


class MelHuBERT(nn.Module):
    """The model: project, mask, add position, encode, predict.

    Args:
        config: the settings; the published 20 ms base model if not given.
    """

    def __init__(self, config: MelHuBERTConfig | None = None):
        super().__init__()
        self.config = config = config or MelHuBERTConfig()
        if config.learnable_mask_emb:
            masked_dim = config.feat_emb_dim if config.mask_before_proj else config.encoder_embed_dim
            self.mask_emb = nn.Parameter(torch.empty(masked_dim).uniform_())
        if config.has_projection:
            self.pre_extract_proj = Linear(config.feat_emb_dim, config.encoder_embed_dim)
        self.encoder = Encoder(config)
        self.final_proj = Linear(config.encoder_embed_dim, config.num_cluster)
        if config.has_projection:
            init_bert(self.pre_extract_proj)
        init_bert(self.final_proj)

    def forward(
        self, features: Tensor, padding_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> MelHuBERTOutput:
        """Hidden states of a padded batch.

        Args:
            features: (B, T, feat_emb_dim) float, normalized log-Mel frames as `Frontend` makes them.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.
            mask: (B, T) bool, true at frames to hide from the model, as `draw_mask` makes it; None hides
                nothing.
        """
        before = self.config.mask_before_proj
        x = self._hide(features, mask if before else None)
        x = self.pre_extract_proj(x) if self.config.has_projection else x  # (B, T, C)
        x = self._hide(x, None if before else mask)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0)
        layers, last = self.encoder(x, padding_mask)
        return MelHuBERTOutput([x, *layers], last, mask)

    def _hide(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return x
        hidden = self.mask_emb.to(x.dtype) if self.config.learnable_mask_emb else x.new_zeros(())
        return torch.where(mask[..., None], hidden, x)

    def draw_mask(
        self, lengths: Tensor | list[int], max_length: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """A random (B, max_length) mask with this model's settings, on the CPU; see `span_mask`."""
        return span_mask(lengths, max_length, self.config.mask_prob, self.config.mask_length, generator)

    def predict(self, last_hidden_state: Tensor) -> Tensor:
        """(..., C) final outputs -> (..., num_cluster) logits of cluster labels."""
        return self.final_proj(last_hidden_state)

    def prediction_loss(
        self, last_hidden_state: Tensor, labels: Tensor, mask: Tensor, padding_mask: Tensor | None = None
    ) -> PredictionLoss:
        """Cross-entropy of the cluster labels: mean over masked frames, and over unmasked ones if weighted.

        Args:
            last_hidden_state: (B, T, C).
            labels: (B, T) int64 cluster ids in [0, num_cluster); anything at padding.
            mask: (B, T) bool, true where the input was masked.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.
        """
        config = self.config
        valid = torch.ones_like(mask) if padding_mask is None else ~padding_mask
        weights = {
            True: 0.0 if config.skip_masked else config.pred_masked_weight,
            False: 0.0 if config.skip_nomask else config.pred_nomask_weight,
        }
        parts = []
        loss = last_hidden_state.new_zeros((), dtype=torch.float32)
        for masked, weight in weights.items():
            chosen = valid & (mask if masked else ~mask)  # (B, T)
            # Nothing is learned from frames of no weight; what they cost to watch is the head alone.
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                logits = self.predict(last_hidden_state[chosen]).float()  # (frames, clusters)
                target = labels[chosen]
                total = F.cross_entropy(logits, target, reduction="sum")
                correct = (logits.argmax(-1) == target).sum()
            frames = chosen.sum()
            if weight > 0:
                loss = loss + weight * total / frames.clamp(min=1)
            parts += [total, correct, frames]
        return PredictionLoss(loss, *parts)
