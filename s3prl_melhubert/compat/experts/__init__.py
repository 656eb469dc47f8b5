"""s3prl's code for downstream tasks, classes named DownstreamExpert: what it lacks, and what it cannot do.

kenlm_decoding.py       what s3prl's decoding with a language model lacks
expert_device.py        tasks that know the first GPU alone, on other devices
corpora.py              reading the corpora of some tasks with today's Python and pandas
abilities.py            modes and splits that a task does not have, told before anything begins
"""
