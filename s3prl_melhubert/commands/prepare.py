"""`melhubert prepare`: a folder of audio, or the published Kaldi archive, becomes a set that training reads.

melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train
melhubert prepare --audio LibriSpeech --subset dev-clean --kmeans data/train --out data/dev
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.pretrain.data.audio_files import SHARD_FILES
from s3prl_melhubert.pretrain.data.description import REJECTED, PreparedSet
from s3prl_melhubert.pretrain.data.kmeans import CLUSTERS, SAMPLE_FRAMES
from s3prl_melhubert.pretrain.data.prepare import MAX_REJECTED, prepare_audio
from s3prl_melhubert.pretrain.data.shards import FEATURE_TYPES, NO_FEATURES
from s3prl_melhubert.pretrain.data.workers import BACKENDS, Workers

# Arguments without a meaning for an archive: its labels are there, all of it is taken, and the number of its
# utterances in a shard is fixed.
AUDIO_ONLY = ("subset", "seed", "stats", "kmeans", "sample_frames", "max_rejected", "shard_files")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", nargs="+", metavar="DIR", help="folders of audio, searched to the bottom")
    source.add_argument("--kaldi", metavar="DIR", help="the published archive of features and labels")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to fill; the same command continues it"
    )

    audio = parser.add_argument_group("with --audio")
    audio.add_argument(
        "--subset",
        nargs="+",
        metavar="NAME",
        help="folders of DIR to take, as LibriSpeech has them",
    )
    audio.add_argument("--seed", type=int, help="of the sample and of K-means (default: 0)")
    audio.add_argument(
        "--stats",
        metavar="SRC",
        help="use these statistics instead of the audio's own: those of a prepared folder, of a checkpoint, "
        "of a .yaml or .npy file, or of a published name (librispeech-360h)",
    )
    audio.add_argument(
        "--kmeans",
        metavar="SRC",
        help="use the clusters (and, without --stats, the statistics) of this prepared folder, as a "
        "validation set must; or a .npy file of centroids",
    )
    audio.add_argument(
        "--sample-frames",
        type=int,
        metavar="N",
        help=f"frames that K-means sees (default: {SAMPLE_FRAMES})",
    )
    audio.add_argument(
        "--max-rejected",
        type=float,
        metavar="SHARE",
        help=f"stop if more than this share of the files cannot be used (default: {MAX_REJECTED})",
    )
    audio.add_argument(
        "--shard-files",
        type=int,
        metavar="N",
        help=f"files to a shard (default: {SHARD_FILES})",
    )
    features = audio.add_mutually_exclusive_group()
    features.add_argument(
        "--features",
        choices=FEATURE_TYPES,
        default=FEATURE_TYPES[0],
        help="how frames are kept: float16 takes half the disk; with none, training makes them of the audio, "
        "which must stay where it is (default: %(default)s)",
    )
    features.add_argument(
        "--no-features", action="store_const", dest="features", const=NO_FEATURES, help="--features none"
    )

    kaldi = parser.add_argument_group("with --kaldi")
    kaldi.add_argument(
        "--labels", metavar="PATTERN", help="which label list of the archive, where it has several (*20ms*)"
    )

    parser.add_argument(
        "--clusters",
        type=int,
        metavar="N",
        help=f"how many; with --kaldi, what the ids must be below (default: {CLUSTERS})",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes (default: one for each core, or all of the cluster's)",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="what runs them (default: loky)")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask or Ray cluster that sees the same folders; without it, one is started here",
    )


def run(args: argparse.Namespace) -> int:
    """Turn a folder of audio, or the published archive, into features and cluster labels for training.

    Example: melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train
    """
    begin = time.monotonic()
    begun = Path(args.out).expanduser().exists()
    prepared = _prepare(args)
    info = prepared.info
    assert info is not None, "a set that was made here says what it is"
    print(f"{prepared.folder}: {info}")
    if args.features == NO_FEATURES:
        print("no features kept: training reads the audio, which must stay where it is")
    if info.rejected:
        print(f"{info.rejected} files left out: {prepared.folder / REJECTED} says why")
    if not begun:  # A folder that was continued, or was complete, would make the rate mislead.
        seconds = time.monotonic() - begin
        print(f"{seconds:.0f} s, {info.hours / seconds * 60:.2f} h of audio a minute")
    return 0


def warn_of_no_sample(args: argparse.Namespace) -> None:
    """Warn where an option is about the sample for K-means, which is not made as the clusters are given."""
    for name in ("seed", "sample_frames"):
        if args.kmeans is not None and getattr(args, name) is not None:
            warnings.warn(
                f"--{name.replace('_', '-')}: of no effect, as --kmeans {args.kmeans} gives the clusters",
                MelHuBERTWarning,
                stacklevel=2,
            )


def _prepare(args: argparse.Namespace) -> PreparedSet:
    workers = Workers(args.jobs, args.backend, args.scheduler)
    # What was not given has the defaults of the two functions.
    common = {} if args.clusters is None else {"clusters": args.clusters}
    given = {name: getattr(args, name) for name in AUDIO_ONLY if getattr(args, name) is not None}
    warn_of_no_sample(args)
    if args.kaldi is None:
        if args.labels is not None:
            raise MelHuBERTError("--labels: goes with --kaldi; audio has no lists of labels")
        subsets = given.pop("subset", [])
        return prepare_audio(
            args.audio, args.out, subsets=subsets, features=args.features, workers=workers, **common, **given
        )
    if args.features != FEATURE_TYPES[0]:  # The features of an archive are kept as float32.
        given["features"] = args.features
    if given:
        option = next(iter(given)).replace("_", "-")
        raise MelHuBERTError(f"--{option}: goes with --audio; an archive is taken as it is")
    from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi

    return prepare_kaldi(args.kaldi, args.out, labels=args.labels, workers=workers, **common)
