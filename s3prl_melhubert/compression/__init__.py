"""Smaller models of a model: pruned weight by weight, head by head, row by row, or distilled.

stored.py     how compressed checkpoints are stored, read into the settings and weights of their models
pruning.py    the heads and rows that count least, and a model without them: `melhubert compress`
speed.py      what it gains: time beside the dense model's, and the weights that are zero
"""
