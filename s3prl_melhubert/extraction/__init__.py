"""Hidden states of many utterances.

    states.py    batches of like lengths through the model, on any device
    files.py     audio files to a .npz, a .npy or a folder of them: what `melhubert extract` does
    inputs.py    which files there are, how long they are, and what was found wrong with them
    output.py    the files that are written, and whether they can be

What a program of its own needs is `hidden_states`, with `pad_features` where features are there already.
"""

from s3prl_melhubert.extraction.states import (
    MAX_FRAMES,
    MAX_FRAMES_CUDA,
    hidden_states,
    length_batches,
    pad_features,
    resolve_layers,
)

__all__ = [
    "MAX_FRAMES",
    "MAX_FRAMES_CUDA",
    "hidden_states",
    "length_batches",
    "pad_features",
    "resolve_layers",
]
