"""Discrete units: the number of the nearest centroid for each frame of a layer.

    nearest.py      centroids in a file, and the nearest of them for every frame
    quantizer.py    `Quantizer`: a layer and its centroids, which a checkpoint carries beside its weights
    files.py        audio files to units: what `melhubert units` does
    output.py       the files of units (text, .npz, .jsonl), and what an interrupted command goes on from
    figures.py      runs of a unit, and how many units and bits there are in a second

`checkpoint.py` imports the quantizer, and `files.py` imports the checkpoint, so this file imports neither.
"""
