"""How often each property is tried: quickly with every `pytest`, at length where slow tests run.

Each property is written once and tried by two tests, of which the longer one is marked `slow`.
`MELHUBERT_EXAMPLES=N` says how often the quick one tries, for a night's run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # `mutations`, which is no part of the package

QUICK = int(os.environ.get("MELHUBERT_EXAMPLES", "40"))
settings.register_profile(
    "robustness",
    max_examples=QUICK,
    deadline=None,  # `same_or_refused` measures each reading alone
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
settings.load_profile("robustness")
