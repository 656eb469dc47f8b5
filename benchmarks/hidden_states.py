"""Hidden states of 16 utterances of 2 to 15 s, on the CPU: `python -m benchmarks.hidden_states`.

The base model at 20 ms, all layers. The same number of frames in 16 utterances of one length tells what
padding costs; the naive version pads. Weights are new: the error of bfloat16 depends on them little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.common.figures import THREADS, Figure, in_turn, parser, ratio, save
from benchmarks.common.naive import naive
from s3prl_melhubert.extraction import hidden_states, pad_features
from s3prl_melhubert.kernels import torch_operations
from s3prl_melhubert.model import MelHuBERT

UTTERANCES = 16
SECONDS = (2, 15)
FRAMES_PER_SECOND = 50


def extract(model: MelHuBERT, features: list[Tensor], precision: str) -> list[Tensor]:
    """(13, T, C) of each utterance, in their order, as `melhubert extract` makes them."""
    states = dict(
        hidden_states(
            model, [len(f) for f in features], features.__getitem__, pad_features, precision=precision
        )
    )
    return [states[i] for i in range(len(features))]


def errors(model: MelHuBERT, features: list[Tensor]) -> list[float]:
    """Of each layer in bfloat16: norm of the difference from float32 over the norm."""
    exact, rough = (torch.cat(extract(model, features, p), dim=1) for p in ("fp32", "bf16"))
    return [float((b - a).norm() / a.norm()) for a, b in zip(exact, rough, strict=True)]


@torch.inference_mode()
def whole_batch(model: MelHuBERT, features: list[Tensor]) -> None:
    model(*pad_features(features))


def main() -> None:
    args = parser(__doc__, rounds=3).parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model, plain = MelHuBERT().eval(), naive(MelHuBERT().eval())
    first, last = (s * FRAMES_PER_SECOND for s in SECONDS)
    lengths = [round(first + (last - first) * i / (UTTERANCES - 1)) for i in range(UTTERANCES)]
    order = torch.randperm(UTTERANCES).tolist()
    mixed = [torch.randn(lengths[i], model.config.feat_emb_dim) for i in order]
    even = list(torch.cat(mixed).tensor_split(UTTERANCES))

    def with_torch_products() -> None:
        with torch_operations(products_only=True):
            extract(model, mixed, "fp32")

    times = in_turn(
        {
            "float32": lambda: extract(model, mixed, "fp32"),
            "bfloat16": lambda: extract(model, mixed, "bf16"),
            "one padded batch": lambda: whole_batch(model, mixed),
            "the same frames without padding": lambda: whole_batch(model, even),
            "float32, torch products": with_torch_products,
            "naive": lambda: whole_batch(plain, mixed),
        },
        args.rounds,
    )
    best = {name: min(values) for name, values in times.items()}
    speech = sum(lengths) / FRAMES_PER_SECOND
    worst = errors(model, mixed)
    save(
        "hidden_states",
        [
            Figure(
                "hidden states of 16 utterances of 2 to 15 s, bfloat16, times as fast as float32",
                ratio(times, "float32", "bfloat16"),
                "x",
                2.5,
                note=f"{best['float32']:.2f} s and {best['bfloat16']:.2f} s for {speech:.0f} s of speech",
            ),
            Figure(
                "the same, times as fast as float32 with torch's own products",
                ratio(times, "float32, torch products", "bfloat16"),
                "x",
                note=f"{best['float32, torch products']:.2f} s",
            ),
            Figure(
                "the same, largest relative error of a layer",
                100 * max(worst),
                "%",
                2,
                at_least=False,
                note=f"layer {worst.index(max(worst))}",
            ),
            Figure(
                "the same as one padded batch, float32, to as many frames without padding",
                ratio(times, "one padded batch", "the same frames without padding"),
                "",
                1.1,
                at_least=False,
                note=f"{1 - sum(lengths) / (UTTERANCES * max(lengths)):.0%} of the batch is padding; "
                "attention itself needs more for uneven lengths",
            ),
            Figure(
                "the same, float32, times as fast as the naive version",
                ratio(times, "naive", "float32"),
                "x",
            ),
            Figure(
                "the same, bfloat16, times as fast as the naive version in float32",
                ratio(times, "naive", "bfloat16"),
                "x",
                8,
            ),
        ],
    )


if __name__ == "__main__":
    main()
