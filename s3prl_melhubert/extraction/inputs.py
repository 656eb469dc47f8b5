"""The audio files that hidden states are made of: their utterance ids, their lengths, and notes on them.

An utterance's id is its file's path below the folder that was given, without the suffix: `84/121123/0001`
for `speech/84/121123/0001.flac` and the folder `speech`. Of a file that was given by name, the id is the name
alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from s3prl_melhubert.audio import SAMPLE_RATE, Audio, audio_info, find_audio
from s3prl_melhubert.errors import MelHuBERTError, printable
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.support.read_ahead import ahead

READERS = min(8, os.cpu_count() or 1)  # threads that read audio files
HEADERS_AHEAD = 256  # that are read before they are looked at


def find_utterances(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Return the audio files among files and folders, by utterance id.

    Raises:
        MelHuBERTError: a path does not exist, or two files would have one id.
    """
    utterances: dict[str, Path] = {}
    for given in map(Path, paths):
        for path in find_audio([given]):
            inside = path.relative_to(given) if given.is_dir() else Path(path.name)
            utterance = inside.with_suffix("").as_posix()
            # A name in another encoding than UTF-8 cannot be a key of a .npz.
            utterance = utterance.encode(errors="surrogateescape").decode(errors="replace")
            other = utterances.setdefault(utterance, path)
            if other != path and not _is_same(other, path):
                # Names in one folder differ in the suffix, which no folder above them changes.
                remedy = "rename one" if other.parent == path.parent else "give the folder above the two"
                raise MelHuBERTError(
                    f"{other} and {path}: both would be called {utterance!r} in the output; {remedy}, or "
                    "give each in a run of its own"
                )
    return utterances


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # A link that leads nowhere is no other file.
        return False


@dataclass
class InputNotes:
    """What the user should know about the inputs, told at the end in as few lines as possible."""

    skipped: dict[Path, str] = field(default_factory=dict)  # the reason, by path
    resampled: dict[Path, str] = field(default_factory=dict)  # the file's sample rate, by path
    mixed_down: dict[Path, str] = field(default_factory=dict)  # the file's channels, by path

    def skip(self, path: Path, error: MelHuBERTError) -> None:
        """Note that a file is left out."""
        self.skipped[path] = str(error)

    def note(self, path: Path, audio: Audio) -> None:
        """Note what was done to the audio of a file."""
        if audio.original_rate != SAMPLE_RATE:
            self.resampled[path] = f"{audio.original_rate} Hz"
        if audio.original_channels > 1:
            self.mixed_down[path] = f"{audio.original_channels} channels"

    def print(self, order: list[Path]) -> None:
        """Print the notes on stderr.

        Args:
            order: all files, in the order in which they are to be named.
        """
        for what, files in (
            (f"resampled to {SAMPLE_RATE} Hz", self.resampled),
            ("mixed down to one channel", self.mixed_down),
        ):
            told = [path for path in order if path in files]
            if told:
                examples = ", ".join(f"{printable(str(path))} ({files[path]})" for path in told[:3])
                more = ", ..." if len(told) > 3 else ""
                print(
                    f"melhubert: {what}: {len(told)} of {len(order)} files: {examples}{more}", file=sys.stderr
                )
        if self.skipped:
            print(f"melhubert: skipped {len(self.skipped)} of {len(order)} files:", file=sys.stderr)
            for path in order:
                if path in self.skipped:
                    print(f"  {printable(self.skipped[path])}", file=sys.stderr)


def frame_counts(utterances: dict[str, Path], frontend: Frontend, notes: InputNotes) -> dict[str, int]:
    """Return the frames that the model will read of each utterance, as the headers of the files have it.

    Args:
        utterances: the files by utterance id.
        frontend: the frontend that will read them.
        notes: learns of the files that cannot be opened, which are left out.
    """

    def count(utterance: str) -> int:
        return frontend.frame_count(audio_info(utterances[utterance]).samples)

    counts = {}
    with progress(len(utterances), "headers", "files", delay=2) as bar:
        for utterance, counting in ahead(count, utterances, READERS, HEADERS_AHEAD):
            try:
                counts[utterance] = counting.result()
            except MelHuBERTError as error:
                notes.skip(utterances[utterance], error)
            bar.update()
    return counts
