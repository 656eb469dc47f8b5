"""SUPERB's speech recognition (ASR) on LibriSpeech.

task              the task; `superb.yaml` holds its settings
buckets           the tables of lengths that s3prl makes its batches from
language_model    testing once more with a language model
char.dict         the characters, in s3prl's order
"""
