"""The Kaldi archive that the published models were trained on.

archive.py      reads its lists, statistics, matrices and labels
convert.py      makes a prepared set of it
"""
