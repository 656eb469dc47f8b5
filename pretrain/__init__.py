"""s3prl's pretrain folder: what makes and reads training data, and what trains on it.

data/                   audio, or the published archive, to features, labels and a manifest
training/               a manifest to checkpoints
pretrain_expert.py      what s3prl's own run_pretrain.py asks for
link.py                 puts that into a checkout of s3prl
config_*.yaml           the published settings of the model and of its training
"""
