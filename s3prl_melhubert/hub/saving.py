"""What the package's own classes save: a folder that others can load without the package, too.

transformers copies the files of code that a class came from, which for these classes would be files that
import this package. So `save_pretrained` is followed by the files that `melhubert hub` writes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3prl_melhubert.hub.export import (
    CONFIGURATION,
    EXTRACTOR_MAP,
    FEATURE_EXTRACTION,
    MODEL_MAP,
    MODELING,
    code_files,
)

PUSHING = ("commit_message", "private", "token", "create_pr", "revision")  # what both ways of pushing take


def with_code(cls: Any) -> None:
    """Have a class of models or feature extractors of transformers save its code with them."""
    plain = cls.save_pretrained
    if hasattr(plain, "__wrapped__") and plain.__module__ == __name__:
        return

    @functools.wraps(plain)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, push_to_hub: bool = False, **kwargs: Any):
        mapped: Mapping[str, str] = MODEL_MAP if hasattr(self, "config") else EXTRACTOR_MAP
        (self.config if hasattr(self, "config") else self).auto_map = dict(mapped)
        repository = kwargs.pop("repo_id", None) or Path(save_directory).name
        pushing = {name: kwargs.pop(name) for name in PUSHING if push_to_hub and name in kwargs}
        result = plain(self, save_directory, *args, **kwargs)
        names = (CONFIGURATION, MODELING) if hasattr(self, "config") else (FEATURE_EXTRACTION,)
        files = code_files()
        if Path(save_directory).is_dir():
            for name in names:
                (Path(save_directory) / f"{name}.py").write_text(files[f"{name}.py"], encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(repository, **pushing)
        return result

    save_pretrained.__module__ = __name__
    cls.save_pretrained = save_pretrained
