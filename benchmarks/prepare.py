"""`melhubert prepare` on two cores, beside decoding and log-Mel alone: `python -m benchmarks.prepare`.

Two sizes, because starting the processes and fitting K-means take the same time for any corpus.
With --audio, links to a folder's files make up the hours; without, FLAC files of synthesized noise that has
the loudness contour and the long-term spectrum of speech, so that they are as hard to decode.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from benchmarks.common.audio import hours_of_audio
from benchmarks.common.figures import THREADS, Figure, parser, save, seconds
from benchmarks.prepare_memory import bare_seconds, run
from s3prl_melhubert.audio import find_audio


@dataclass(frozen=True)
class Measured:
    """What a corpus took; the best of the rounds."""

    hours: float  # of audio
    alone: float  # seconds of decoding and log-Mel
    prepared: float  # seconds of the command


def measure(audio: Path | None, wanted: float, rounds: int) -> Measured:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        links, hours = hours_of_audio(audio, wanted, folder)
        paths = find_audio([links])
        parts = [paths[i :: 8 * THREADS] for i in range(8 * THREADS)]
        print(f"  {hours:.1f} h in {len(paths)} files", flush=True)
        alone, prepared = [], []
        with Parallel(THREADS) as pool:
            pool(delayed(bare_seconds)(part[:1]) for part in parts)  # starts the processes
            for number in range(rounds):
                alone.append(seconds(lambda: pool(delayed(bare_seconds)(part) for part in parts)))
                prepared.append(run(links, folder / f"out{number}", 512, THREADS)[1])
                print(f"  alone {alone[-1]:.1f} s, prepare {prepared[-1]:.1f} s", flush=True)
        return Measured(hours, min(alone), min(prepared))


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--audio", type=Path, help="a folder of audio")
    arguments.add_argument("--hours", type=float, nargs=2, default=[10.0, 40.0], metavar=("LESS", "MORE"))
    args = arguments.parse_args()
    found = [measure(args.audio, hours, args.rounds) for hours in args.hours]
    small, large = found
    growth = (large.prepared - small.prepared) / (large.alone - small.alone)
    save(
        "prepare",
        [
            Figure(
                f"prepare, 2 cores, FLAC, {corpus.hours:.0f} h, time to that of decoding and log-Mel alone",
                corpus.prepared / corpus.alone,
                "",
                1.3,
                at_least=False,
                note=f"{corpus.prepared:.1f} s, alone {corpus.alone:.1f} s",
            )
            for corpus in found
        ]
        + [
            Figure("the same, of each further hour", growth, ""),
            Figure("prepare, 2 cores, FLAC", large.hours / large.prepared * 60, "hours of audio a minute"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
