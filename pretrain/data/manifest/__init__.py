"""The manifest of a prepared set: which utterances there are, and where their frames and labels lie.

    manifest.csv        file_path,label_path,length[,start][,label_start][,id]: a row per utterance
    columns/            the same as arrays, which are mapped instead of read
    features/*.npy      (frames, 40) float32 normalized log-Mel at 10 ms, many utterances a file
    labels/*.npy        (labels,) cluster ids, at 10 or 20 ms

Features may be float16. A set that keeps none names audio files instead, whose frames are made when they are
read (see `audio_frames`).

The first three columns of the manifest are the published ones. A published CSV, which has these only and
a `.npy` per utterance, is read as it is.

utterance.py        an utterance, its frames and labels
rows.py             manifest.csv, read and written row by row
selection.py        some of the utterances of one or more manifests
columns.py          the rows as arrays, in memory or mapped
listing.py          `melhubert manifest`: what is in a set, and a choice of its utterances
stored.py           the arrays on the disk, and how they are known to be those of the CSV file
"""

from s3prl_melhubert.pretrain.data.manifest.columns import Utterances
from s3prl_melhubert.pretrain.data.manifest.rows import MANIFEST, write_manifest
from s3prl_melhubert.pretrain.data.manifest.selection import Amount, Selection
from s3prl_melhubert.pretrain.data.manifest.stored import (
    columns_fault,
    columns_folder,
    have_columns,
    read_manifest,
    set_of,
    write_columns,
)
from s3prl_melhubert.pretrain.data.manifest.utterance import (
    FRAME_SHIFT_MS,
    LABEL_PERIODS_MS,
    LENGTH_TOLERANCE,
    Utterance,
    is_audio,
    label_count,
    label_counts,
    open_array,
    told_label_period,
    utterance_features,
    utterance_labels,
)

FEATURES = "features"  # the folder of feature files
LABELS = "labels"  # the folder of label files

__all__ = [
    "FEATURES",
    "FRAME_SHIFT_MS",
    "LABELS",
    "LABEL_PERIODS_MS",
    "LENGTH_TOLERANCE",
    "MANIFEST",
    "Amount",
    "Selection",
    "Utterance",
    "Utterances",
    "columns_fault",
    "columns_folder",
    "have_columns",
    "is_audio",
    "label_count",
    "label_counts",
    "open_array",
    "read_manifest",
    "set_of",
    "told_label_period",
    "utterance_features",
    "utterance_labels",
    "write_columns",
    "write_manifest",
]
