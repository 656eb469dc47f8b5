"""Audio files through a model, each of them at once or in windows: the walk that `extract` and `units` share.

    recordings = Recordings(find_utterances(paths), frontend, windows, notes)
    for name, frames, pieces in recordings.states(model, layers):
        for states in pieces:                  # (layers, t, C), in order; `frames` of them in all
            ...

Of what is read at once, a few batches are in memory; of what is read in windows, one recording's features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.audio import audio_pieces, read_audio
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction.inputs import READERS, InputNotes, frame_counts
from s3prl_melhubert.extraction.states import hidden_states
from s3prl_melhubert.extraction.windows import Windows, streamed_features, windowed_hidden_states
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT


class Recordings:
    """The audio files of a command, sorted by how they are read.

    Args:
        paths: the files by utterance id.
        frontend: makes the model's input of them, on the device that computes.
        windows: how recordings that are longer than a window are cut; None reads every recording at once.
        notes: learns of what is done to the audio, and of the files that cannot be read and are left out.

    Attributes:
        at_once: the frames, as the headers have them, of each utterance that is read at once.
        cut: the same of those that are read in windows.
        samples: how many samples (at 16 kHz) each utterance has that was read.
    """

    def __init__(
        self, paths: dict[str, Path], frontend: Frontend, windows: Windows | None, notes: InputNotes
    ):
        self.paths, self.frontend, self.windows, self.notes = paths, frontend, windows, notes
        self.at_once = frame_counts(paths, frontend, notes)
        self.cut: dict[str, int] = {}
        if windows is not None:
            self.cut = {name: n for name, n in self.at_once.items() if n > windows.length}
            self.at_once = {name: n for name, n in self.at_once.items() if name not in self.cut}
        self.samples: dict[str, int] = {}

    @property
    def frames(self) -> int:
        """The frames of all recordings, as their headers have it."""
        return sum(self.at_once.values()) + sum(self.cut.values())

    def read(self, name: str) -> Tensor:
        """Read the (N,) samples of an utterance; several threads may do so.

        Raises:
            MelHuBERTError: as `read_audio`.
        """
        audio = read_audio(self.paths[name])
        self.notes.note(self.paths[name], audio)
        self.samples[name] = len(audio.waveform)
        return torch.from_numpy(audio.waveform)

    def skip(self, name: str, error: MelHuBERTError) -> None:
        """Note that an utterance is left out."""
        self.notes.skip(self.paths[name], error)

    def states(
        self, model: MelHuBERT, layers: list[int], *, max_frames: int | None = None, precision: str = "fp32"
    ) -> Iterator[tuple[str, int, Iterator[Tensor]]]:
        """Compute hidden states, first of the recordings that are read at once, then of the others.

        Args:
            model: on the frontend's device.
            layers, max_frames, precision: as of `hidden_states`.

        Yields:
            The utterance's id, its T frames, and its (layers, t, C) float32 hidden states in order: one piece
            of a recording that is read at once, else a piece for each window. They are to be taken before the
            next utterance is asked for.

        Raises:
            MelHuBERTError: as `hidden_states`. A file that cannot be read is skipped and noted instead.
        """
        names, device = list(self.at_once), self.frontend.mean.device
        for i, states in hidden_states(
            model,
            list(self.at_once.values()),
            lambda i: self.read(names[i]),
            lambda waveforms: self.frontend([waveform.to(device) for waveform in waveforms]),
            layers=layers,
            max_frames=max_frames,
            precision=precision,
            readers=READERS,
            on_error=lambda i, error: self.skip(names[i], error),
        ):
            yield names[i], states.shape[1], iter((states,))

        for name in self.cut:
            assert self.windows is not None
            try:
                features = streamed_features(self._pieces(name), self.frontend)  # (T, D)
            except MelHuBERTError as error:
                self.skip(name, error)
                continue
            pieces = windowed_hidden_states(
                model, features, self.windows, layers=layers, max_frames=max_frames, precision=precision
            )
            yield name, len(features), pieces

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """Read the samples of an utterance piece by piece."""
        self.samples[name] = 0
        for audio in audio_pieces(self.paths[name]):
            self.notes.note(self.paths[name], audio)
            self.samples[name] += len(audio.waveform)
            yield audio.waveform
