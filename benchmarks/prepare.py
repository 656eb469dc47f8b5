"""`melhubert prepare` on two cores, beside decoding and log-Mel alone: `python -m benchmarks.prepare`.

Alone, too, two processes share the files; their log-Mel is torch's, as the goal had it, and then numpy's, as
`prepare` computes it. Two sizes, because starting the processes and fitting K-means take the same time for
any corpus. With --audio, links to a folder's files make up the hours; without, FLAC files of synthesized
noise that has the loudness contour and the long-term spectrum of speech, so that they are as hard to decode.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from benchmarks.common.audio import hours_of_audio
from benchmarks.common.figures import THREADS, Figure, parser, save, seconds
from benchmarks.prepare_memory import bare_seconds, run
from s3prl_melhubert.audio import find_audio
from s3prl_melhubert.fbank import fbank


@dataclass(frozen=True)
class Measured:
    """What a corpus took; the best of the rounds."""

    hours: float  # of audio
    torch: float  # seconds of decoding and torch's log-Mel
    numpy: float  # and of numpy's
    prepared: float  # seconds of the command


def torch_log_mel(waveform: np.ndarray) -> object:
    import torch  # here, because the processes that time numpy's do not need it

    from s3prl_melhubert.frontend import log_mel

    torch.set_num_threads(1)
    return log_mel(torch.from_numpy(waveform))


def measure(audio: Path | None, wanted: float, rounds: int) -> Measured:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        links, hours = hours_of_audio(audio, wanted, folder)
        paths = find_audio([links])
        parts = [paths[i :: 8 * THREADS] for i in range(8 * THREADS)]
        print(f"  {hours:.1f} h in {len(paths)} files", flush=True)
        taken: dict[str, list[float]] = {"torch": [], "numpy": [], "prepared": []}
        alone = {"torch": torch_log_mel, "numpy": fbank}
        with Parallel(THREADS) as pool:

            def pass_over(name: str, files: int | None = None) -> float:
                tasks = [delayed(bare_seconds)(part[:files], alone[name]) for part in parts]
                return seconds(lambda: pool(tasks))

            for number in range(rounds):
                for name in alone:
                    pass_over(name, files=1)  # starts the processes, and imports what they need
                    taken[name].append(pass_over(name))
                taken["prepared"].append(run(links, folder / f"out{number}", 512, THREADS)[1])
                print(
                    "  " + ", ".join(f"{name} {times[-1]:.1f} s" for name, times in taken.items()), flush=True
                )
        return Measured(hours, **{name: min(times) for name, times in taken.items()})


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--audio", type=Path, help="a folder of audio")
    arguments.add_argument("--hours", type=float, nargs=2, default=[10.0, 40.0], metavar=("LESS", "MORE"))
    args = arguments.parse_args()
    small, large = (measure(args.audio, hours, args.rounds) for hours in args.hours)
    growth = (large.prepared - small.prepared) / (large.hours - small.hours)
    figures = [
        Figure(
            f"prepare, 2 cores, FLAC, {corpus.hours:.0f} h, to decoding and {name}'s log-Mel alone",
            corpus.prepared / alone,
            "",
            1.3,
            at_least=False,
            note=f"{corpus.prepared:.1f} s, alone {alone:.1f} s",
        )
        for corpus in (small, large)
        for name, alone in (("torch", corpus.torch), ("numpy", corpus.numpy))
    ]
    alone_growth = (large.numpy - small.numpy) / (large.hours - small.hours)
    fixed = small.prepared - growth * small.hours
    figures += [
        Figure("the same, of each further hour, to numpy's", growth / alone_growth, ""),
        Figure("prepare, 2 cores, of no audio (extrapolated)", fixed, "s", 4, at_least=False),
        Figure("prepare, 2 cores, FLAC", large.hours / large.prepared * 60, "hours of audio a minute"),
    ]
    save("prepare", figures)


if __name__ == "__main__":
    sys.exit(main())
