"""What the tests of the house need: the scripts that measure it, loaded from their files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds the whole project."""
    return CHECKOUT


@pytest.fixture(scope="session")
def import_graph() -> Iterator[ModuleType]:
    """The script `import_graph.py`, which stands beside the tests and is no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "tests/house"))
        import import_graph

        yield import_graph
    sys.modules.pop("import_graph", None)
