"""Hidden states of many utterances.

    states.py       batches of like lengths through the model, on any device
    windows.py      long recordings in overlapping windows
    recordings.py   audio files through a model, each at once or in windows
    files.py        audio files to a .npz, a .npy or a folder of them: what `melhubert extract` does
    inputs.py       which files there are, how long they are, and what was found wrong with them
    long_files.py   what long recordings take, said and held against the memory before they are read
    output.py       the files that are written, and whether they can be

What a program of its own needs is `hidden_states`, with `pad_features` where features are there already, or
`windowed_hidden_states` for a recording of an hour.
"""

from s3prl_melhubert.extraction.states import (
    MAX_FRAMES,
    MAX_FRAMES_CUDA,
    hidden_states,
    length_batches,
    pad_features,
    resolve_layers,
)
from s3prl_melhubert.extraction.windows import Windows, streamed_features, windowed_hidden_states

__all__ = [
    "MAX_FRAMES",
    "MAX_FRAMES_CUDA",
    "Windows",
    "hidden_states",
    "length_batches",
    "pad_features",
    "resolve_layers",
    "streamed_features",
    "windowed_hidden_states",
]
