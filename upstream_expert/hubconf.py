"""The upstreams that s3prl sees: `melhubert`, the published checkpoints by name, and one's own.

    melhubert                       the published 20 ms model of 960 hours, stage 2
    melhubert_20ms_360h_stage1 ...  the other published ones
    melhubert_local                 a checkpoint file             (-k FILE)
    melhubert_url                   one on the web                (-k URL)
    melhubert_gdriveid              one on Google Drive           (-k ID)
    melhubert_custom                any of the three
    melhubert_hf                    a repository of the Hugging Face Hub    (-k ORG/NAME[@REVISION])

All take s3prl's keyword arguments `model_config` (`-g`) and `refresh` (`-r`). They refuse unknown
arguments, because an argument that is ignored changes a result without a message.
Imports are absolute, so that `torch.hub.load(FOLDER, source="local")` can read this file by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning, shown
from s3prl_melhubert.published import DEFAULT, PUBLISHED, PublishedCheckpoint
from s3prl_melhubert.support.huggingface import fetch_model, passed_over, repository_of
from s3prl_melhubert.upstream_expert import download
from s3prl_melhubert.upstream_expert.expert import (
    EXPERT_ARGUMENTS,
    S3PRL_ARGUMENTS,
    UpstreamExpert,
    refuse_unknown_arguments,
)

dependencies = ["torch", "s3prl", "s3prl_melhubert"]  # torch.hub checks that they are installed


def melhubert_local(
    ckpt: str | Path | None = None,
    model_config: str | Path | Mapping[str, Any] | None = None,
    feature_stats: str | Path | Mapping[str, Any] | None = None,
    precision: str | None = None,
    refresh: bool = False,
    **others: Any,
) -> UpstreamExpert:
    """A checkpoint file: published, written by this package, or .safetensors.

    Args:
        ckpt: the file (s3prl's `-k`).
        model_config: a YAML file (s3prl's `-g`) or mapping with `feature_stats` and `precision`.
        feature_stats: statistics, where the checkpoint does not hold them: a name, file or mapping.
        precision: `fp32` or `bf16`.
        refresh: s3prl's `-r`. It has no effect on a local file.
        others: `hooks` and `hook_postprocess` of s3prl's base class.

    Raises:
        MelHuBERTError: there is no file, it cannot be used, or an argument is unknown.
    """
    _refuse_unknown("melhubert_local", others)
    return UpstreamExpert(
        _given(ckpt, "melhubert_local", "a checkpoint file"), model_config, feature_stats, precision, **others
    )


def melhubert_url(
    ckpt: str | None = None, refresh: bool = False, sha256: str | None = None, **kwargs: Any
) -> UpstreamExpert:
    """A checkpoint on the web, kept in s3prl's cache; see `melhubert_local` for the rest.

    Args:
        ckpt: its http or https URL (s3prl's `-k`).
        refresh: fetch it again (s3prl's `-r`).
        sha256: the hash that the file must have.
    """
    _refuse_unknown("melhubert_url", kwargs, "refresh", "sha256")
    url = _given(ckpt, "melhubert_url", "a URL")
    if not url.startswith(("http://", "https://")):
        raise MelHuBERTError(f"melhubert_url: {shown(url)} is not a URL that starts with http:// or https://")
    return melhubert_local(download.fetch_url(url, refresh, sha256), **kwargs)


def melhubert_gdriveid(
    ckpt: str | None = None, refresh: bool = False, sha256: str | None = None, **kwargs: Any
) -> UpstreamExpert:
    """A checkpoint on Google Drive by its id, kept in s3prl's cache; see `melhubert_url`."""
    _refuse_unknown("melhubert_gdriveid", kwargs, "refresh", "sha256")
    gdrive_id = _given(ckpt, "melhubert_gdriveid", "a Google Drive id")
    return melhubert_local(download.fetch_gdrive(gdrive_id, refresh, sha256), **kwargs)


def melhubert_custom(ckpt: str | Path | None = None, **kwargs: Any) -> UpstreamExpert:
    """Load a checkpoint from a path, a URL or a Google Drive id. Its form tells which of them it is."""
    _refuse_unknown("melhubert_custom", kwargs, "refresh", "sha256")
    source = _given(ckpt, "melhubert_custom", "a file, a URL or a Google Drive id")
    if source.startswith(("http://", "https://")):
        return melhubert_url(source, **kwargs)
    if download.seems_gdrive_id(source):
        return melhubert_gdriveid(source, **kwargs)
    if kwargs.pop("sha256", None) is not None:
        raise MelHuBERTError(
            f"melhubert_custom: sha256 goes with a URL or a Google Drive id, not with {source}"
        )
    return melhubert_local(source, **kwargs)


def melhubert_hf(ckpt: str | None = None, refresh: bool = False, **kwargs: Any) -> UpstreamExpert:
    """A repository of the Hugging Face Hub, kept in huggingface_hub's cache; see also `melhubert_local`.

    Only `model.safetensors` and `config.json` are fetched, and no code of the repository is run.

    Args:
        ckpt: `ORG/NAME` or `ORG/NAME@REVISION` (s3prl's `-k`).
        refresh: fetch it again (s3prl's `-r`).
    """
    _refuse_unknown("melhubert_hf", kwargs, "refresh")
    source = _given(ckpt, "melhubert_hf", "a repository, ORG/NAME")
    if line := passed_over(source):
        warnings.warn(line, MelHuBERTWarning, stacklevel=2)
    return melhubert_local(fetch_model(repository_of(source), refresh), **kwargs)


def _refuse_unknown(entry: str, given: Mapping[str, Any], *more: str) -> None:
    known = {*EXPERT_ARGUMENTS, "refresh", *more}
    refuse_unknown_arguments(entry, given, known, {*S3PRL_ARGUMENTS, *known})


def _given(ckpt: str | Path | None, entry: str, what: str) -> str:
    if ckpt is None or ckpt == "":  # A shell variable that is not set gives the latter.
        raise MelHuBERTError(f"{entry}: needs {what}; give it with -k (in Python, ckpt=)")
    return str(ckpt)


def _named(name: str, entry: PublishedCheckpoint) -> Callable[..., UpstreamExpert]:
    def load(
        ckpt: None = None,
        model_config: str | Path | Mapping[str, Any] | None = None,
        refresh: bool = False,
        precision: str | None = None,
        **others: Any,
    ) -> UpstreamExpert:
        if "feature_stats" in others:
            raise MelHuBERTError(
                f"{name}: is the published checkpoint, whose statistics are {entry.feature_stats}; it takes "
                "no feature_stats"
            )
        _refuse_unknown(name, others)
        if ckpt is not None:
            raise MelHuBERTError(
                f"{name}: is the published checkpoint and takes no -k; use melhubert_local -k {ckpt}"
            )
        path = download.fetch_published(entry, refresh)
        return UpstreamExpert(
            path, model_config, precision=precision, entry_stats=entry.feature_stats, **others
        )

    hours = entry.feature_stats.removeprefix("librispeech-").removesuffix("h")
    load.__name__ = load.__qualname__ = name
    load.__doc__ = (
        f"The published {entry.frame_period} ms checkpoint {entry.name} ({hours} h of LibriSpeech)."
    )
    return load


_published_entries = {name: _named(name, entry) for name, entry in PUBLISHED.items()}
_published_entries["melhubert"] = _named("melhubert", PUBLISHED[DEFAULT])
globals().update(_published_entries)

__all__ = [
    *sorted(_published_entries),
    "melhubert_custom",
    "melhubert_gdriveid",
    "melhubert_hf",
    "melhubert_local",
    "melhubert_url",
]
