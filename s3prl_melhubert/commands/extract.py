"""`melhubert extract`: hidden states of audio files.

An utterance's id is its file's path below the folder that was given, without the suffix (`84/121123/0001`
for `speech/84/121123/0001.flac` and the folder `speech`); of a file given by name, the name alone. OUT is

    OUT.npz     one file: utterance id -> array
    OUT.npy     one array, of a single input
    OUT         otherwise, a folder: OUT/UTTERANCE_ID.npy

Arrays are float32 (layers, T, C), or (T, C) when a single --layer is asked for. Layer 0 is the projected
input, layer N the output of the N-th Transformer layer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from s3prl_melhubert.audio import SAMPLE_RATE, audio_info, find_audio, read_audio
from s3prl_melhubert.checkpoint import Checkpoint, load_checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction import (
    MAX_FRAMES,
    MAX_FRAMES_CUDA,
    PRECISIONS,
    hidden_states,
    resolve_device,
    resolve_layers,
)
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.frontend import Frontend

READERS = min(8, os.cpu_count() or 1)  # threads that decode audio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, or folders of them")
    parser.add_argument("-c", "--checkpoint", required=True, metavar="CKPT", help="a MelHuBERT checkpoint")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="NAME.npz: one file, an array for each utterance id; NAME.npy: one array, of a single input; "
        "else a folder with a .npy for each input. Arrays are float32 (layers, T, C), or (T, C) for a "
        "single --layer",
    )
    parser.add_argument(
        "-f",
        "--frame-period",
        "--frame_period",
        type=int,
        choices=(10, 20),
        help="ms; the checkpoint knows it, this only makes sure",
    )
    parser.add_argument(
        "--stats",
        metavar="NAME|FILE",
        help="log-Mel statistics, where the checkpoint holds none: librispeech-360h, ..., or a .yaml or .npy",
    )
    parser.add_argument(
        "--layer",
        type=_layer_numbers,
        action="append",
        metavar="N[,N...]",
        help="0 is the projected input, -1 the last layer; may be repeated (default: all layers)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 is faster on a GPU and exact to about two digits (default: fp32)",
    )
    parser.add_argument(
        "--max-frames",
        type=_positive,
        metavar="N",
        help=f"frames of a batch, with padding (default: {MAX_FRAMES}, on a GPU {MAX_FRAMES_CUDA})",
    )


def run(args: argparse.Namespace) -> int:
    device = resolve_device(args.device)
    checkpoint = load_checkpoint(args.checkpoint)
    if args.frame_period not in (None, checkpoint.frame_period):
        raise MelHuBERTError(
            f"-f {args.frame_period}: {args.checkpoint} reads a frame every {checkpoint.frame_period} ms; "
            f"leave -f out or give -f {checkpoint.frame_period}"
        )
    numbers = None if args.layer is None else [number for given in args.layer for number in given]
    layers = resolve_layers(numbers, checkpoint.config)
    frontend = Frontend(resolve_stats(checkpoint, args.stats), checkpoint.frame_period).to(device)
    model = checkpoint.build_model().to(device)

    utterances = find_utterances(args.paths)
    _check_out(args.out, utterances)
    report = _Report()
    lengths = _frame_counts(utterances, frontend, report)
    _check_space(args.out, lengths, layers, checkpoint)
    readable = list(lengths)

    def load(i: int) -> Tensor:
        path = utterances[readable[i]]
        audio = read_audio(path)
        if audio.original_rate != SAMPLE_RATE:
            report.resampled[path] = f"{audio.original_rate} Hz"
        if audio.original_channels > 1:
            report.mixed_down[path] = f"{audio.original_channels} channels"
        return torch.from_numpy(audio.waveform)

    extracted = hidden_states(
        model,
        list(lengths.values()),
        load,
        collate=lambda waveforms: frontend([waveform.to(device) for waveform in waveforms]),
        layers=layers,
        max_frames=args.max_frames,
        precision=args.precision,
        readers=READERS,
        on_error=lambda i, error: report.skip(utterances[readable[i]], error),
    )
    written = 0
    with ExitStack() as stack:
        bar = stack.enter_context(_progress("extract", sum(lengths.values()), "frame"))
        for i, states in extracted:
            if not written:  # an OUT is begun when there is something to put into it
                write = stack.enter_context(_writer(args.out))
            array = states if numbers is None or len(numbers) > 1 else states[0]  # (layers, T, C) or (T, C)
            write(readable[i], array.cpu().numpy())
            written += 1
            bar.update(states.shape[1])

    report.print(list(utterances.values()))
    if not written:
        print("melhubert: none of the inputs could be read; nothing was written", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {written} utterance{'s' * (written > 1)}, layer{'s' * (len(layers) > 1)} "
        f"{', '.join(map(str, layers))}, {checkpoint.config.encoder_embed_dim} wide, "
        f"a frame every {checkpoint.frame_period} ms"
    )
    return 1 if report.skipped else 0


def find_utterances(paths: list[str]) -> dict[str, Path]:
    """Audio files by utterance id.

    Raises:
        MelHuBERTError: a path that does not exist, or two files that would have one id.
    """
    utterances: dict[str, Path] = {}
    for given in map(Path, paths):
        for path in find_audio([given]):
            inside = path.relative_to(given) if given.is_dir() else Path(path.name)
            utterance = inside.with_suffix("").as_posix()
            # A name in some other encoding than UTF-8 cannot be a .npz key.
            utterance = utterance.encode(errors="surrogateescape").decode(errors="replace")
            other = utterances.setdefault(utterance, path)
            if other != path and not os.path.samefile(other, path):
                raise MelHuBERTError(
                    f"{other} and {path}: both would be called {utterance!r} in the output; give the folder "
                    "above the two, or extract them apart"
                )
    return utterances


@dataclass
class _Report:
    """What the user should know about the inputs, told at the end in as few lines as possible."""

    skipped: dict[Path, str] = field(default_factory=dict)  # path -> reason
    resampled: dict[Path, str] = field(default_factory=dict)  # path -> its rate
    mixed_down: dict[Path, str] = field(default_factory=dict)  # path -> its channels

    def skip(self, path: Path, error: MelHuBERTError) -> None:
        self.skipped[path] = str(error)

    def print(self, order: list[Path]) -> None:
        for what, files in (
            (f"resampled to {SAMPLE_RATE} Hz", self.resampled),
            ("mixed down to one channel", self.mixed_down),
        ):
            told = [path for path in order if path in files]
            if told:
                examples = ", ".join(f"{path} ({files[path]})" for path in told[:3])
                more = ", ..." if len(told) > 3 else ""
                print(
                    f"melhubert: {what}: {len(told)} of {len(order)} files: {examples}{more}", file=sys.stderr
                )
        if self.skipped:
            print(f"melhubert: skipped {len(self.skipped)} of {len(order)} files:", file=sys.stderr)
            for path in order:
                if path in self.skipped:
                    print(f"  {self.skipped[path]}", file=sys.stderr)


def _frame_counts(utterances: dict[str, Path], frontend: Frontend, report: _Report) -> dict[str, int]:
    """Frames that the model will read of each utterance, by id, from the headers of the files."""

    def count(path: Path) -> int | MelHuBERTError:
        try:
            return frontend.frame_count(audio_info(path).samples)
        except MelHuBERTError as error:
            return error

    counts = {}
    with ThreadPoolExecutor(READERS) as pool, _progress("headers", len(utterances), "file") as bar:
        for (utterance, path), found in zip(
            utterances.items(), pool.map(count, utterances.values()), strict=True
        ):
            if isinstance(found, MelHuBERTError):
                report.skip(path, found)
            else:
                counts[utterance] = found
            bar.update()
    return counts


def _check_out(out: Path, utterances: dict[str, Path]) -> None:
    """Refuse, before any work, an OUT that could not be written or would not be what its name says."""
    if out.suffix in (".npz", ".npy"):
        if out.is_dir():
            raise MelHuBERTError(f"{out}: is a folder, expected a file to write")
        if not out.parent.is_dir():
            raise MelHuBERTError(f"{out}: no such folder {out.parent}; make it first")
        if out.suffix == ".npy" and len(utterances) > 1:
            raise MelHuBERTError(
                f"{out}: a .npy holds one array, but there are {len(utterances)} inputs; "
                f"give {out.with_suffix('.npz')}, or a folder"
            )
    elif out.exists() and not out.is_dir():
        raise MelHuBERTError(f"{out}: a file found; expected NAME.npz, NAME.npy, or a folder")


def _check_space(out: Path, lengths: dict[str, int], layers: list[int], checkpoint: Checkpoint) -> None:
    """Refuse to start what the disk cannot hold: 13 layers of 100 hours are 700 GB."""
    needed = 4 * sum(lengths.values()) * len(layers) * checkpoint.config.encoder_embed_dim
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise MelHuBERTError(
            f"{out}: {needed / 1e9:.1f} GB will be needed and {free / 1e9:.1f} GB are free; choose fewer "
            "layers with --layer, fewer inputs, or another disk"
        )


@contextmanager
def _writer(out: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A function that writes an utterance's array to OUT; what cannot be written is a MelHuBERTError."""
    try:
        with _npz_writer(out) if out.suffix == ".npz" else nullcontext(partial(_write_npy, out)) as write:
            yield write
    except OSError as error:
        raise MelHuBERTError(f"{out}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _npz_writer(out: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    # np.savez would need all arrays in memory; a .npz is a zip file of .npy files.
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def write(utterance: str, array: np.ndarray) -> None:
            with archive.open(f"{utterance}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)

        yield write


def _write_npy(out: Path, utterance: str, array: np.ndarray) -> None:
    path = out if out.suffix == ".npy" else out / f"{utterance}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _progress(what: str, total: int, unit: str) -> tqdm:
    # Only for what takes a while; in a log file, a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(
        total=total, desc=what, unit=unit, unit_scale=True, delay=2, mininterval=interval, leave=False
    )


def _layer_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} found, expected numbers such as 6 or 0,6,12") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} found, expected a whole number above 0")
    return int(text)
