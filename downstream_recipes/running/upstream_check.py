"""The upstream: its settings with the precision, and that s3prl has it, can load it, and finds the layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from s3prl_melhubert.compat import finder
from s3prl_melhubert.compat.command_lines.names import check_upstream_name
from s3prl_melhubert.compat.layer_choice import refuse_missing_layer
from s3prl_melhubert.downstream_recipes.running.options import RunOptions
from s3prl_melhubert.downstream_recipes.running.s3prl_run import LOG, Log
from s3prl_melhubert.errors import MelHuBERTError, named
from s3prl_melhubert.statistics import stats_named_in
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS, precision_dtype
from s3prl_melhubert.support.files import full_path, full_path_of_file, write_text
from s3prl_melhubert.support.huggingface import passed_over
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import read_yaml_mapping

PACKAGE = "s3prl_melhubert"

UPSTREAM = "upstream.yaml"
# By these, what is given for an upstream is known as a file's name.
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".npz", ".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Heard:
    """What an upstream gives for a second of silence, and how it computes it.

    Attributes:
        outputs: by their names; `hidden_states` is a sequence of tensors, each (1, frames, features).
        precision: of a MelHuBERT: fp32 or bf16; None of another upstream.
        statistics: the digest of a MelHuBERT's log-Mel statistics; None of another upstream.
    """

    outputs: Mapping[str, Any]
    precision: str | None
    statistics: str | None

    def in_words(self, name: str) -> str:
        """A line that says what the upstream of that name is."""
        states = self.outputs["hidden_states"]
        _, frames, width = states[0].shape
        return f"{name}: {len(states)} x {width} features, {frames} frames in a second of audio"


def check_upstream(options: RunOptions, arguments: Mapping[str, Any]) -> Heard:
    """Load the upstream and let it hear a second of silence.

    Args:
        options: the user's.
        arguments: s3prl's, those of `settings.S3PRL_ARGUMENTS`.

    Raises:
        MelHuBERTError: s3prl has no such upstream, it cannot be loaded, or it does not give the layer that
            the arguments choose.
    """
    if options.upstream == "melhubert_hf" and (line := passed_over(options.upstream_ckpt or "")):
        say(line)  # s3prl's own words, and the upstream's, go to the log
    heard = _hear(options)
    refuse_missing_layer(
        {
            name: len(each) if isinstance(each, list | tuple | dict) else 1
            for name, each in heard.outputs.items()
        },
        arguments["upstream_feature_selection"],
        arguments["upstream_layer_selection"],
        f"-u {options.upstream}",
        ("-o args.upstream_feature_selection=", "-o args.upstream_layer_selection="),
    )
    return heard


def count_layers(options: RunOptions) -> int:
    """Return the number of the upstream's hidden states."""
    return len(_hear(options).outputs["hidden_states"])


def _hear(options: RunOptions) -> Heard:
    with Log(options.expdir.expanduser() / LOG) as log, log.redirected():
        return _of_silence(options)


def _of_silence(options: RunOptions) -> Heard:
    finder.install()
    import torch
    from s3prl import hub

    check_upstream_name(options.upstream)
    # s3prl's own say nothing of it; MelHuBERT does, and takes folders, too.
    asks_for_files = options.upstream.endswith("_local") and options.upstream != "melhubert_local"
    for argument, path in (("-k", options.upstream_ckpt), ("-g", options.upstream_model_config)):
        if path is not None and asks_for_files and not Path(path).expanduser().is_file():
            raise MelHuBERTError(f"{argument} {path}: no such file (looked for {Path(path).absolute()})")
        refuse_absent(argument, path)
    try:
        upstream = getattr(hub, options.upstream)(
            ckpt=options.upstream_ckpt, model_config=options.upstream_model_config, refresh=False
        )
        with torch.no_grad():
            outputs: dict[str, Any] = upstream.eval()([torch.zeros(16000)])
            _ = outputs["hidden_states"]  # Without these, no task can use it.
            return Heard(outputs, *_precision_and_statistics(upstream))
    except MelHuBERTError:
        raise
    except Exception as error:
        raise MelHuBERTError(f"-u {options.upstream}: cannot be loaded ({named(error)})") from error


def _precision_and_statistics(upstream: Any) -> tuple[str, str] | tuple[None, None]:
    """What a MelHuBERT computes with, which the arguments do not always say.

    Its settings (`-g`) may have a precision where there is no `--precision`, and a checkpoint's own
    statistics come before those that the settings name.
    """
    if not type(upstream).__module__.startswith(f"{PACKAGE}."):
        return None, None
    precision = next(each for each in INFERENCE_PRECISIONS if precision_dtype(each) == upstream.precision)
    return precision, upstream.stats.digest()


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
    write_text(folder / UPSTREAM, yaml.safe_dump(settings))
    return replace(options, upstream_model_config=str(folder / UPSTREAM))
