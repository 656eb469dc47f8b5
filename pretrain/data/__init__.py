"""Audio, or the published archive, becomes training data.

manifest/           the rows of a prepared set: the utterances, and where their frames and labels lie
description.py      a prepared set as a whole: its folder, and what its dataset.yaml says
integrity.py        what a prepared set proves: hashes of its files, and that they fit each other
audio_files.py      the audio files that a set is made of, and how they are cut into shards
audio_frames.py     the frames of a set that keeps none, made of its audio when they are asked for
features.py         audio files to log-Mel frames, and frames to statistics
kmeans.py           K-means: sample, centroids, and the nearest centroid of every frame
clusters.py         what labels stand for: the centroids, and whose frames they number
shards.py           what is made of one shard of the audio
prepare.py          `melhubert prepare --audio`, which composes them
kaldi/              `melhubert prepare --kaldi`: the published archive
teacher.py          the trained model that stage 2 takes its labels from
relabel.py          `melhubert relabel`: the labels of stage 2
label_quality.py    `melhubert label-quality`: how well labels agree with phones
unfinished.py       a folder that is being filled: what was interrupted continues
workers/            work on many cores (loky) or machines (Dask, Ray)
"""
