"""What several programs share: figures with their limits, the naive model, made-up corpora, faults.

figures.py                 a figure with its limit, the machine's peak beside it, results as JSON
naive.py                   the encoder as one writes it down first
steps.py                   the loss of a batch, and a whole training step
audio.py                   hours of audio, where there is no corpus
librispeech_lengths.py     lengths of utterances, as LibriSpeech has them
simulated_set.py           a prepared set of millions of utterances
injection.py               commands that are killed, or run out of disk
gpu_profile.py             what a step on a GPU loses its time to
"""
