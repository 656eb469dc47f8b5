"""s3prl's pretrain folder: what makes and reads training data, and what trains on it.

data/                   audio, or the published archive, to features, labels and a manifest
training/               a manifest to checkpoints
pruning_stages.py       a part of a model's heads and rows is removed, what is left is trained, and so on
pretrain_expert.py      what s3prl's own run_pretrain.py asks for
link.py                 puts that into a checkout of s3prl
config_*.yaml           the published settings of the model and of its training
"""
