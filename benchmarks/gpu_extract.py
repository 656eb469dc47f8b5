"""Hidden states and log-Mel on a GPU beside the CPU of the same machine: `python -m benchmarks.gpu_extract`.

The files are noise in FLAC, as long as LibriSpeech's utterances; the base model at 20 ms has new weights.
What is timed is what `melhubert extract --layer -1` does: it reads the files, makes log-Mel on the device in
batches, runs the model and writes the last layer. The CPU gets fewer of the same files.

    python -m benchmarks.gpu_extract                       elsewhere the rows stay "not yet measured"
    python -m benchmarks.gpu_extract --small --device cpu  a tiny model, to see that it runs; saves nothing
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.common.figures import RESULTS, Figure, parser, save, seconds, table
from benchmarks.common.librispeech_lengths import draw_seconds
from benchmarks.gpu_training import SMALL
from s3prl_melhubert.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from s3prl_melhubert.config import SAMPLE_RATE, MelHuBERTConfig
from s3prl_melhubert.extraction.files import extract_files
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.metrics import synchronize
from s3prl_melhubert.statistics import FeatureStats

FILES, CPU_FILES = 512, 16
AT_ONCE = 32  # waveforms of a batch of log-Mel
SMALL_FILES = 4
SMALL_SECONDS = 1.5  # of the longest file of a trial

BF16 = "extract, H100, bfloat16, times as fast as the CPU beside it"
FP32 = "the same in float32"
FILES_A_SECOND = "extract, H100, bfloat16"
LOG_MEL = "log-Mel in batches on the GPU, times the audio a second of the CPU's"


@dataclass(frozen=True)
class Speed:
    """What extraction did in a second."""

    files: float
    frames: float  # that the model reads

    def note(self) -> str:
        return f"{self.files:.1f} files/s, {self.frames:,.0f} frames/s"


def write_audio(folder: Path, count: int, longest: float | None) -> list[Path]:
    """Files of noise with LibriSpeech's lengths, cut at `longest` seconds."""
    random = np.random.default_rng(0)
    paths = []
    for number, length in enumerate(draw_seconds(count)):
        samples = int(SAMPLE_RATE * (length if longest is None else min(length, longest)))
        path = folder / f"{number:04}.flac"
        soundfile.write(path, 0.1 * random.standard_normal(samples), SAMPLE_RATE)
        paths.append(path)
    return paths


def new_checkpoint(folder: Path, config: MelHuBERTConfig) -> Checkpoint:
    """A model of new weights, as a file has it."""
    torch.manual_seed(0)
    path = folder / "new.ckpt"
    stats = FeatureStats.from_arrays(np.full(40, 8.0), np.full(40, 3.0), "of noise")
    save_checkpoint(path, config, MelHuBERT(config).state_dict(), stats)
    return load_checkpoint(path)


def extraction(
    checkpoint: Checkpoint, paths: list[Path], out: Path, device: torch.device, precision: str, rounds: int
) -> Speed:
    """Files and frames a second; a first round, which warms up, does not count."""

    def run() -> None:
        extract_files(checkpoint, paths, out, layers=[-1], device=device, precision=precision)
        synchronize(device)

    run()
    time = statistics.median(seconds(run) for _ in range(rounds))
    with np.load(out) as arrays:
        frames = sum(array.shape[0] for array in arrays.values())
    return Speed(len(paths) / time, frames / time)


def log_mel_speed(paths: list[Path], device: torch.device, rounds: int) -> float:
    """Seconds of audio a second."""
    waveforms = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]).to(device) for path in paths]
    waveforms.sort(key=len)
    stats = FeatureStats.from_arrays(np.full(40, 8.0), np.full(40, 3.0), "of noise")
    frontend = Frontend(stats, 20).to(device)

    @torch.inference_mode()
    def run() -> None:
        for first in range(0, len(waveforms), AT_ONCE):
            frontend(waveforms[first : first + AT_ONCE])
        synchronize(device)

    run()
    time = statistics.median(seconds(run) for _ in range(rounds))
    return sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE / time


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --small (cuda)")
    arguments.add_argument("--small", action="store_true", help="a tiny model; the results are not saved")
    args = arguments.parse_args()
    device, cpu = torch.device(args.device), torch.device("cpu")
    if device.type != "cuda" and not args.small:
        arguments.error(f"--device {args.device}: the figures are those of a GPU; add --small for a trial")
    if device.type == "cuda" and not torch.cuda.is_available():
        if (RESULTS / "gpu_extract.json").is_file() and not args.small:
            print("  no GPU here; the results stay as they are")
        else:
            missing = [(BF16, "x"), (FP32, "x"), (FILES_A_SECOND, "files/s"), (LOG_MEL, "x")]
            save("gpu_extract", [Figure(name, None, unit) for name, unit in missing])
        return

    config = MelHuBERTConfig(**SMALL) if args.small else MelHuBERTConfig()
    count, few, rounds = (SMALL_FILES, 2, 1) if args.small else (FILES, CPU_FILES, args.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("  writing the files", flush=True)
        paths = write_audio(folder, count, SMALL_SECONDS if args.small else None)
        checkpoint = new_checkpoint(folder, config)
        out = folder / "states.npz"
        # The CPU gets files from all over the list, so that the lengths are alike.
        chosen = paths[:: len(paths) // few]
        here = extraction(checkpoint, chosen, out, cpu, "fp32", 1 if args.small else 2)
        fast, exact = (extraction(checkpoint, paths, out, device, p, rounds) for p in ("bf16", "fp32"))
        mel, mel_here = (
            log_mel_speed(some, where, rounds) for some, where in ((paths, device), (chosen, cpu))
        )
    figures = [
        Figure(BF16, fast.frames / here.frames, "x", note=f"{fast.note()}; CPU in float32: {here.note()}"),
        Figure(FP32, exact.frames / here.frames, "x", note=exact.note()),
        Figure(FILES_A_SECOND, fast.files, "files/s"),
        Figure(LOG_MEL, mel / mel_here, "x", note=f"{mel:,.0f} and {mel_here:,.0f} s of audio a second"),
    ]
    if args.small:
        figures = [replace(figure, limit=None) for figure in figures]
        print(f"a trial on {device}, which says nothing of a GPU's speed:\n{table(figures)}")
    else:
        save("gpu_extract", figures)


if __name__ == "__main__":
    main()
