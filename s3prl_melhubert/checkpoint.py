"""Files of weights: the published format (a pickled dict), ours (the same and two keys), and safetensors.

A checkpoint from the internet must not run code: files are read with `weights_only` and an allow-list of
one harmless class. Statistics travel with the weights, because weights mean nothing without them.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.config import SECTIONS, MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.published import recognize
from s3prl_melhubert.statistics import FeatureStats, published_stats

# Published checkpoints hold the trainer's command line.
ALLOWED_GLOBALS: list[Any] = [argparse.Namespace]


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    config: MelHuBERTConfig
    state: dict[str, Tensor]  # parameters by their published names, on the CPU
    stats: FeatureStats | None = None  # None in published files, which do not carry them
    step: int | None = None  # optimizer steps of training
    rest: dict[str, Any] = field(default_factory=dict)  # what else the file holds: Optimizer, Args, Runner...

    @property
    def frame_period(self) -> int:
        """10 or 20 ms."""
        return self.config.frame_period

    def build_model(self) -> MelHuBERT:
        """The model with these weights, in evaluation mode.

        Raises:
            MelHuBERTError: a tensor is missing, of another shape, or unknown to the model.
        """
        with torch.device("meta"):
            model = MelHuBERT(self.config)
        check_state(self.state, model.state_dict(), str(self.path))
        model = model.to_empty(device="cpu")
        model.load_state_dict(self.state)
        return model.eval()


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compare a state dict with a model's, tensor by tensor.

    Raises:
        MelHuBERTError: names `where` and the first tensors that are missing, misshapen or unknown.
    """
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, tensor in state.items():
        if name not in expected:
            problems.append(f"{name} is not a tensor of this model")
        elif not isinstance(tensor, Tensor):
            problems.append(f"{name} is a {type(tensor).__name__}, not a tensor")
        elif tensor.shape != expected[name].shape:
            found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            problems.append(f"{name} has shape {found}, expected {wanted}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MelHuBERTError(
            f"{where}: the weights do not fit their settings: {', '.join(problems[:3])}{more}"
        )


def load_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Read a published checkpoint, one of ours, or a .safetensors file written by `save_checkpoint`.

    Args:
        path: the file.
        trust: run code that a pickle may hold. Only for a file whose source you trust.

    Raises:
        MelHuBERTError: no such file, damaged, in need of code, or not of a MelHuBERT; its message names
            the file and what to do.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise MelHuBERTError(f"{path}: is a folder, expected a checkpoint file")
    if not path.is_file():
        raise MelHuBERTError(f"{path}: no such checkpoint (looked for {path.resolve()})")
    with path.open("rb") as file:
        head = file.read(9)
    content = _read_safetensors(path) if head[8:] == b"{" else _read_pickle(path, trust)

    found = ", ".join(str(key) for key in list(content)[:8])
    settings, state = content.pop("Upstream_Config", None), content.pop("model", None)
    if (
        not isinstance(state, Mapping)
        or not isinstance(settings, Mapping)
        or not set(settings) & set(SECTIONS)
    ):
        raise MelHuBERTError(
            f"{path}: not a MelHuBERT checkpoint: keys {found or '(none)'} found, expected model and "
            "Upstream_Config with a section melhubert; is it another model's file?"
        )
    config = MelHuBERTConfig.from_mapping(settings, f"{path}: Upstream_Config", ignore_unknown=True)
    stats = content.pop("Feature_Stats", None)
    if stats is not None:
        stats = FeatureStats.from_mapping(stats, f"in {path}")
    period = content.pop("Frame_Period", None)
    if period is not None and period != config.frame_period:
        raise MelHuBERTError(
            f"{path}: Frame_Period is {period} ms, but feat_emb_dim {config.feat_emb_dim} means "
            f"{config.frame_period} ms"
        )
    step = content.pop("Step", None)
    if not isinstance(step, int | None):
        raise MelHuBERTError(f"{path}: Step is {step!r}, expected a number of optimizer steps")
    return Checkpoint(path, config, dict(state), stats, step, content)


def _read_pickle(path: Path, trust: bool) -> dict[str, Any]:
    try:
        if trust:
            content = _run_pickle(path)
        else:
            # torch's context manager would, at its end, also forbid what the program had allowed before.
            allowed = torch.serialization.get_safe_globals()
            new = [each for each in ALLOWED_GLOBALS if each not in allowed]
            with torch.serialization.safe_globals(new):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message runs over a page; what it would have had to import is named in it.
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if not (needed or is_pickle):
            raise _unreadable(path, error) from None
        what = needed.group(1) if needed else "what, cannot be checked"
        raise MelHuBERTError(
            f"{path}: refused, because reading it would run code from the file ({what}); if you trust where "
            f"it comes from, rewrite it with: melhubert convert --trust {path} OUT.ckpt"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise MelHuBERTError(
            f"{path}: not a MelHuBERT checkpoint: a {type(content).__name__} found, expected a dict with "
            "model and Upstream_Config; is it another model's file?"
        )
    return content


def _run_pickle(path: Path) -> Any:
    """Read a file with the code that it holds, which may fail in any way."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except ImportError as error:
        raise MelHuBERTError(
            f"{path}: its code needs the module {error.name or error}, which cannot be imported; install "
            "what the file was written with"
        ) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> MelHuBERTError:
    # The first sentence; torch's own messages go on about its settings and where to file a bug.
    reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
    return MelHuBERTError(
        f"{path}: damaged or not a checkpoint ({path.stat().st_size} bytes; {reason}); copy or fetch it again"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        content = {key: json.loads(value) for key, value in metadata.items() if key in SAFETENSORS_KEYS}
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return {"model": state, **content}


# What a .safetensors file keeps in its metadata, as JSON: all that is neither a tensor nor the trainer's.
SAFETENSORS_KEYS = ("Upstream_Config", "Feature_Stats", "Frame_Period", "Step")


def save_checkpoint(
    path: str | Path,
    config: MelHuBERTConfig,
    state: Mapping[str, Tensor],
    stats: FeatureStats | None,
    step: int = 0,
    rest: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint; readers see the old file or the new one, never a part.

    Args:
        path: a name ending in .safetensors chooses that format, any other the published one (with our
            keys `Feature_Stats` and `Frame_Period` added).
        config: the model's settings.
        state: the model's `state_dict()`.
        stats: the statistics the model was trained with; None only for a published file converted
            without knowing them.
        step: optimizer steps of training so far.
        rest: more keys, such as `Optimizer`; .safetensors files cannot hold them and leave them out.

    Raises:
        MelHuBERTError: the folder cannot be written.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    content: dict[str, Any] = {
        "Step": step,
        "Upstream_Config": {"melhubert": config.to_mapping()},
        "Frame_Period": config.frame_period,
    }
    if stats is not None:
        content["Feature_Stats"] = stats.to_mapping()
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            metadata = {key: json.dumps(content[key]) for key in SAFETENSORS_KEYS if key in content}
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, metadata)
        else:
            # The published scripts look these keys up, whether or not they use them.
            published: dict[str, Any] = {"Optimizer": None, "Args": argparse.Namespace(), "Runner": {}}
            torch.save({**published, **(rest or {}), **content, "model": state}, temporary)


def resolve_stats(
    checkpoint: Checkpoint,
    feature_stats: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    configured: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    entry_stats: str | None = None,
) -> FeatureStats:
    """The statistics of a checkpoint, from the first place that has them.

    Args:
        checkpoint: first, what the file itself holds.
        feature_stats: second, what the caller gives: a name, a file, a mapping, or the statistics.
        configured: third, what a settings file gives, in the same forms.
        entry_stats: fourth, the name of a published checkpoint's; if not given, the file is looked up
            among the published ones by its name and hash.

    Raises:
        MelHuBERTError: none of these has any.
    """
    given = [FeatureStats.load(source) for source in (feature_stats, configured) if source is not None]
    if checkpoint.stats is not None:
        if given and given[0] != checkpoint.stats:
            warnings.warn(
                f"{checkpoint.path}: uses the statistics that it was trained with and ignores those of "
                f"{given[0].name}",
                stacklevel=2,
            )
        return checkpoint.stats
    if given:
        return given[0]
    if entry_stats is None:
        published = recognize(checkpoint.path)
        entry_stats = published.feature_stats if published else None
    if entry_stats is not None:
        return FeatureStats.load(entry_stats)
    raise MelHuBERTError(
        f"{checkpoint.path}: its log-Mel statistics are unknown: the file holds none, none were given "
        f"(feature_stats= in Python, --stats on the command line, `feature_stats:` in s3prl's -g YAML), and "
        f"it is no published checkpoint; give a name ({', '.join(published_stats())}) or a .yaml or .npy file"
    )


def load_model(
    path: str | Path,
    feature_stats: str | Path | Mapping[str, Any] | FeatureStats | None = None,
    device: str | torch.device = "cpu",
) -> tuple[MelHuBERT, Frontend]:
    """A checkpoint's model, ready to use, and the frontend that makes its input.

    Args:
        path: a checkpoint file.
        feature_stats: statistics, where the file holds none: a name (`librispeech-360h`), a .yaml or
            .npy file, or a mapping with `mean` and `std`.
        device: where to put both.

    Returns:
        The model in evaluation mode, and its `Frontend`.

    Raises:
        MelHuBERTError: the file cannot be used, or its statistics are unknown.

    Example::

        model, frontend = load_model("melhubert.ckpt", feature_stats="librispeech-360h")
        features, padding_mask = frontend([waveform])  # waveform: (n,) float32 at 16 kHz
        hidden_states = model(features, padding_mask).hidden_states  # 13 x (1, T, 768)
    """
    checkpoint = load_checkpoint(path)
    frontend = Frontend(resolve_stats(checkpoint, feature_stats), checkpoint.frame_period)
    return checkpoint.build_model().to(device), frontend.to(device)
