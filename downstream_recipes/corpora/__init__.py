"""Corpora, which are read and checked whole before anything is trained on them.

librispeech           its layout, its transcripts and its audio
superb_librispeech    the splits that SUPERB uses, as two tasks share them
voxceleb              VoxCeleb1's identification split and its files
listing               their text files, and what else is in a folder
audio_check           whether audio files can be used as s3prl reads them
problems              faults, collected and told at once
content               what a corpus is, wherever it lies: a hash of what was checked of it
untranscribed         files without a transcript
buckets               utterances as s3prl's `ctc` takes them
parallel              recordings of several signals: a mixture and its sources, or noisy and clean
counts                how large a corpus is, beside SUPERB's
"""
