"""TensorBoard's files of figures, as tensorboardX writes them.

event_files.py   what keeps them from being written is told to the program that writes
"""
