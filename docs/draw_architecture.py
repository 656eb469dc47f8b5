"""Draw the picture of docs/architecture.md from the code's imports, and write beside it what it shows.

    python docs/draw_architecture.py            # writes docs/images/architecture.png and architecture.json
    python docs/draw_architecture.py --check    # exit status 1 if the code has changed since

Which rooms there are, which room imports which, and whether the three ways of data are connected by imports,
is measured. Where a room stands and what is said about it is in `architecture_layout.py`, because a picture
needs a hand. A room without a place, an arrow without a route and a hop without an import end the program
with an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
sys.path[:0] = [str(CHECKOUT / "docs"), str(CHECKOUT / "tests/house")]

from architecture_layout import (  # noqa: E402
    BOTTOM,
    COLOURS,
    FRAMES,
    FRONT_DOOR,
    INSIDE,
    PACKAGE,
    ROOMS,
    ROUTES,
    SUPPORT,
    TOP,
    WAYS,
    WIDTH,
    Way,
)
from import_graph import Graph, read_graph, room_imports, within  # noqa: E402

PICTURE = CHECKOUT / "docs/images/architecture.png"
FACTS = PICTURE.with_suffix(".json")


# -- what is measured ------------------------------------------------------------------------------------


def measure(graph: Graph) -> dict[str, Any]:
    """What the picture shows: the rooms and what each imports, and the ways with the import behind each hop.

    Raises:
        SystemExit: a room has no place, or a hop of a way has no import behind it.
    """
    imports = {room: sorted(others) for room, others in room_imports(graph).items()}
    rooms = sorted({graph.room(module) for module in graph.files})
    if unplaced := [room for room in rooms if room not in ROOMS]:
        raise SystemExit(f"give these rooms a place in architecture_layout.py: {', '.join(unplaced)}")
    return {
        "rooms": {room: imports.get(room, []) for room in rooms},
        "ways": {way.title: hops(graph, way) for way in WAYS},
    }


def hops(graph: Graph, way: Way) -> list[str]:
    """The imports that connect the modules of a way, one for each hop.

    Raises:
        SystemExit: two modules that follow each other do not import each other, either way.
    """
    found = []
    names = [f"{PACKAGE}.{module}" for module in way.modules]
    for name in names:
        if name not in graph.files:
            raise SystemExit(f"{way.title}: there is no module {name}")
    for before, after in pairwise(names):
        if after in graph.inside[before]:
            found.append(f"{before} imports {after}")
        elif before in graph.inside[after]:
            found.append(f"{after} imports {before}")
        else:
            raise SystemExit(f"{way.title}: neither {before} nor {after} imports the other")
    if way.beside:
        caller, library, called = way.beside
        users = {one.importer for one in graph.importers_of(library)}
        for module in (f"{PACKAGE}.{caller}", f"{PACKAGE}.{called}"):
            if module not in users:
                raise SystemExit(f"{way.title}: {module} does not import {library}")
            found.append(f"{module} imports {library}")
    return found


def wing_of(module: str) -> str:
    for wing in ("compat", "upstream_expert", "pretrain", "downstream_recipes", "support"):
        if within(module, [f"{PACKAGE}.{wing}"]):
            return wing
    return PACKAGE


# -- the drawing -----------------------------------------------------------------------------------------


def draw(facts: Mapping[str, Any]) -> None:
    """Draw the picture of what was measured.

    Raises:
        SystemExit: one wing imports another, and the arrow between them has no route.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(WIDTH, TOP - BOTTOM), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(BOTTOM, TOP)
    axes.axis("off")
    draw_rooms(axes, facts["rooms"])
    draw_ways(axes)
    figure.savefig(PICTURE, metadata={"Software": None})
    plt.close(figure)


def draw_rooms(axes: Any, rooms: Mapping[str, list[str]]) -> None:
    heading(
        axes, TOP - 0.35, "The rooms", "An arrow goes from what imports to what is imported. A dashed one is"
    )
    write(axes, 2.6, TOP - 0.57, "followed only when s3prl asks, or a command is run.", size=11)
    for wing, (x, y, width, height) in FRAMES.items():
        box(axes, x, y, width, height, COLOURS[wing], alpha=0.45)
        colour = COLOURS[wing][1]
        write(axes, x + 0.15, y + height - 0.2, wing, size=13, fit=width - 0.3, weight="bold", color=colour)
    for name, imported in rooms.items():
        room = ROOMS[name]
        light, dark = COLOURS[room.wing]
        box(axes, room.x, room.y, room.width, room.height, ("white" if room.wing in FRAMES else light, dark))
        middle, top = room.x + room.width / 2, room.y + room.height
        centred: dict[str, Any] = {"ha": "center"}
        if name in (FRONT_DOOR, SUPPORT):
            users = sum(SUPPORT in others for others in rooms.values())
            more = f"; used by {users} of {len(rooms) - 1} rooms" if name == SUPPORT else ""
            write(
                axes,
                middle,
                room.y + room.height / 2,
                f"{room.title}   {room.says}{more}",
                size=12,
                color=dark,
                **centred,
            )
            continue
        centred |= {"fit": room.width - 0.1}
        write(axes, middle, top - 0.2, room.title, size=10.5, weight="bold", color=dark, **centred)
        write(axes, middle, top - 0.42, room.says, size=10, **centred)
        beside = [ROOMS[other].title.split(",")[0] for other in imported if shown_beside(name, other)]
        if beside:
            write(
                axes, middle, top - 0.69, "imports\n" + ", ".join(beside), size=8.5, color="#444", **centred
            )
    arrows = {
        (ROOMS[room].wing, ROOMS[other].wing)
        for room, others in rooms.items()
        for other in others
        if ROOMS[room].wing != ROOMS[other].wing and "support" not in (ROOMS[room].wing, ROOMS[other].wing)
    }
    if missing := arrows - ROUTES.keys() - INSIDE:
        raise SystemExit(f"give these arrows a route in architecture_layout.py: {sorted(missing)}")
    for pair in sorted(arrows & ROUTES.keys()):
        route = ROUTES[pair]
        arrow(axes, (route.x, route.start), (route.x, route.end), COLOURS[pair[0]][1], dashed=route.dashed)


def shown_beside(room: str, other: str) -> bool:
    """Whether a room's own line says that it imports another: they are in one frame, and no arrow says it."""
    one, two = ROOMS[room], ROOMS[other]
    return one.wing == two.wing or (one.wing, two.wing) in INSIDE


def draw_ways(axes: Any) -> None:
    heading(
        axes,
        4.75,
        "The ways of data",
        "Each goes straight down. Of two that follow each other, one imports the other.",
    )
    column, chip, gap = 3.3, 0.29, 0.1
    for i, way in enumerate(WAYS):
        x, y = 0.2 + i * (column + 0.05), 4.35
        write(axes, x, y, way.title[0].upper() + way.title[1:], size=12, weight="bold")
        y -= 0.2
        for j, name in enumerate((way.start, *way.modules, way.end)):
            y -= chip
            below = gap
            if 0 < j <= len(way.modules):
                draw_module(axes, name, x, y, column - 0.1, chip)
            else:
                write(axes, x + 0.1, y + chip / 2, name, size=11, style="italic")
            if way.beside and name == way.beside[0]:
                _, library, called = way.beside
                below = chip + 2 * gap
                draw_module(axes, called, x + 1.1, y - gap - chip, column - 1.2, chip, f"through {library}")
                arrow(axes, (x + 0.45, y - gap - chip / 2), (x + 1.1, y - gap - chip / 2), "#333", both=True)
            if j <= len(way.modules):
                arrow(axes, (x + 0.45, y), (x + 0.45, y - below), "#333", small=True)
            y -= below


def draw_module(
    axes: Any, name: str, x: float, y: float, width: float, height: float, where: str | None = None
) -> None:
    light, dark = COLOURS[wing_of(f"{PACKAGE}.{name}")]
    box(axes, x, y, width, height, (light, dark))
    *folders, module = name.split(".")
    inside = not folders or folders[0] not in FRAMES
    where = where or "/".join([PACKAGE, *folders] if inside else folders)
    taken = write(axes, x + 0.1, y + height / 2, module, size=10.5, weight="bold", color=dark)
    rest = width - taken - 0.3
    write(axes, x + width - 0.1, y + height / 2, where, size=8.5, fit=rest, color=dark, ha="right")


def write(
    axes: Any, x: float, y: float, text: str, size: float, fit: float | None = None, **style: Any
) -> float:
    """Write a text, smaller if it would be wider than `fit` inches, and return its width in inches."""
    written = axes.text(x, y, text, size=size, va="center", **style)
    width = written.get_window_extent().width / axes.figure.dpi
    if fit is None or width <= fit:
        return width
    written.set_fontsize(size * fit / width)
    return fit


def heading(axes: Any, y: float, title: str, explanation: str) -> None:
    write(axes, 0.2, y, title, size=17, weight="bold")
    write(axes, 2.6, y, explanation, size=11)


def box(
    axes: Any, x: float, y: float, width: float, height: float, colours: tuple[str, str], alpha: float = 1
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, shape, facecolor=colours[0], edgecolor=colours[1], alpha=alpha)
    )


def arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    dashed: bool = False,
    small: bool = False,
    both: bool = False,
) -> None:
    small = small or both
    width = 0.14 if small else 0.28
    style = {
        "arrowstyle": f"{'<|-|>' if both else '-|>'},head_width={width},head_length={2 * width}",
        "color": colour,
        "linewidth": 1 if small else 1.8,
        "linestyle": (0, (3, 2)) if dashed else "-",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the architecture from the imports.")
    parser.add_argument(
        "--check", action="store_true", help="draw nothing; exit status 1 if it is out of date"
    )
    check = parser.parse_args().check
    facts = measure(read_graph())
    if check:
        if facts != json.loads(FACTS.read_text()):
            raise SystemExit(f"{PICTURE}: out of date; run: python docs/draw_architecture.py")
        return
    draw(facts)
    FACTS.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{PICTURE}: drawn")


if __name__ == "__main__":
    main()
