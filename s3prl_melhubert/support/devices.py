"""Which device computes, and with which precision: checked here, for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3prl_melhubert.errors import MelHuBERTError, shown

if TYPE_CHECKING:
    import torch

# Of matrix products; parameters are always float32. fp16 needs scaled losses, so it is for training alone.
PRECISIONS = ("fp32", "bf16", "fp16")
INFERENCE_PRECISIONS = PRECISIONS[:2]


def resolve_device(name: str | None = None) -> torch.device:
    """The device of that name, or the best there is: CUDA if torch sees any, else the CPU.

    Args:
        name: `cpu`, `cuda` or `cuda:N`; None for the best.

    Raises:
        MelHuBERTError: no device of that name, or CUDA where there is none.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = any_device(name)
    if device.type not in ("cpu", "cuda"):
        raise MelHuBERTError(f"device {shown(name)}: not supported; expected cpu, cuda or cuda:N")
    return device


def any_device(name: str | int | torch.device) -> torch.device:
    """The device of that name, of any kind that torch knows; only CUDA's are looked for.

    Raises:
        MelHuBERTError: torch knows no such device, or CUDA is asked for where there is none.
    """
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise MelHuBERTError(
            f"device {shown(name)}: unknown to torch; expected cpu, cuda or cuda:N"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise MelHuBERTError(
                f"device {name}: torch {torch.__version__} sees no CUDA device; use cpu, or ask "
                "`melhubert doctor` why"
            )
        if device.index is not None and device.index >= count:
            raise MelHuBERTError(f"device {name}: expected cuda:0 to cuda:{count - 1}")
    return device


def precision_dtype(precision: str) -> torch.dtype:
    """float32, bfloat16 or float16, for a name of `PRECISIONS`."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def check_precision(precision: object, where: str, allowed: tuple[str, ...] = PRECISIONS) -> str:
    """The precision, if it is one.

    Args:
        precision: what was given.
        where: what to call it in an error.
        allowed: the names to choose from.

    Raises:
        MelHuBERTError: another one.
    """
    if precision not in allowed:
        raise MelHuBERTError(f"{where}: {shown(precision)} found, expected {' or '.join(allowed)}")
    return str(precision)
