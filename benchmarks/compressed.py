"""A pruned base model beside the dense one, on the CPU: `python -m benchmarks.compressed`.

The base model at 20 ms, with new weights, and what `melhubert compress` makes of it: 6 of 12 heads and 1024
of 3072 MLP rows in each layer, which is half the heads and a third of the rows; and, for comparison, with a
third of the rows removed. Each runs over the same frames: 10 s alone, and a batch of 4 to 10 s.

The ratio of the multiply-accumulates, which no faster kernel changes, stands beside each gain.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.figures import THREADS, Figure, in_turn, parser, ratio, save
from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.compression.pruning import Target, prune
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT, macs_per_second, parameter_count

GOAL = 1.8  # times as fast, at half the heads and a third of the rows
KEPT = {"6 heads, 1024 rows": Target(6, 1024), "6 heads, 2048 rows": Target(6, 2048)}
FRAMES = (500, 400, 300, 200)  # of 20 ms


def main() -> None:
    made = parser(__doc__, rounds=7)
    made.add_argument("--tiny", action="store_true", help="two layers and short utterances: only to try it")
    args = made.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    dense = MelHuBERT(MelHuBERTConfig(encoder_layers=2 if args.tiny else 12)).eval()
    source = Checkpoint(Path("base.ckpt"), dense.config, dense.state_dict())
    models = {"dense": dense, **{name: prune(source, kept).build_model() for name, kept in KEPT.items()}}
    lengths = [frames // 10 if args.tiny else frames for frames in FRAMES]
    alone = torch.randn(1, lengths[0], 80)
    batch = torch.nn.utils.rnn.pad_sequence([torch.randn(n, 80) for n in lengths], batch_first=True)
    padding = torch.arange(lengths[0]) >= torch.tensor(lengths)[:, None]

    def run(model: MelHuBERT, features: Tensor, mask: Tensor | None) -> None:
        with torch.inference_mode():
            model(features, mask)

    figures = []
    for what, features, mask in (("10 s alone", alone, None), ("4 utterances", batch, padding)):
        works = {
            name: (lambda model=model: run(model, features, mask))  # noqa: B023 (run before the next)
            for name, model in models.items()
        }
        times = in_turn(works, args.rounds)
        for name in KEPT:
            config = models[name].config
            macs = macs_per_second(dense.config) / macs_per_second(config)
            size = parameter_count(config) / parameter_count(dense.config)
            is_goal = name == "6 heads, 1024 rows"
            figures.append(
                Figure(
                    f"{name} a layer, {what}: speed beside the dense model",
                    ratio(times, "dense", name),
                    "x",
                    limit=GOAL if is_goal else None,
                    note=f"{macs:.2f} times fewer multiply-accumulates, {100 * size:.0f} % of the parameters",
                )
            )
    save("compressed_tiny" if args.tiny else "compressed", figures)


if __name__ == "__main__":
    main()
