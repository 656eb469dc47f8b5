"""What a table of commands holds: where each is defined, and its summary and example, read from there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """Where a subcommand is defined."""

    module: str  # the name of a module of `s3prl_melhubert.commands`, with its room where it is in one
    function: str  # the name of the function in it that runs the subcommand
    temporary: bool = True  # whether it needs a folder for temporary files, as all do that import torch

    @property
    def path(self) -> str:
        """The module's name for an import."""
        return f"{__package__}.{self.module}"

    def describe(self) -> tuple[str, str]:
        """Return the summary and the example in the function's docstring; the module is not imported."""
        path = Path(__file__).parent / f"{self.module.replace('.', '/')}.py"
        functions = (node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef))
        docstring = next((ast.get_docstring(node) for node in functions if node.name == self.function), None)
        paragraphs = [" ".join(text.split()) for text in (docstring or "").split("\n\n")]
        example = next((text for text in paragraphs if text.startswith("Example:")), "")
        return paragraphs[0], example.removeprefix("Example:").strip()
