"""MelHuBERT as models of transformers: hidden states, masked prediction, CTC, classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    ModelOutput,
    SequenceClassifierOutput,
)

from s3prl_melhubert.encoder import PositionalConv, init_bert
from s3prl_melhubert.hub.configuration_melhubert import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT, MelHuBERTOutput


@dataclass
class MelHuBERTForPreTrainingOutput(ModelOutput):
    """The result of masked prediction."""

    loss: Tensor | None = None  # () what pre-training minimizes, where labels were given
    logits: Tensor | None = None  # (B, T, num_cluster)
    masked_accuracy: Tensor | None = None  # () fraction of masked frames whose cluster was predicted
    mask_time_indices: Tensor | None = None  # (B, T) bool, true where the input was masked
    hidden_states: tuple[Tensor, ...] | None = None  # each (B, T, C)
    attentions: tuple[Tensor, ...] | None = None


class MelHuBERTPreTrainedModel(PreTrainedModel):
    """What the models below share: the settings, the initial weights, and the call of the encoder."""

    config_class = MelHuBERTConfig
    main_input_name = "input_features"
    # The centroids of discrete units, which s3prl-melhubert keeps beside the weights.
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\."]  # noqa: RUF012
    _supports_sdpa = True
    melhubert: MelHuBERT

    def __init__(self, config: MelHuBERTConfig):
        # They are checked again, because `from_pretrained` sets what it is given after the file was read.
        config.check()
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers lets the functions of nn.init pass over weights that come from a checkpoint.
        init_bert(module)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, PositionalConv):
            width, _, kernel = module.weight_v.shape
            nn.init.normal_(module.weight_v, std=(4 / (kernel * width)) ** 0.5)
            nn.init.zeros_(module.bias)
            if not getattr(module.weight_g, "_is_hf_initialized", False):
                module.weight_g.copy_(module.weight_v.norm(dim=(0, 1), keepdim=True))
        elif isinstance(module, MelHuBERT) and hasattr(module, "mask_emb"):
            nn.init.uniform_(module.mask_emb)
        elif isinstance(module, LayerSum) and module.weights is not None:
            nn.init.zeros_(module.weights)

    def encode(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None,
        mask: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> MelHuBERTOutput:
        """Compute all hidden states.

        Args:
            input_features: (B, T, 40 or 80), as the feature extractor makes them.
            attention_mask: (B, T), 1 at frames and 0 at padding; None if nothing is padded.
            mask: (B, T) bool, true at the frames to hide from the model; None hides nothing.
            output_attentions: false; the fused attention does not keep its weights.
        """
        if output_attentions:
            raise ValueError(
                "output_attentions: True found, expected False; MelHuBERT keeps no attention weights"
            )
        padding = None if attention_mask is None else ~attention_mask.bool()
        return self.melhubert(input_features.to(self.dtype), padding, mask)

    def give(
        self,
        kind: type[ModelOutput],
        hidden_states: list[Tensor],
        output_hidden_states: bool | None,
        return_dict: bool | None,
        **fields: Any,
    ) -> Any:
        """Make the output of a forward pass, or a tuple of it, with the hidden states if asked for."""
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            fields["hidden_states"] = tuple(hidden_states)
        output = kind(**fields)
        as_dict = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


class MelHuBERTModel(MelHuBERTPreTrainedModel):
    """The hidden states of MelHuBERT."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__(config)
        self.melhubert = MelHuBERT(config)  # type: ignore[arg-type]
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Compute the hidden states of a batch.

        Args:
            input_features: (B, T, 40 or 80), as the feature extractor makes them.
            attention_mask: (B, T), 1 at frames and 0 at padding; None if nothing is padded.
            mask_time_indices: (B, T) bool, true at the frames to hide from the model; None hides nothing.
            output_attentions: false; the fused attention does not keep its weights.
            output_hidden_states: return the projected input and the output of each layer, too.
            return_dict: false returns a tuple.
        """
        output = self.encode(input_features, attention_mask, mask_time_indices, output_attentions)
        return self.give(
            BaseModelOutput,
            output.hidden_states,
            output_hidden_states,
            return_dict,
            last_hidden_state=output.last_hidden_state,
        )


class MelHuBERTForPreTraining(MelHuBERTPreTrainedModel):
    """MelHuBERT with its prediction of clusters, and the loss that pre-training minimizes."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__(config)
        self.melhubert = MelHuBERT(config)  # type: ignore[arg-type]
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Predict the cluster of each frame, as `MelHuBERTModel.forward`.

        Args:
            input_features: (B, T, 40 or 80).
            attention_mask: (B, T), 1 at frames.
            labels: (B, T) cluster ids, anything at padding, -100 at frames to leave out of the loss; None
                predicts without a loss.
            mask_time_indices: (B, T) bool, true at the frames to hide; None draws spans where labels are.
            output_attentions: false.
            output_hidden_states: return all hidden states, too.
            return_dict: false returns a tuple.
        """
        mask = mask_time_indices
        if mask is None and labels is not None:
            mask = self.draw_mask(input_features, attention_mask)
        output = self.encode(input_features, attention_mask, mask, output_attentions)
        fields: dict[str, Any] = {
            "logits": self.melhubert.predict(output.last_hidden_state),
            "mask_time_indices": mask,
        }
        if labels is not None and mask is not None:
            padding = None if attention_mask is None else ~attention_mask.bool()
            loss = self.melhubert.prediction_loss(output.last_hidden_state, labels, mask, padding)
            fields |= {"loss": loss.loss, "masked_accuracy": loss.masked_accuracy}
        return self.give(
            MelHuBERTForPreTrainingOutput, output.hidden_states, output_hidden_states, return_dict, **fields
        )

    def draw_mask(self, input_features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Draw a (B, T) mask of spans over the frames of each utterance, wherever its padding is."""
        batch, time = input_features.shape[:2]
        if attention_mask is None:
            return self.melhubert.draw_mask([time] * batch, time).to(input_features.device)
        there = attention_mask.bool().cpu()  # (B, T)
        lengths = there.sum(-1)
        drawn = self.melhubert.draw_mask(lengths, time)
        # The spans are drawn over the first frames of a row. They go to where the row's frames really are.
        mask = torch.zeros_like(there)
        mask[there] = drawn[torch.arange(time) < lengths[:, None]]
        return mask.to(input_features.device)


class LayerSum(nn.Module):
    """What a head reads: the last hidden state, or a learned weighted sum of all, as SUPERB has it."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__()
        layers = config.encoder_layers + 1
        self.weights = nn.Parameter(torch.zeros(layers)) if config.use_weighted_layer_sum else None

    def forward(self, output: MelHuBERTOutput) -> Tensor:
        """Hidden states -> (B, T, C)."""
        if self.weights is None:
            return output.last_hidden_state
        weights = self.weights.softmax(-1)
        return torch.einsum("l,lbtc->btc", weights, torch.stack(output.hidden_states))


class MelHuBERTWithHead(MelHuBERTPreTrainedModel):
    """MelHuBERT without its prediction of clusters, below a head for another task."""

    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^melhubert\.(final_proj\.|mask_emb)"]  # noqa: RUF012

    def __init__(self, config: MelHuBERTConfig):
        super().__init__(config)
        self.melhubert = MelHuBERT(config)  # type: ignore[arg-type]
        # Weights that have no part in the loss would stop a training on several GPUs.
        self.melhubert.final_proj = None  # type: ignore[assignment]
        self.melhubert._parameters.pop("mask_emb", None)
        self.layer_sum = LayerSum(config)
        self.dropout = nn.Dropout(config.dropout)

    def freeze_base_model(self) -> None:
        """Train the head alone."""
        self.melhubert.requires_grad_(False)


class MelHuBERTForCTC(MelHuBERTWithHead):
    """MelHuBERT with a linear layer for CTC, such as characters or phones."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__(config)
        self.lm_head = nn.Linear(config.encoder_embed_dim, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Compute logits and, where there are labels, the loss.

        Args:
            input_features: (B, T, 40 or 80).
            attention_mask: (B, T), 1 at frames.
            labels: (B, L) int64 in [0, vocab_size) but the blank's, `pad_token_id`; negative at padding.
            output_attentions: false.
            output_hidden_states: return all hidden states, too.
            return_dict: false returns a tuple.

        Returns:
            `logits`: (B, T, vocab_size); `loss`: () CTC's.
        """
        output = self.encode(input_features, attention_mask, None, output_attentions)
        logits = self.lm_head(self.dropout(self.layer_sum(output)))
        loss = None
        if labels is not None:
            loss = self.ctc_loss(logits, attention_mask, labels)
        return self.give(
            CausalLMOutput, output.hidden_states, output_hidden_states, return_dict, loss=loss, logits=logits
        )

    def ctc_loss(self, logits: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
        """CTC's () loss of (B, T, vocab_size) logits and (B, L) labels, wherever the padding is."""
        size, blank = self.config.vocab_size, self.config.pad_token_id
        if labels.numel() and labels.max() >= size:
            raise ValueError(
                f"labels: {int(labels.max())} found, expected at most {size - 1} (vocab_size - 1)"
            )
        if blank is None or not 0 <= blank < size:
            raise ValueError(f"pad_token_id: {blank} found, expected the blank's, from 0 to {size - 1}")
        if (labels == blank).any():
            raise ValueError(
                f"labels: {blank} found, which is the blank (pad_token_id); put a negative number at padding"
            )
        if attention_mask is None:
            lengths = torch.full((len(logits),), logits.shape[1], device=logits.device)
        else:
            # torch's loss reads the first frames of a row, so that padding before them is put after them.
            padding = ~attention_mask.bool()  # (B, T)
            order = padding.to(torch.uint8).argsort(dim=-1, stable=True)  # (B, T)
            logits = logits.gather(1, order[..., None].expand_as(logits))
            lengths = (~padding).sum(-1)
        there = labels >= 0  # (B, L)
        return F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            labels[there],
            lengths,
            there.sum(-1),
            blank=blank,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )


class MelHuBERTForSequenceClassification(MelHuBERTWithHead):
    """MelHuBERT with one class for each utterance: a linear layer, the mean over frames, a linear layer."""

    def __init__(self, config: MelHuBERTConfig):
        super().__init__(config)
        self.projector = nn.Linear(config.encoder_embed_dim, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, int(config.num_labels or 2))
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Compute logits and, where there are labels, the loss.

        Args:
            input_features: (B, T, 40 or 80).
            attention_mask: (B, T), 1 at frames. A row without any has the classes' biases as its logits.
            labels: (B,) int64 in [0, num_labels).
            output_attentions: false.
            output_hidden_states: return all hidden states, too.
            return_dict: false returns a tuple.

        Returns:
            `logits`: (B, num_labels); `loss`: () cross-entropy.
        """
        output = self.encode(input_features, attention_mask, None, output_attentions)
        projected = self.projector(self.dropout(self.layer_sum(output)))  # (B, T, P)
        if attention_mask is None:
            pooled = projected.mean(1)
        else:
            there = attention_mask[..., None].to(projected.dtype)
            # The mean over no frames is zero: a row of padding alone would make NaN of a whole batch's loss.
            pooled = (projected * there).sum(1) / there.sum(1).clamp(min=1)
        logits = self.classifier(pooled)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return self.give(
            SequenceClassifierOutput,
            output.hidden_states,
            output_hidden_states,
            return_dict,
            loss=loss,
            logits=logits,
        )
