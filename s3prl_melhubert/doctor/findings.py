"""What a check finds, and what later checks learn from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TEMPORARY = "a folder for temporary files"  # stands among what is broken where there is none


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str  # ok, note, skipped or problem
    text: str
    mend: str = ""  # the command that mends a problem


@dataclass
class Context:
    """What earlier checks have learned, for later ones."""

    # Modules that cannot be imported; `hook` for the .pth file, and TEMPORARY.
    broken: set[str] = field(default_factory=set)
    torch: dict[str, Any] = field(default_factory=dict)  # what `probe_torch` told; empty if it told nothing
