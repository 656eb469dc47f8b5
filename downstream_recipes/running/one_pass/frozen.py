"""The frozen upstream; where the user wants that, it hears each utterance once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s3prl_melhubert.support.memory import available_memory, size_text
from s3prl_melhubert.support.progress import say

SHARE = 0.5  # of the memory that is free at the beginning, for what is kept
STATES = "hidden_states"

Upstream = Callable[[Sequence[Tensor]], dict[str, Any]]


class KeptStates:
    """An upstream that hears each utterance once, alone, and keeps its hidden states in the host's memory.

    In a batch, an utterance's hidden states differ in their last bits from those that it has alone, and so
    what learns from them does, too. An utterance is known by its samples. What does not fit into memory is
    computed every time.

    Args:
        upstream: s3prl's, in evaluation mode.
        room: bytes for hidden states; without it, a share of the free memory.
    """

    def __init__(self, upstream: Upstream, room: int | None = None):
        self.upstream = upstream
        self.room = int(SHARE * available_memory()) if room is None else room
        self.full = False
        self._kept: dict[bytes, list[Tensor]] = {}

    def __call__(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Return the hidden states of a batch as the upstream would, padded with zeros.

        Args:
            wavs: (n,) waveforms.
        """
        of_each = [self._states(wav) for wav in wavs]
        layers = zip(*of_each, strict=True)
        device = wavs[0].device
        return {STATES: [pad_sequence(list(layer), batch_first=True).to(device) for layer in layers]}

    def _states(self, wav: Tensor) -> list[Tensor]:
        """The (T, C) hidden states of an utterance."""
        key = hashlib.blake2b(wav.cpu().numpy().data, digest_size=16).digest()
        found = self._kept.get(key)
        if found is None:
            # Copies hold no more memory than they need, where layers are parts of a larger tensor.
            found = [state[0].cpu().clone() for state in self.upstream([wav])[STATES]]
            self._keep(key, found)
        return found

    def _keep(self, key: bytes, states: list[Tensor]) -> None:
        size = sum(state.nbytes for state in states)
        if size <= self.room:
            self._kept[key] = states
            self.room -= size
        elif not self.full:
            self.full = True
            used = size_text(sum(state.nbytes for states in self._kept.values() for state in states))
            say(
                f"--keep-states: hidden states of {len(self._kept)} utterances are kept in {used}; "
                "there is no memory for more, and the others are computed every time"
            )
