"""Where the rooms stand in the picture of the architecture, and which modules the three ways of data pass.

`draw_architecture.py` reads this. It checks against the code that every room has a place here, every arrow
between wings a route, and every hop of a way an import. Lengths are inches from the lower left corner.
"""

from __future__ import annotations

from typing import NamedTuple

PACKAGE = "s3prl_melhubert"
FRONT_DOOR, SUPPORT = f"{PACKAGE}/commands", f"{PACKAGE}/support"


class Room(NamedTuple):
    """Where a room stands in the picture, in inches from the lower left corner, and what is said about it."""

    wing: str
    title: str
    says: str
    x: float
    y: float
    width: float
    height: float = 0.92


class Way(NamedTuple):
    """A way that data takes: from what, through which modules, to what."""

    title: str
    start: str
    modules: tuple[str, ...]  # without the package's name
    end: str
    beside: tuple[str, str, str] | None = None  # a module of the way, a library, and a module that it calls


WIDTH, BOTTOM, TOP = 10.4, -0.2, 14.12

ROOMS = {
    FRONT_DOOR: Room("front door", "cli.py, commands/", "arguments, and a call", 0.2, 12.77, 10.0, 0.6),
    "downstream_recipes": Room("downstream_recipes", "task.py, ...", "what a task is", 0.35, 10.89, 1.62),
    "downstream_recipes/prediction": Room(
        "downstream_recipes", "prediction", "of new audio", 2.07, 10.89, 1.62
    ),
    "downstream_recipes/quickstart": Room(
        "downstream_recipes", "quickstart", "the whole path", 3.79, 10.89, 1.62
    ),
    "downstream_recipes/TASK": Room(
        "downstream_recipes",
        "speech_recognition, keyword_spotting, ...",
        "a folder for each of SUPERB's tasks",
        0.35,
        9.87,
        5.06,
    ),
    "downstream_recipes/running": Room("downstream_recipes", "running", "s3prl's own runs", 0.35, 8.85, 1.62),
    "downstream_recipes/report": Room("downstream_recipes", "report", "table, submission", 2.07, 8.85, 1.62),
    "downstream_recipes/corpora": Room("downstream_recipes", "corpora", "read and checked", 3.79, 8.85, 1.62),
    "upstream_expert": Room("upstream_expert", "expert, hubconf", "s3prl's upstream", 5.93, 8.85, 1.53, 2.96),
    "pretrain": Room("pretrain", "pretrain_expert, link", "s3prl's pre-training", 8.08, 10.89, 1.97),
    "pretrain/training": Room("pretrain", "training", "a set to checkpoints", 8.08, 9.87, 1.97),
    "pretrain/data": Room("pretrain", "data", "audio to a set", 8.08, 8.85, 1.97),
    PACKAGE: Room(PACKAGE, "model, frontend, ...", "the model and its files", 0.35, 6.97, 2.1),
    f"{PACKAGE}/extraction": Room(PACKAGE, "extraction", "of many files", 2.55, 6.97, 1.55),
    f"{PACKAGE}/compat": Room("compat", "compat", "s3prl on today's libraries", 4.2, 6.97, 4.1),
    f"{PACKAGE}/doctor": Room(PACKAGE, "doctor", "what is wrong here", 8.4, 6.97, 1.65),
    f"{PACKAGE}/kernels": Room(PACKAGE, "kernels", "fast on a CPU", 0.35, 5.95, 1.7),
    f"{PACKAGE}/units": Room(PACKAGE, "units", "frames to numbers", 2.15, 5.95, 1.8),
    f"{PACKAGE}/compression": Room(PACKAGE, "compression", "smaller models", 4.05, 5.95, 1.7),
    f"{PACKAGE}/hub": Room(PACKAGE, "hub", "for the Hugging Face Hub", 5.85, 5.95, 2.5),
    f"{PACKAGE}/export": Room(PACKAGE, "export", "other runtimes", 8.45, 5.95, 1.6),
    SUPPORT: Room("support", "support/", "settings, devices, files, progress", 0.2, 5.12, 10.0, 0.5),
}

# The frames around the rooms of a wing: x, y, width, height.
FRAMES = {
    "downstream_recipes": (0.2, 8.7, 5.36, 3.5),
    "upstream_expert": (5.78, 8.7, 1.83, 3.5),
    "pretrain": (7.93, 8.7, 2.27, 3.5),
    PACKAGE: (0.2, 5.8, 10.0, 2.44),
}


class Route(NamedTuple):
    """How the arrow between two wings runs: straight down or up, at x, from one height to the other."""

    x: float
    start: float
    end: float
    dashed: bool = False  # only an exception of tests/house/test_imports.py is behind it


ROUTES = {
    ("front door", "downstream_recipes"): Route(3.0, 12.77, 12.20),
    ("front door", "upstream_expert"): Route(6.7, 12.77, 12.20),
    ("front door", PACKAGE): Route(5.67, 12.77, 8.24),
    ("front door", "compat"): Route(7.77, 12.77, 7.89),
    ("front door", "pretrain"): Route(9.5, 12.77, 12.20),
    ("downstream_recipes", PACKAGE): Route(1.8, 8.70, 8.24),
    ("downstream_recipes", "compat"): Route(4.5, 8.70, 7.89),
    ("upstream_expert", PACKAGE): Route(6.2, 8.70, 8.24),
    ("pretrain", PACKAGE): Route(9.22, 8.70, 8.24),
    ("compat", "downstream_recipes"): Route(5.2, 7.89, 8.70, True),
    ("compat", "upstream_expert"): Route(7.1, 7.89, 8.70, True),
    ("compat", "pretrain"): Route(8.1, 7.89, 8.70, True),
    ("downstream_recipes", "front door"): Route(4.6, 11.81, 12.77, True),
}
INSIDE = {(PACKAGE, "compat"), ("compat", PACKAGE)}  # both in one frame; the rooms' own lines say it

WAYS = (
    Way(
        "a waveform to hidden states",
        "waveform",
        ("frontend", "extraction.states", "model", "encoder", "packing", "kernels"),
        "hidden states",
    ),
    Way(
        "an audio file to the loss",
        "audio file",
        (
            "audio",
            "pretrain.data.features",
            "pretrain.data.shards",
            "pretrain.data.manifest",
            "pretrain.training.dataset",
            "pretrain.training.loading",
            "pretrain.training.runner",
            "model",
            "loss",
        ),
        "loss",
    ),
    Way(
        "a corpus to a score",
        "corpus",
        (
            "downstream_recipes.corpora.voxceleb",
            "downstream_recipes.speaker_identification.task",
            "downstream_recipes.task",
            "downstream_recipes.running.s3prl_run",
            "downstream_recipes.running.trainings.s3prl_experiment",
            "downstream_recipes.running.trainings.training",
            "downstream_recipes.running.experiments.experiment",
            "downstream_recipes.report.results",
            "downstream_recipes.report.table",
        ),
        "score",
        beside=("downstream_recipes.running.s3prl_run", "s3prl", "upstream_expert.expert"),
    ),
)

COLOURS = {  # wing -> light, dark
    "front door": ("#eceff1", "#455a64"),
    "downstream_recipes": ("#fff3e0", "#b35900"),
    "upstream_expert": ("#f3e5f5", "#6a1b9a"),
    "pretrain": ("#e8f5e9", "#2e7d32"),
    PACKAGE: ("#e3f2fd", "#1458a0"),
    "compat": ("#fce4ec", "#ad1457"),
    "support": ("#f5f5f5", "#616161"),
}
