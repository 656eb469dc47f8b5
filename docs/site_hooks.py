"""What the site needs besides its pages; mkdocs runs the functions here at their time.

The reference is read from the checkout's sources. In the checkout the four folders of the package stand side
by side; in an installation three of them lie inside the first. The reference needs them as installed, whether
the package is installed or not, so a copy with all parts in their places is made for the time of a build.

A page may link to a settings file of the package, such as `../pretrain/config_model.yaml`, which is right
where the repository is read. On the site the file is put beside the page.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).parents[1]
PACKAGE = "s3prl_melhubert"
WINGS = ("upstream_expert", "pretrain", "downstream_recipes")
SETTINGS_FILE = re.compile(r"\]\(\.\./((?:pretrain|downstream_recipes)/[\w./-]+\.yaml)\)")

_copy: Path | None = None


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    global _copy
    _remove_copy()
    _copy = Path(tempfile.mkdtemp(prefix="melhubert-site-"))
    python_only = shutil.ignore_patterns("__pycache__", "*.yaml", "*.txt", "*.dict")
    shutil.copytree(CHECKOUT / PACKAGE, _copy / PACKAGE, ignore=python_only)
    for wing in WINGS:
        shutil.copytree(CHECKOUT / wing, _copy / PACKAGE / wing, ignore=python_only)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(_copy)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page in files.documentation_pages():
        for name in SETTINGS_FILE.findall(page.content_string):
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(CHECKOUT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return SETTINGS_FILE.sub(r"](\1)", markdown)


def on_post_build(config: MkDocsConfig) -> None:
    _remove_copy()


def on_build_error(error: Exception) -> None:
    _remove_copy()


def _remove_copy() -> None:
    if _copy is not None:
        shutil.rmtree(_copy, ignore_errors=True)
