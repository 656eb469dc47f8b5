"""Hidden states in onnxruntime and in this package, on the CPU: `python -m benchmarks.onnx`.

The base model at 20 ms, all layers, from waveforms; 4 utterances of 2 to 15 s, one at a time, and as batches
of like lengths, on one thread. What is compared are seconds of the processor: a thread of onnxruntime that
waits turns in a loop, so that other times say little on a machine that others use, too. Weights are new. It
needs `pip install 's3prl-melhubert[onnx]'`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from benchmarks.common.figures import Figure, parser, ratio, save
from s3prl_melhubert.checkpoint import load_model, save_checkpoint
from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.export.onnx import export_onnx
from s3prl_melhubert.extraction import MAX_FRAMES, hidden_states, length_batches
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.statistics import FeatureStats

UTTERANCES = 4
SECONDS = (2, 15)


def ours(model: MelHuBERT, frontend: Frontend, waveforms: list[Tensor], max_frames: int) -> Tensor:
    """The last layer of the first utterance; all layers of all of them are computed."""
    lengths = [frontend.frame_count(len(waveform)) for waveform in waveforms]
    states = dict(hidden_states(model, lengths, waveforms.__getitem__, frontend, max_frames=max_frames))
    return states[0][-1]


def theirs(
    session: onnxruntime.InferenceSession, frontend: Frontend, waveforms: list[Tensor], max_frames: int
) -> Tensor:
    """The same from the .onnx file."""
    lengths = [frontend.frame_count(len(waveform)) for waveform in waveforms]
    first = torch.empty(0)
    for batch in length_batches(lengths, max_frames):
        some = [waveforms[i] for i in batch]
        given = {
            "waveforms": torch.nn.utils.rnn.pad_sequence(some, batch_first=True).numpy(),
            "lengths": np.array([len(waveform) for waveform in some]),
        }
        states, _, frames = session.run(None, given)
        if 0 in batch:
            place = batch.index(0)
            first = torch.from_numpy(states[-1, place, : frames[place]])
    return first


def main() -> None:
    args = parser(__doc__, rounds=2).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fresh = MelHuBERT()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, path = Path(folder) / "base.ckpt", Path(folder) / "base.onnx"
        save_checkpoint(checkpoint, fresh.config, fresh.state_dict(), FeatureStats.load("librispeech-960h"))
        export_onnx(checkpoint, path)
        model, frontend = load_model(checkpoint)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first, last = (seconds * SAMPLE_RATE for seconds in SECONDS)
    lengths = [round(first + (last - first) * i / (UTTERANCES - 1)) for i in range(UTTERANCES)]
    waveforms = [0.1 * torch.randn(lengths[i]) for i in torch.randperm(UTTERANCES).tolist()]
    speech = sum(lengths) / SAMPLE_RATE
    difference = float(
        (ours(model, frontend, waveforms, 1) - theirs(session, frontend, waveforms, 1)).abs().max()
    )
    works = {
        "ours alone": lambda: ours(model, frontend, waveforms, 1),
        "ours in batches": lambda: ours(model, frontend, waveforms, MAX_FRAMES),
        "onnx alone": lambda: theirs(session, frontend, waveforms, 1),
        "onnx in batches": lambda: theirs(session, frontend, waveforms, MAX_FRAMES),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(args.rounds + 1):  # The first, which warms up, does not count.
        for name, work in works.items():
            begin = time.process_time()
            work()
            times[name] += [time.process_time() - begin] if number else []
    best = {name: min(values) for name, values in times.items()}
    figures = [
        Figure(
            f"waveforms to hidden states, {how}, one thread: times as fast here as in onnxruntime",
            ratio(times, f"onnx {name}", f"ours {name}"),
            "x",
            note=f"{best[f'ours {name}']:.2f} s and {best[f'onnx {name}']:.2f} s, {speech:.0f} s of speech",
        )
        for name, how in (("alone", "an utterance at a time"), ("in batches", "batches of 1000 frames"))
    ]
    figures.append(
        Figure("the same, largest difference of the last layer", difference, "", 1e-4, at_least=False)
    )
    save("onnx", figures)


if __name__ == "__main__":
    main()
