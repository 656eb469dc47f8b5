"""The upstream: its settings with the precision, and the check that s3prl has it and can load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.compat import finder
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG, Log
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.statistics import stats_named_in
from s3prl_melhubert.support.files import atomic_path, full_path, full_path_of_file
from s3prl_melhubert.support.settings import read_yaml_mapping

PACKAGE = "s3prl_melhubert"

UPSTREAM = "upstream.yaml"
# By these, what is given for an upstream is known as a file's name.
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".npz", ".yaml", ".yml", ".json")


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
    with Log(options.expdir.expanduser() / LOG) as log, log.redirected():
        return _states_of_silence(options)


def _states_of_silence(options: RunOptions) -> Sequence[Any]:
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
        refuse_absent(argument, path)
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


def refuse_absent(argument: str, given: str | None) -> None:
    """Raise MelHuBERTError where what was given for the upstream can only be a file, and is none.

    Other upstreams take a name, a URL or an id, and those that take nothing would pass over it: the result
    would name a file that nobody has read.

    Args:
        argument: `-k` or `-g`.
        given: its value.
    """
    if given is None or "://" in given or Path(given).expanduser().exists():
        return
    if given.startswith(("/", "./", "../", "~")) or Path(given).suffix.lower() in SUFFIXES:
        raise MelHuBERTError(
            f"{argument} {given}: no such file (looked for {full_path(given)}); correct it, or leave it out"
        )


def with_precision(options: RunOptions, folder: Path) -> RunOptions:
    """Write the upstream's settings (s3prl's `-g`) with the precision that the user asks for, if any.

    Args:
        options: the user's.
        folder: of the experiment, where the file goes.

    Returns:
        The options with that file.

    Raises:
        MelHuBERTError: the upstream is no MelHuBERT, or its settings cannot be used.
    """
    if options.precision is None:
        return options
    finder.install()
    with Log(folder / LOG) as log, log.redirected():
        from s3prl import hub

    entry = getattr(hub, options.upstream, None)
    if entry is not None and not entry.__module__.startswith(f"{PACKAGE}."):
        raise MelHuBERTError(
            f"--precision {options.precision}: -u {options.upstream} is no MelHuBERT, and s3prl tells "
            "no other upstream its precision; leave --precision out"
        )
    settings: dict[str, Any] = {}
    if options.upstream_model_config is not None:
        given = Path(options.upstream_model_config).expanduser()
        settings = read_yaml_mapping(given)
        stats = stats_named_in(given, settings.get("feature_stats"))
        if isinstance(stats, str):
            settings["feature_stats"] = full_path_of_file(stats)
    settings["precision"] = options.precision
    with atomic_path(folder / UPSTREAM) as temporary:
        temporary.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return replace(options, upstream_model_config=str(folder / UPSTREAM))
