"""s3prl's code for downstream tasks, classes named DownstreamExpert: what it lacks, and what it cannot do.

kenlm_decoding.py       what s3prl's decoding with a language model lacks
verification_device.py  speaker verification on other devices than the first GPU
separation_device.py    speech enhancement and source separation there
abilities.py            modes and splits that a task does not have, told before anything begins
"""
