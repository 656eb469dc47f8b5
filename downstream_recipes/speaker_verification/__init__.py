"""SUPERB's automatic speaker verification (ASV) on VoxCeleb1.

task        the task; `superb.yaml` holds its settings
trials      the list of trials, and the training files, checked
sounding    how long each training file is without its pauses, which decides what is trained on
"""
