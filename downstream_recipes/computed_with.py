"""What a MelHuBERT computes with, as a result keeps it: its statistics and its precision."""

from __future__ import annotations

import warnings

from s3prl_melhubert.compat import finder
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS, precision_dtype

PACKAGE = "s3prl_melhubert"


def statistics_and_precision(
    name: str, ckpt: str | None, model_config: str | None
) -> tuple[str | None, str | None]:
    """Load an upstream as s3prl does, and ask it.

    Args:
        name: the upstream's (s3prl's `-u`).
        ckpt, model_config: s3prl's `-k` and `-g`. What they say is not always what counts: a checkpoint's own
            statistics do, whatever `-g` names.

    Returns:
        The digest of the statistics, and `fp32` or `bf16`; None for both of an upstream that is not ours.

    Raises:
        MelHuBERTError: it cannot be loaded.
    """
    finder.install()
    from s3prl import hub

    entry = getattr(hub, name)
    if not entry.__module__.startswith(f"{PACKAGE}."):
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They were told when the upstream was loaded first.
        upstream = entry(ckpt=ckpt, model_config=model_config)
    precision = next(each for each in INFERENCE_PRECISIONS if precision_dtype(each) == upstream.precision)
    return upstream.stats.digest(), precision
