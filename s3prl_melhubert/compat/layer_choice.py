"""s3prl's `-s` and `-l`, held against the layers that a MelHuBERT has.

For a name that an upstream does not give, such as `-s hidden_state_6` of a model of two layers, s3prl takes
the weighted sum of all layers and goes on; a number of `-l` that is too large ends in Python's IndexError.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError


@contextmanager
def missing_layers_refused() -> Iterator[None]:
    """Have s3prl's Featurizer raise a MelHuBERTError for a layer that a MelHuBERT upstream does not have."""
    featurizer: Any = import_module("s3prl.upstream.interfaces").Featurizer
    plain = featurizer.__init__
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def init(*args: Any, **options: Any) -> None:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        chosen = given.arguments
        _check(chosen["upstream"], chosen["feature_selection"], chosen["layer_selection"])
        plain(*args, **options)

    featurizer.__init__ = init
    try:
        yield
    finally:
        featurizer.__init__ = plain


def _check(upstream: Any, selection: str, layer: int | None) -> None:
    from s3prl_melhubert.model import MelHuBERT

    upstream = getattr(upstream, "module", upstream)  # s3prl wraps it where several processes train it
    model = getattr(upstream, "model", None)
    if not isinstance(model, MelHuBERT):
        return
    count = model.config.encoder_layers
    names = [f"hidden_state_{number}" for number in range(count + 1)]
    if selection.startswith("hidden_state_") and selection not in names:
        raise MelHuBERTError(
            f"-s {selection}: the model has {count} layers; expected hidden_state_0 (the projected input) to "
            f"hidden_state_{count}, last_hidden_state or hidden_states"
        )
    if selection == "hidden_states" and layer is not None and layer not in range(-count - 1, count + 1):
        raise MelHuBERTError(
            f"-l {layer}: the model has {count} layers; expected 0 (the projected input) to {count}"
        )
