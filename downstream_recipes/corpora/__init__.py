"""Corpora, which are read and checked whole before anything is trained on them.

librispeech           its layout, its transcripts and its audio
superb_librispeech    the splits that SUPERB uses, as two tasks share them
voxceleb              VoxCeleb1's identification split and its files
audio_check           whether audio files can be used as s3prl reads them
problems              faults, collected and told at once; whether a folder can be written
counts                how large a corpus is, beside SUPERB's
"""
