"""The model: it turns log-Mel frames into hidden states and predicts cluster labels (arXiv 2211.09944)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_melhubert.config import MelHuBERTConfig, layer_sizes
from s3prl_melhubert.encoder import Encoder, init_bert
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.kernels import Linear
from s3prl_melhubert.loss import LossWeights, PredictionLoss, prediction_loss
from s3prl_melhubert.masking import check_masks, draw_mask
from s3prl_melhubert.packing import Frames


@dataclass
class MelHuBERTOutput:
    """The model's output for a batch of B utterances, padded to T frames.

    All of it is zero at padding, on every device. Where a longer utterance is in the batch, s3prl takes a
    frame or two more of one than it has, so that what stands there is seen by whatever is trained on it.
    """

    # The projected input, then the output of each layer: each (B, T, C). There are none where nobody asked.
    hidden_states: list[Tensor]
    last_hidden_state: Tensor  # (B, T, C) the final output
    mask: Tensor | None  # (B, T) bool, true where the input was masked; None if nothing was


class MelHuBERT(nn.Module):
    """The model, in five steps: mask, project, add the position, encode, predict.

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
        self,
        features: Tensor,
        padding_mask: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        frames: Frames | None = None,
        every_layer: bool = True,
    ) -> MelHuBERTOutput:
        """Compute the hidden states of a padded batch.

        Args:
            features: (B, T, feat_emb_dim) float, normalized log-Mel frames as `Frontend` makes them; a model
                in another type than theirs takes them in its own.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.
            mask: (B, T) bool, true at the frames to hide from the model, as `draw_mask` makes it; None hides
                nothing.
            frames: how the frames lie, if the caller knows more of it than `padding_mask` says.
            every_layer: whether the hidden states are wanted; training needs the final output alone, and the
                memory.

        Raises:
            MelHuBERTError: the features have another shape, such as those of another frame period, or are no
                floating-point figures; or a mask is not a bool for each frame.
        """
        width = self.config.feat_emb_dim
        if not isinstance(features, Tensor):
            raise MelHuBERTError(
                f"features: {type(features).__name__} found, expected a tensor (B, T, {width})"
            )
        if features.dim() != 3 or features.shape[-1] != width or not features.shape[1]:
            raise MelHuBERTError(
                f"features: shape {tuple(features.shape)} found, expected (B, T, {width}) with T > 0, as "
                "this model's Frontend makes them; frames of another period have another width"
            )
        if not features.is_floating_point():
            raise MelHuBERTError(f"features: {features.dtype} found, expected floating-point figures")
        check_masks(features.shape[:2], padding_mask=padding_mask, mask=mask)
        # A model in bfloat16 reads what its Frontend makes, which is float32. The type is that of a parameter
        # that keeps it where linear layers are quantized or pruned.
        features = features.to(self.encoder.pos_conv[0].bias.dtype)  # type: ignore[arg-type]
        before = self.config.mask_before_proj
        if padding_mask is not None:  # Nothing learns from what stands there, not even that it is no number.
            features = features.masked_fill(padding_mask[..., None], 0)
        x = self._hide(features, mask if before else None)
        x = self.pre_extract_proj(x) if self.config.has_projection else x  # (B, T, C)
        x = self._hide(x, None if before else mask)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0)
        layers, last = self.encoder(x, padding_mask, frames, every_layer)
        return MelHuBERTOutput([x, *layers] if every_layer else [], last, mask)

    def _hide(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Replace the masked frames by zeros or by the learned vector."""
        if mask is None:
            return x
        hidden = self.mask_emb.to(x.dtype) if self.config.learnable_mask_emb else x.new_zeros(())
        return torch.where(mask[..., None], hidden, x)

    def draw_mask(
        self, lengths: Tensor | list[int], max_length: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw a random (B, max_length) mask with this model's settings, on the CPU; see `span_mask`."""
        return draw_mask(self.config, lengths, max_length, generator)

    def predict(self, last_hidden_state: Tensor) -> Tensor:
        """Predict the cluster labels: (..., C) final outputs -> (..., num_cluster) logits."""
        return self.final_proj(last_hidden_state)

    def prediction_loss(
        self, last_hidden_state: Tensor, labels: Tensor, mask: Tensor, padding_mask: Tensor | None = None
    ) -> PredictionLoss:
        """Cross-entropy of the cluster labels, weighted as the settings say.

        Args:
            last_hidden_state: (B, T, C) the final output of `forward`, whose input was masked.
            labels: (B, T) cluster ids in [0, num_cluster) of any integer type; anything at padding, and -100
                at frames that are to be left out.
            mask: (B, T) bool, true where the input was masked.
            padding_mask: (B, T) bool, true at padding; None if nothing is padded.

        Returns:
            The loss over these frames: `.loss` is what is minimized, `.masked_accuracy` and the sums over
            frames are what one wants to see in a log.

        Raises:
            MelHuBERTError: as the function `prediction_loss` says.
        """
        return prediction_loss(
            self.predict,
            last_hidden_state,
            labels,
            mask=mask,
            padding_mask=padding_mask,
            weights=LossWeights.of(self.config),
        )


def parameter_count(config: MelHuBERTConfig) -> int:
    """Number of parameters of a model with these settings, by arithmetic: nothing is built."""
    width = config.encoder_embed_dim
    layers = 0
    for heads, head_width, rows in layer_sizes(config):
        inner = heads * head_width
        layers += 3 * (width * inner + inner) + (inner * width + width)  # q, k, v; out
        layers += (width * rows + rows) + (rows * width + width) + 4 * width  # MLP; two LayerNorms
    position = width * (width // config.conv_pos_groups) * config.conv_pos + config.conv_pos + width
    count = layers + position + 2 * width + (width + 1) * config.num_cluster
    if config.has_projection:
        count += (config.feat_emb_dim + 1) * width
    if config.learnable_mask_emb:
        count += config.feat_emb_dim if config.mask_before_proj else width
    return count


def macs_per_second(config: MelHuBERTConfig) -> int:
    """Count the multiply-accumulates (MACs) that the model spends on one second of speech.

    That is 50 frames at 20 ms and 100 at 10 ms. The model runs on tensors that hold no data. Matrix products
    and convolutions are counted, those of attention included. The prediction head, which only pre-training
    uses, and the log-Mel are not counted. The published 20 ms model needs 4.54e9.

    Raises:
        MelHuBERTError: the frame period cannot be told from `feat_emb_dim`.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    frames = 1000 // config.frame_period
    with torch.device("meta"):
        model = MelHuBERT(config).eval()
        features = torch.empty(1, frames, config.feat_emb_dim)
    # The counter knows attention as two matrix products; fused kernels it may pass over.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(features)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two
