"""s3prl's `-s` and `-l`, held against the layers that a MelHuBERT has.

For a name that an upstream does not give, such as `-s hidden_state_6` of a model of two layers, s3prl takes
the weighted sum of all layers and goes on, and the experiment names a layer that nobody has used. It passes
over `-l` where `-s` names a single layer; a number that is too large ends in Python's IndexError.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.settings import nearest

NUMBERED = re.compile(r"hidden_state_\d+")


@contextmanager
def missing_layers_refused() -> Iterator[None]:
    """Have s3prl's Featurizer raise a MelHuBERTError for what a MelHuBERT upstream does not give."""
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
    count = model.config.encoder_layers + 1
    # Of a single one, there is nothing to choose: s3prl passes over any number.
    single = ["last_hidden_state", *(f"hidden_state_{number}" for number in range(count))]
    refuse_missing_layer({"hidden_states": count, **dict.fromkeys(single, 0)}, selection, layer, "the model")


def refuse_missing_layer(
    outputs: Mapping[str, int],
    name: Any,
    layer: Any,
    upstream: str,
    options: tuple[str, str] = ("-s ", "-l "),
) -> None:
    """Raise MelHuBERTError for a choice that an upstream does not give.

    Args:
        outputs: how many layers may be chosen of each of the upstream's outputs, by their names.
        name: the output that is chosen.
        layer: the layer of it; None where none is chosen.
        upstream: what to call it.
        options: what stands before the name and the layer where they are given.
    """
    if not isinstance(name, str) or name not in outputs:
        known = [each for each in outputs if not each.startswith("_")]
        numbered = [each for each in known if NUMBERED.fullmatch(each)]
        if isinstance(name, str) and NUMBERED.fullmatch(name) and len(numbered) > 1:
            hint = f"expected hidden_state_0 to hidden_state_{len(numbered) - 1}"
        else:
            hint = nearest(str(name), known)
        raise MelHuBERTError(f"{options[0]}{name}: {upstream} gives no such output ({hint})")
    count = outputs[name]
    if layer is not None and not (isinstance(layer, int) and layer in range(-count, count)):
        raise MelHuBERTError(
            f"{options[1]}{shown(layer)}: {name} of {upstream} holds "
            + (f"{count} layers; expected 0 to {count - 1}" if count > 1 else "one layer; leave it out")
        )
