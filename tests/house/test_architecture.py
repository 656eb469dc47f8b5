"""The picture of the architecture shows the code as it is."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def draw_architecture(checkout, import_graph, monkeypatch):
    """The script that draws the picture, loaded from its file."""
    monkeypatch.syspath_prepend(str(checkout / "docs"))
    monkeypatch.delitem(sys.modules, "draw_architecture", raising=False)
    import draw_architecture

    return draw_architecture


def test_picture_shows_the_imports_of_today(checkout):
    script = checkout / "docs/draw_architecture.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_way_whose_modules_do_not_import_each_other_is_not_drawn(draw_architecture, import_graph):
    graph = import_graph.read_graph()
    broken = draw_architecture.WAYS[0]._replace(modules=("masking", "checkpoint"))
    with pytest.raises(SystemExit, match=r"neither .*masking nor .*checkpoint imports the other"):
        draw_architecture.hops(graph, broken)


def test_a_room_without_a_place_is_told(draw_architecture, import_graph, monkeypatch):
    monkeypatch.delitem(draw_architecture.ROOMS, "pretrain/data")
    with pytest.raises(SystemExit, match=r"a place in architecture_layout\.py: pretrain/data"):
        draw_architecture.measure(import_graph.read_graph())
