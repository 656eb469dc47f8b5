"""`melhubert prepare`: a folder of audio, or the published Kaldi archive, becomes a set that training reads.

melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train
melhubert prepare --audio LibriSpeech --subset dev-clean --kmeans data/train --out data/dev
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.data.audio_files import SHARD_FILES
from s3prl_melhubert.pretrain.data.description import REJECTED, PreparedSet
from s3prl_melhubert.pretrain.data.kmeans import CLUSTERS, SAMPLE_FRAMES
from s3prl_melhubert.pretrain.data.prepare import MAX_REJECTED, prepare_audio
from s3prl_melhubert.pretrain.data.shards import FEATURE_TYPES, NO_FEATURES
from s3prl_melhubert.pretrain.data.workers import BACKENDS, Workers


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
        default=[],
        metavar="NAME",
        help="folders of DIR to take, as LibriSpeech has them",
    )
    audio.add_argument(
        "--seed", type=int, default=0, help="of the sample and of K-means (default: %(default)s)"
    )
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
        default=SAMPLE_FRAMES,
        metavar="N",
        help="frames that K-means sees (default: %(default)s)",
    )
    audio.add_argument(
        "--max-rejected",
        type=float,
        default=MAX_REJECTED,
        metavar="SHARE",
        help="stop if more than this share of the files cannot be used (default: %(default)s)",
    )
    audio.add_argument(
        "--shard-files",
        type=int,
        default=SHARD_FILES,
        metavar="N",
        help="files to a shard (default: %(default)s)",
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
    begun = Path(args.out).exists()
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


def _prepare(args: argparse.Namespace) -> PreparedSet:
    workers = Workers(args.jobs, args.backend, args.scheduler)
    if args.kaldi is None:
        return prepare_audio(
            args.audio,
            args.out,
            subsets=args.subset,
            clusters=args.clusters,
            seed=args.seed,
            stats=args.stats,
            kmeans=args.kmeans,
            sample_frames=args.sample_frames,
            max_rejected=args.max_rejected,
            shard_files=args.shard_files,
            features=args.features,
            workers=workers,
        )
    for name, default in (("subset", []), ("stats", None), ("kmeans", None), ("features", FEATURE_TYPES[0])):
        if getattr(args, name) != default:
            raise MelHuBERTError(f"--{name}: goes with --audio; an archive has its own")
    from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi

    return prepare_kaldi(
        args.kaldi, args.out, clusters=args.clusters or CLUSTERS, labels=args.labels, workers=workers
    )
