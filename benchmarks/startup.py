"""What the package costs at the start of programs: `python -m benchmarks.startup`.

    interpreter   `python -c pass` with the .pth hook, against the same without it (-S leaves out site, so
                  instead the file is read over: S3PRL_MELHUBERT_AUTOLOAD=0 still imports, and is a third row)
    import        `import s3prl_melhubert`
    help          `melhubert --help`
    s3prl         `import s3prl.hub`, which leaves out transformers, against the same with it

Of an installed package: in an editable install, setuptools' own finder adds milliseconds to each start.
Each figure is the median over many interpreters; what is compared runs in turn, so that a busy machine slows
both alike. Import times by module are those of `python -X importtime`.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.common.figures import Figure, save

RUNS = 25
LONG_RUNS = 5  # of what takes seconds


def seconds(*arguments: str, **environment: str) -> float:
    """Wall-clock time of a Python process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
        cwd=tempfile.gettempdir(),
    )
    return time.perf_counter() - start


def import_milliseconds() -> float:
    """What the .pth line imports at every start, by the interpreter's own clock: cumulative, in ms."""
    figures = []
    for _ in range(RUNS):
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "pass"],
            check=True,
            capture_output=True,
            text=True,
            cwd=tempfile.gettempdir(),
        )
        cumulative = re.findall(r"\|\s+(\d+) \|(\s+)(s3prl_melhubert[\w.]*)", result.stderr)
        # The least indented lines hold what they import themselves.
        least = min(len(indent) for _, indent, _ in cumulative)
        figures.append(sum(int(us) for us, indent, _ in cumulative if len(indent) == least) / 1000)
    return statistics.median(figures)


def hub_import() -> Figure:
    """What `import s3prl.hub` takes of the time that it takes together with transformers."""
    libraries = "from transformers import HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model; "
    without, with_them = [], []
    for _ in range(LONG_RUNS):
        without.append(seconds("-W", "ignore", "-c", "import s3prl.hub"))
        with_them.append(seconds("-W", "ignore", "-c", libraries + "import s3prl.hub"))
    share = statistics.median(without) / statistics.median(with_them)
    note = f"{statistics.median(without):.1f} of {statistics.median(with_them):.1f} s"
    return Figure("import s3prl.hub, of that with transformers", share, "", 0.6, at_least=False, note=note)


def main() -> None:
    commands = {
        "python -c pass": ("-c", "pass"),
        "import s3prl_melhubert": ("-c", "import s3prl_melhubert"),
        "melhubert --help": ("-m", "s3prl_melhubert", "--help"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            times[name].append(seconds(*arguments))
    bare = statistics.median(times["python -c pass"])
    figures = [Figure("hook at interpreter start", import_milliseconds(), "ms", 2, at_least=False)]
    for name, limit in (("import s3prl_melhubert", 50), ("melhubert --help", 300)):
        over = 1000 * (statistics.median(times[name]) - bare)
        note = f"over `python -c pass`, {1000 * bare:.0f} ms"
        figures.append(Figure(name, over, "ms", limit, at_least=False, note=note))
    figures.append(hub_import())
    save("startup", figures)


if __name__ == "__main__":
    main()
