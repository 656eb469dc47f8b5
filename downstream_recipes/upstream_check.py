"""Whether s3prl has an upstream and can load it: asked before anything else takes time."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path

from s3prl_melhubert import s3prl_plugin
from s3prl_melhubert.errors import MelHuBERTError


def check_upstream(args: argparse.Namespace) -> str:
    """Load the upstream and let it hear a second of silence; return a line that says what it is.

    Raises:
        MelHuBERTError: s3prl has no such upstream, or it cannot be loaded.
    """
    s3prl_plugin.install()
    import torch
    from s3prl import hub

    names = [name for name in dir(hub) if not name.startswith("_")]
    if args.upstream not in names:
        close = get_close_matches(args.upstream, names)
        raise MelHuBERTError(
            f"-u {args.upstream}: s3prl has no such upstream"
            + (f"; did you mean {', '.join(close)}?" if close else "")
        )
    for option, path in (("-k", args.upstream_ckpt), ("-g", args.upstream_model_config)):
        if path is not None and args.upstream.endswith("_local") and not Path(path).expanduser().is_file():
            raise MelHuBERTError(f"{option} {path}: no such file (looked for {Path(path).absolute()})")
    try:
        upstream = getattr(hub, args.upstream)(
            ckpt=args.upstream_ckpt, model_config=args.upstream_model_config, refresh=False
        )
        with torch.no_grad():
            states = upstream.eval()([torch.zeros(16000)])["hidden_states"]
    except MelHuBERTError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise MelHuBERTError(
            f"-u {args.upstream}: cannot be loaded ({type(error).__name__}: {said})"
        ) from error
    _, frames, width = states[0].shape
    return f"{args.upstream}: {len(states)} x {width} features, {frames} frames in a second of audio"
