"""What s3prl says of itself once this package's hook has acted: its version, and the entries of its hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any


def inspect_s3prl() -> Iterator[dict[str, Any]]:
    """Import s3prl and yield what is found, step by step, for an import may end the process.

    Yields:
        `{"version": ...}`; then, with the hub imported, `{"entries": [...], "file": ...}`: this package's
        entries in the hub, and the hub's file; then `{"warning": ...}` for each warning of the hook.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import s3prl

        yield {"version": str(s3prl.__version__)}
        import s3prl.hub as hub

        yield {"entries": [name for name in dir(hub) if name.startswith("melhubert")], "file": hub.__file__}
    for warning in caught:
        if str(warning.message).startswith("s3prl-melhubert could not"):
            yield {"warning": str(warning.message)}
