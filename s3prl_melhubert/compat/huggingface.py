"""What s3prl's `--hub huggingface` calls in huggingface_hub, as it was before version 1.0.

s3prl logs in with a user's name and password, which the Hub ended in 2021, and fetches an upstream with
arguments that `snapshot_download` no longer has.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

MARK = "takes_former_arguments"  # an attribute of the function that was put in the other's place


def login(self: Any, username: str | None = None, password: str | None = None) -> str | None:
    """Return the token of this machine, or None: names and passwords are no way to log in any more."""
    import huggingface_hub

    return huggingface_hub.get_token()


def with_former_arguments(snapshot_download: Callable[..., Any]) -> Callable[..., Any]:
    """Let `snapshot_download` take the revision by its place, and `use_auth_token`.

    The token is used where there is one, so that public repositories need none.
    """

    @functools.wraps(snapshot_download)
    def former(repo_id: str, revision: str | None = None, **others: Any) -> Any:
        token = others.pop("use_auth_token", None)
        if isinstance(token, str):
            others.setdefault("token", token)
        return snapshot_download(repo_id, revision=revision, **others)

    setattr(former, MARK, True)
    return former


def restore(huggingface_hub: Any) -> bool:
    """Put back what is missing; true if anything was."""
    missing = False
    if not hasattr(huggingface_hub.HfApi, "login"):
        huggingface_hub.HfApi.login = login
        missing = True
    present = huggingface_hub.snapshot_download
    revision = inspect.signature(present).parameters.get("revision")
    if hasattr(present, MARK):
        revision = None
    if revision is not None and revision.kind is inspect.Parameter.KEYWORD_ONLY:
        huggingface_hub.snapshot_download = with_former_arguments(present)
        missing = True
    return missing
