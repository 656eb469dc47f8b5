"""What of a batch is padding: crops end to end in rows, and padded batches. `python -m benchmarks.rows`.

The lengths are drawn as LibriSpeech's 960 hours have them (`common.librispeech_lengths`), the settings are
the published ones: utterances of over 3.2 s, crops of 15 s. Nothing is timed: the shares follow from the
plans.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.common.figures import Figure, save
from benchmarks.common.librispeech_lengths import draw_frames
from s3prl_melhubert.pretrain.data.manifest import label_count
from s3prl_melhubert.pretrain.training.rows.plan import RowPlan
from s3prl_melhubert.pretrain.training.sampler import BatchPlan

SHORTEST = 320  # 10 ms frames that an utterance must exceed
BATCHES = ((4, 8, "8 micro-batches of 4"), (32, 1, "one micro-batch of 32"))  # a step of 32 each time
STEPS = 1000
SHORT = 3  # seconds; what a short stretch is called in the note


def crops(period: int, time: int) -> np.ndarray:
    """Frames of the crops of LibriSpeech's utterances."""
    frames = draw_frames()
    frames = frames[frames > SHORTEST]
    return np.minimum([label_count(int(n), period) for n in frames], time)


def share_of_rows(
    lengths: np.ndarray, time: int, size: int, accumulate: int, steps: int
) -> tuple[float, str]:
    """Percent of the positions that are padding, and what else there is to know."""
    plan = RowPlan(lengths, time=time, rows=size * accumulate, rows_per_batch=size, processes=1, seed=0)
    epoch = plan.epoch(0)
    pieces = [
        piece
        for step in range(min(steps, len(epoch)))
        for part in epoch[step]
        for row in part.rows
        for piece in row
    ]
    used = sum(piece.length for piece in pieces)
    positions = min(steps, len(epoch)) * plan.rows * time
    short = sum(piece.length for piece in pieces if piece.length < SHORT / 15 * time)
    whole = sum(piece.length == lengths[piece.utterance] for piece in pieces)
    cut = len({(piece.place, piece.utterance) for piece in pieces}) - whole
    note = (
        f"{len(pieces) * time / positions:.2f} stretches a row (at most {plan.most}); "
        f"{100 * cut / (cut + whole):.0f} % of the crops are cut, {100 * short / used:.1f} % of the frames "
        f"lie in stretches under {SHORT} s"
    )
    return 100 * (1 - used / positions), note


def share_of_padded(lengths: np.ndarray, size: int, accumulate: int, steps: int) -> float:
    """Percent of the positions that are padding where each micro-batch is as long as its longest crop."""
    plan = BatchPlan(lengths, utterances_per_batch=size, accumulate=accumulate, processes=1, seed=0)
    epoch = plan.epoch(0)
    positions = used = 0
    for step in range(min(steps, len(epoch))):
        for part in epoch[step]:
            found = lengths[list(part.utterances)]
            positions += len(found) * int(found.max())
            used += int(found.sum())
    return 100 * (1 - used / positions)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps to look at ({STEPS})")
    args = parser.parse_args()
    figures = []
    for period, time in ((20, 750), (10, 1500)):
        lengths = crops(period, time)
        for size, accumulate, name in BATCHES:
            share, note = share_of_rows(lengths, time, size, accumulate, args.steps)
            figures.append(
                Figure(
                    f"padding of rows of {time} frames of {period} ms, LibriSpeech's lengths, {name}",
                    share,
                    "%",
                    2,
                    at_least=False,
                    note=note,
                )
            )
            figures.append(
                Figure(
                    "the same utterances in padded batches",
                    share_of_padded(lengths, size, accumulate, args.steps),
                    "%",
                )
            )
    save("rows", figures)


if __name__ == "__main__":
    main()
