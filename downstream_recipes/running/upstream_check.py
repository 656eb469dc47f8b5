"""The check of the upstream: s3prl has it and can load it. It runs before anything that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.errors import MelHuBERTError


def check_upstream(options: RunOptions) -> str:
    """Load the upstream and let it hear a second of silence; return a line that says what it is.

    Raises:
        MelHuBERTError: s3prl has no such upstream, or it cannot be loaded.
    """
    states = _hear(options)
    _, frames, width = states[0].shape
    return f"{options.upstream}: {len(states)} x {width} features, {frames} frames in a second of audio"


def count_layers(options: RunOptions) -> int:
    """Return the number of the upstream's hidden states."""
    return len(_hear(options))


def _hear(options: RunOptions) -> Sequence[Any]:
    """Return the upstream's hidden states of a second of silence, each (1, frames, features)."""
    finder.install()
    import torch
    from s3prl import hub

    names = [name for name in dir(hub) if not name.startswith("_")]
    if options.upstream not in names:
        close = get_close_matches(options.upstream, names)
        raise MelHuBERTError(
            f"-u {options.upstream}: s3prl has no such upstream"
            + (f"; did you mean {', '.join(close)}?" if close else "")
        )
    for argument, path in (("-k", options.upstream_ckpt), ("-g", options.upstream_model_config)):
        if path is not None and options.upstream.endswith("_local") and not Path(path).expanduser().is_file():
            raise MelHuBERTError(f"{argument} {path}: no such file (looked for {Path(path).absolute()})")
    try:
        upstream = getattr(hub, options.upstream)(
            ckpt=options.upstream_ckpt, model_config=options.upstream_model_config, refresh=False
        )
        with torch.no_grad():
            return upstream.eval()([torch.zeros(16000)])["hidden_states"]
    except MelHuBERTError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise MelHuBERTError(
            f"-u {options.upstream}: cannot be loaded ({type(error).__name__}: {said})"
        ) from error
