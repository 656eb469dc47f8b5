"""Batches for a GPU, in which crops lie end to end in rows of one length, and nothing is padding.

`plan.py` lays the utterances of a step into rows; `batch.py` reads them; `layout.py` is how the model keeps
them apart; `attention.py` has the kernels that do so in attention.
"""
