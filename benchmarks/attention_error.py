"""The error of attention in bfloat16 on the CPU, ours beside torch's: `python -m benchmarks.attention_error`.

Queries, keys and values are rounded to bfloat16. The error is the relative distance (Frobenius norm) of the
output from the same attention in float64. Scores are random, and made 5, 10 and 30 times larger, so that the
softmax has a few peaks; and they are those of a small model after 1000 steps of training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bf16_training import BATCH, CLUSTERS, FRAMES, SMALL, utterances
from benchmarks.common.figures import THREADS, Figure, save
from benchmarks.common.steps import adam, train_step
from s3prl_melhubert.kernels import packed_attention
from s3prl_melhubert.model import MelHuBERT

SCALES = (1, 5, 10, 30)
STEPS = 1000
Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def torchs(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """torch's own attention of one utterance: (T, C) -> (T, C)."""
    split = (x.unflatten(1, (heads, -1)).transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(*split)[0].transpose(0, 1).flatten(1)


def ours(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The attention of the model's CPU kernels: (T, C) -> (T, C)."""
    return packed_attention(q, k, v, [len(q)], heads, 0.0)


def error(attention: Attention, qkv: tuple[Tensor, Tensor, Tensor], heads: int) -> float:
    """Relative error of attention on bfloat16 inputs, in percent."""
    rounded = [x.bfloat16() for x in qkv]
    exact = torchs(*(x.double() for x in rounded), heads)
    return 100 * float((attention(*rounded, heads).double() - exact).norm() / exact.norm())


def trained_inputs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values (T, C) of every layer of a small trained model, on an utterance."""
    torch.manual_seed(0)
    model = MelHuBERT(SMALL).train()
    optimizer = adam(model, 5e-4)
    looks = torch.randn(CLUSTERS, SMALL.feat_emb_dim)
    for step in range(STEPS):
        features, labels = utterances(looks)
        mask = model.draw_mask([FRAMES] * BATCH, FRAMES)
        loss = train_step(model, optimizer, features, labels, mask, False).item()
        if (step + 1) % 200 == 0:
            print(f"  step {step + 1} of {STEPS}: loss {loss:.3f}", flush=True)

    seen: list[Tensor] = []
    for layer in model.encoder.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model.eval()(utterances(looks)[0][:1])
    flat = [x.reshape(-1, x.shape[-1]) for x in seen]
    return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(THREADS)
    figures = []
    for scale in SCALES:
        torch.manual_seed(0)
        q, k, v = (torch.randn(FRAMES, 192) for _ in range(3))
        qkv = (q * scale**0.5, k * scale**0.5, v)
        mine, theirs = error(ours, qkv, 3), error(torchs, qkv, 3)
        name = f"attention in bfloat16, relative error, scores of {scale} times the random ones, to torch's"
        figures.append(Figure(name, mine / theirs, "", 1.5, False, f"{mine:.2f} %, torch {theirs:.2f} %"))
    heads = SMALL.encoder_attention_heads
    pairs = [(error(ours, qkv, heads), error(torchs, qkv, heads)) for qkv in trained_inputs()]
    worst = max(pairs, key=lambda pair: pair[0] / pair[1])
    note = "; ".join(
        f"layer {i}: {mine:.2f} %, torch {theirs:.2f} %" for i, (mine, theirs) in enumerate(pairs, 1)
    )
    name = "the same, a small model after 1000 steps, worst layer"
    figures.append(Figure(name, worst[0] / worst[1], "", 1.5, False, note))
    save("attention_error", figures)


if __name__ == "__main__":
    main()
