"""s3prl's pretrain folder: what makes and reads training data, and the runners that train on it.

layout.py                                       a prepared set on disk
corpus.py, features.py, shards.py, kmeans.py    audio to frames, statistics and labels
prepare.py, kaldi.py, relabel.py, label_quality.py      the commands that make and judge sets
unfinished.py, workers.py                       work that survives a kill, on many cores or machines
sampler.py, dataset.py, loading.py              sets to batches
settings.py, optimization.py, metrics.py, checkpointing.py, processes.py, signals.py, seeds.py
runner.py                                       `melhubert pretrain`, which composes them
pretrain_expert.py, link.py, config_*.yaml      what s3prl's own run_pretrain.py asks for
"""
