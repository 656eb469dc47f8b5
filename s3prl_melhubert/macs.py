"""Multiply-accumulates (MACs) of a model, counted by running it on tensors that hold no data."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT


def macs_per_second(config: MelHuBERTConfig) -> int:
    """Count the MACs that the model spends on one second of speech (50 frames at 20 ms, 100 at 10 ms).

    Matrix products and convolutions are counted, those of attention included. The prediction head, which only
    pre-training uses, and the log-Mel are not counted. The published 20 ms model needs 4.54e9.

    Raises:
        MelHuBERTError: the frame period cannot be told from `feat_emb_dim`.
    """
    frames = 1000 // config.frame_period
    with torch.device("meta"):
        model = MelHuBERT(config).eval()
        features = torch.empty(1, frames, config.feat_emb_dim)
    # The counter knows attention as two matrix products; fused kernels it may pass over.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(features)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two
