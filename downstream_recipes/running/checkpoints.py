"""s3prl's checkpoints of a downstream experiment: read as data, found by their steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.experiments.saving import STATES
from s3prl_melhubert.errors import MelHuBERTError, named

POSITION = "position.pt"  # beside the checkpoints: what goes on from them as if nothing had happened


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, all tensors to the CPU; one that holds more than tensors and settings is refused.

    Raises:
        FileNotFoundError: there is none.
        MelHuBERTError: it cannot be read.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise MelHuBERTError(
            f"{path}: cannot be read as s3prl's checkpoint ({named(error)}); put a whole copy there, "
            "or train anew in another folder"
        ) from None


def layer_weights(checkpoint: Mapping[str, Any]) -> list[float]:
    """The learned weights of the upstream's hidden states (their sum is 1); none where s3prl took one."""
    weights = checkpoint["Featurizer"].get("weights")
    return [] if weights is None else [round(weight, 6) for weight in weights.softmax(0).tolist()]


def weights_digest(path: Path) -> str | None:
    """A SHA-256 of what is trained: the same also where the experiment, and so the paths in it, was moved.

    Args:
        path: a checkpoint's file.

    Returns:
        None where there is no such file: of a layer's folder, where nothing is trained.
    """
    from s3prl_melhubert.support.tensor_files import content_hash

    if not path.is_file():
        return None
    content, tensors = read_checkpoint(path), {}
    for part in ("Featurizer", "Downstream", "Upstream"):
        for name, value in content.get(part, {}).items():
            if hasattr(value, "numel"):
                tensors[f"{part}.{name}"] = value
    return content_hash(tensors, {})


def refuse_changed(path: Path, tested: str | None) -> None:
    """Raise MelHuBERTError where a checkpoint is not any more the one whose score a result has.

    Args:
        path: its file; where there is none, whoever needs it says so.
        tested: the `weights_digest` of the one that was tested; None in results of older versions.
    """
    if tested is not None and weights_digest(path) not in (None, tested):
        raise MelHuBERTError(
            f"{path}: has other weights than when it was tested, so that the score in results.json is not "
            "its; test again: `melhubert superb TASK ... --stage test`, or put the checkpoint back"
        )


def saved_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints `states-STEP.ckpt` of a folder by their steps, the earliest first."""
    found = {int(path.stem.split("-")[1]): path for path in folder.glob(STATES)}
    return dict(sorted(found.items()))
