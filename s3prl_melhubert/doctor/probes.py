"""What `melhubert doctor` tries in processes of their own, because it may crash, hang or be missing.

run_probe(name)     starts a process and returns what it told, or how it failed
probe_*             run there; each yields what it finds, as plain data
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import named, said

PROBE_SECONDS = 300  # a first import over a network file system can take minutes
NEEDS = "needs"  # the beginning of the error of a module that needs a hidden one
TOLD = "melhubert-doctor:"  # the beginning of the lines by which a probe tells what it found


def probe_torch() -> Iterator[dict[str, Any]]:
    """Import torch: its version, what it was built for, the CUDA devices that it sees."""
    import warnings

    import torch

    with warnings.catch_warnings(record=True) as caught:  # A driver that is too old causes one, for example.
        warnings.simplefilter("always")
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices = devices if torch.cuda.is_available() else []
    warning = said(caught[0].message) if caught else ""
    yield {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "devices": devices,
        "warning": warning,
    }


def probe_torchaudio() -> Iterator[dict[str, Any]]:
    """Import torchaudio: its version."""
    import torchaudio

    yield {"version": str(torchaudio.__version__)}


def probe_modules(hidden: str, *modules: str) -> Iterator[dict[str, Any]]:
    """Import modules, while the `hidden` ones (names between commas) seem not to be installed."""
    from importlib import import_module

    sys.meta_path.insert(0, Hide(set(filter(None, hidden.split(",")))))
    for module in modules:
        try:
            import_module(module)
            error = ""
        except Hidden as caught:
            error = f"{NEEDS} {caught.name}"
        except BaseException as caught:
            error = named(caught)
        yield {"module": module, "error": error}


class Hidden(ModuleNotFoundError):
    """A module was asked for that is known to be broken."""


class Hide:
    """A finder for which some modules are missing."""

    def __init__(self, names: set[str]):
        self.names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname in self.names:
            raise Hidden(f"No module named {fullname!r}", name=fullname)


def probe_audio(folder: str) -> Iterator[dict[str, Any]]:
    """Write audio files of several formats into a folder and read them back."""
    import numpy as np
    import soundfile

    from s3prl_melhubert.audio import read_audio

    formats = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in soundfile.available_formats()]
    for name in formats:
        path = Path(folder) / f"tone.{name.lower()}"
        soundfile.write(path, 0.1 * np.sin(np.arange(8000) / 10), 8000, format=name)
        if not len(read_audio(path).waveform):
            raise RuntimeError(f"{name}: nothing could be read back")
    yield {"libsndfile": soundfile.__libsndfile_version__, "formats": formats}


def probe_hook() -> Iterator[dict[str, Any]]:
    """Look whether the .pth line has put this package's finder in its place."""
    yield {"active": any(type(finder).__name__ == "S3prlFinder" for finder in sys.meta_path)}


def probe_s3prl() -> Iterator[dict[str, Any]]:
    """Import s3prl and its hub: its version, this package's entries in the hub, the hook's warnings."""
    from s3prl_melhubert.compat.inspection import inspect_s3prl

    yield from inspect_s3prl()


PROBES: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "torch": probe_torch,
    "torchaudio": probe_torchaudio,
    "modules": probe_modules,
    "audio": probe_audio,
    "hook": probe_hook,
    "s3prl": probe_s3prl,
}


def tell(name: str, *arguments: str) -> None:
    """Run a probe in this process and print what it tells; `run_probe` calls this in the other process."""
    try:
        for told in PROBES[name](*arguments):
            print(f"\n{TOLD}{json.dumps(told)}", flush=True)
    except BaseException as error:
        failure = {
            "failed": named(error),
            "missing": error.name if isinstance(error, ModuleNotFoundError) else None,
        }
        print(f"\n{TOLD}{json.dumps(failure)}", flush=True)


@dataclass(frozen=True)
class Probe:
    """What a probe told, and how it failed."""

    told: list[dict[str, Any]]
    error: str = ""  # how it failed; empty if it ended well
    missing: str | None = None  # the missing module, where that was the error


def run_probe(name: str, *arguments: str) -> Probe:
    """Run a probe in a process of its own, which may crash.

    Args:
        name: one of `PROBES`.
        arguments: what the probe is called with.
    """
    # The other process sees the same sys.path as this one, wherever `melhubert` was started from.
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        "from s3prl_melhubert.doctor import probes; probes.tell(*sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, json.dumps(sys.path), name, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe([], f"no answer for {PROBE_SECONDS} s")
    lines = [line.removeprefix(TOLD) for line in done.stdout.splitlines() if line.startswith(TOLD)]
    told = [json.loads(line) for line in lines]
    if told and "failed" in told[-1]:
        failure = told.pop()
        return Probe(told, failure["failed"], failure["missing"])
    if done.returncode < 0:
        return Probe(told, f"the process was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Probe(told, last[0])
    return Probe(told)
