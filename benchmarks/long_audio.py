"""Long recordings at once and in windows: `python -m benchmarks.long_audio SPEECH --checkpoint CKPT`.

SPEECH are folders of short utterances, each folder's joined into one recording. Two things are measured:

- how far the hidden states of windows are from those of the whole recording (two minutes), for each layer:
  the norm of the difference over the norm, over all frames. Beside it stands how far both are from the
  utterances, each read alone. CKPT was trained on such speech; the same model with new weights is there, too.
- the time and the peak memory of `melhubert extract` on 1 to 60 minutes, in windows and at once; the latter
  up to --at-once minutes, because its time grows with the square.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.common.figures import THREADS
from s3prl_melhubert import Frontend, MelHuBERT, load_checkpoint
from s3prl_melhubert.audio import find_audio, read_audio
from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.extraction import Windows, hidden_states, pad_features, windowed_hidden_states

SECONDS = 120  # of the recording whose deviations are measured
WINDOWS = (10, 30, 60)  # s
OVERLAPS = (0, 2, 4, 8)  # s
CHOSEN = (30, 4)  # whose time and memory are measured
MINUTES = (1, 5, 20, 60)

# Prints the peak memory of the process itself; getrusage's figure is inherited from the one that started it.
PROGRAM = """
import sys
from pathlib import Path
from s3prl_melhubert import cli
status = cli.main(sys.argv[1:])
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print("peak", int(peak.split()[1]) // 1024)
sys.exit(status)
"""


def utterances(speech: Path, frontend: Frontend) -> list[Tensor]:
    """Features (T_i, D) of as many utterances of a folder as make up the recording."""
    chosen: list[Tensor] = []
    for path in find_audio([speech]):
        chosen.append(frontend([torch.from_numpy(read_audio(path).waveform)])[0][0])
        if sum(map(len, chosen)) * frontend.frame_period >= 1000 * SECONDS:
            break
    return chosen


def away(found: Tensor, expected: Tensor) -> list[float]:
    """Percent of each layer above the projected input, which never differs: (L, T, C) both."""
    return [100 * float((b - a).norm() / a.norm()) for a, b in zip(expected[1:], found[1:], strict=True)]


def grid(name: str, model: MelHuBERT, parts: list[Tensor]) -> None:
    """Print a table of all windows and overlaps."""
    features = torch.cat(parts)
    states = dict(hidden_states(model, [len(part) for part in parts], parts.__getitem__, pad_features))
    alone = torch.cat([states[i] for i in range(len(parts))], dim=1)
    [(_, whole)] = hidden_states(model, [len(features)], lambda _: features, pad_features)
    layers = range(1, len(whole))
    print(f"\n{name}: {len(parts)} utterances, {len(features) * model.config.frame_period / 1000:.0f} s\n")
    print(f"| window, s | overlap, s | {' | '.join(f'layer {i}' for i in layers)} | last from alone |")
    print("|---" * (len(layers) + 3) + "|", flush=True)
    for window in WINDOWS:
        for overlap in OVERLAPS:
            if overlap > window / 2:
                continue
            windows = Windows.of_seconds(window, overlap, model.config.frame_period)
            found = torch.cat(list(windowed_hidden_states(model, features, windows)), dim=1)
            cells = " | ".join(f"{percent:.2f}" for percent in away(found, whole))
            print(f"| {window} | {overlap} | {cells} | {away(found, alone)[-1]:.1f} |", flush=True)
    print(f"| all | | {' | '.join('0' for _ in layers)} | {away(whole, alone)[-1]:.1f} |", flush=True)


def extract(checkpoint: Path, audio: Path, out: Path, *options: object) -> tuple[float, int]:
    """Seconds and peak MB of a process that extracts all layers of a file."""
    command = [sys.executable, "-c", PROGRAM, "extract", "-c", checkpoint, audio, "--out", out]
    begin = time.perf_counter()
    done = subprocess.run(
        [*map(str, command), *map(str, options), "--device", "cpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - begin, int(done.stdout.split()[-1])


def lengths(checkpoint: Path, waveform: np.ndarray, at_once: float) -> None:
    """Print time and memory of `melhubert extract`, in windows and at once."""
    print("\n| minutes | in windows | at once |\n|---|---|---|")
    window = ["--window", CHOSEN[0], "--overlap", CHOSEN[1]]
    with tempfile.TemporaryDirectory() as folder:
        audio, out = Path(folder) / "audio.wav", Path(folder) / "out.npy"
        for minutes in MINUTES:
            soundfile.write(audio, np.resize(waveform, minutes * 60 * SAMPLE_RATE), SAMPLE_RATE)
            cells = ["not run"] * 2
            for i, options in enumerate((window, [])):
                if options or minutes <= at_once:
                    seconds, peak = extract(checkpoint, audio, out, *options)
                    cells[i] = f"{seconds:.1f} s, {peak} MB"
            print(f"| {minutes} | {cells[0]} | {cells[1]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("speech", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--only", choices=("deviations", "lengths"))
    parser.add_argument("--at-once", type=float, default=5, metavar="MINUTES", help="the longest (5)")
    parser.add_argument("--threads", type=int, default=THREADS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    checkpoint = load_checkpoint(args.checkpoint)
    if checkpoint.stats is None:
        parser.error(f"{args.checkpoint} holds no statistics; give one of `melhubert pretrain`")
    frontend = Frontend(checkpoint.stats, checkpoint.frame_period)
    torch.manual_seed(0)
    models = {"trained": checkpoint.build_model(), "new weights": MelHuBERT(checkpoint.config).eval()}
    for speech in args.speech if args.only != "lengths" else []:
        parts = utterances(speech, frontend)
        for name, model in models.items():
            grid(f"{speech.name}, {name}", model, parts)
    if args.only != "deviations":
        waveform = np.concatenate([read_audio(path).waveform for path in find_audio(args.speech)])
        lengths(args.checkpoint, waveform, args.at_once)


if __name__ == "__main__":
    main()
