"""A prepared set of millions of utterances, whose features are a few shards that all files are links to.

Lengths are drawn as LibriSpeech has them (`librispeech_lengths`). A feature file holds 128 utterances, as
`melhubert prepare` makes them; manifest and columns are those of a real set, so that opening, planning
and reading do what they do with one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from benchmarks.common.librispeech_lengths import draw_frames
from s3prl_melhubert.pretrain.data.audio_files import SHARD_FILES
from s3prl_melhubert.pretrain.data.description import DatasetInfo, write_dataset_info
from s3prl_melhubert.pretrain.data.manifest import MANIFEST, write_columns
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.progress import progress

POOL = 4  # shards that there really are
CLUSTERS = 512


def simulated_set(folder: Path, rows: int) -> dict[str, float]:
    """Make the set, unless it is there; seconds that it took to write the manifest, and its columns."""
    done = folder / f"{rows}.made"
    if done.is_file():
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    lengths = draw_frames(rows)
    ends = np.cumsum(lengths)
    first = np.arange(0, rows, SHARD_FILES)
    before = ends[first] - lengths[first]  # frames in all shards before each
    starts = ends - lengths - np.repeat(before, SHARD_FILES)[:rows]
    _make_shards(folder, len(first), int(np.diff(np.append(before, ends[-1])).max()))

    # The last shard has fewer utterances, and few of a file's labels.
    last = folder / "labels" / f"{len(first) - 1:05d}.npy"
    last.unlink()
    np.save(last, np.zeros(ends[-1] - before[-1], np.int16))

    begin = time.perf_counter()
    with (
        progress(rows, "manifest", "utterances") as bar,
        (folder / MANIFEST).open("w", encoding="utf-8") as file,
    ):
        file.write("file_path,label_path,length,start,label_start,id\n")
        for shard, row in enumerate(first.tolist()):
            some = slice(row, row + SHARD_FILES)
            pairs = zip(lengths[some].tolist(), starts[some].tolist(), strict=True)
            name = f"features/{shard:05d}.npy,labels/{shard:05d}.npy"
            file.writelines(
                f"{name},{length},{start},{start},{1000 + shard}-{shard % 977}-{number:04d}\n"
                for number, (length, start) in enumerate(pairs)
            )
            bar.update(len(lengths[some]))
    written = time.perf_counter()
    write_columns(folder / MANIFEST)
    columns = time.perf_counter()
    stats = FeatureStats.from_arrays(np.zeros(40), np.ones(40), "of noise")
    info = DatasetInfo(stats, CLUSTERS, 10, utterances=rows, frames=int(ends[-1]))
    write_dataset_info(folder / "dataset.yaml", info)
    done.touch()
    return {"manifest": written - begin, "columns": columns - written}


def _make_shards(folder: Path, count: int, frames: int) -> None:
    """Make a pool of shards of noise, and so many names for them."""
    random = np.random.default_rng(0)
    pool = folder / "pool"
    for path in (pool, folder / "features", folder / "labels"):
        path.mkdir(exist_ok=True)
    for number in range(POOL):
        np.save(pool / f"f{number}.npy", random.standard_normal((frames, 40), dtype=np.float32))
        np.save(pool / f"l{number}.npy", random.integers(CLUSTERS, size=frames, dtype=np.int16))
    with progress(count, "shards", "files") as bar:
        for shard in range(count):
            for kind, short in (("features", "f"), ("labels", "l")):
                name = folder / kind / f"{shard:05d}.npy"
                name.unlink(missing_ok=True)
                os.symlink(f"../pool/{short}{shard % POOL}.npy", name)
            bar.update()
