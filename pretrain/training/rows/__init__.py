"""Batches for a GPU, in which crops lie end to end in rows of one length, and nothing is padding.

size.py         how many rows there are
plan.py         lays the utterances of a step into rows
batch.py        reads them
layout.py       how the model keeps them apart
attention.py    the kernels that do so in attention
"""
