"""SUPERB's phone recognition (PR) on LibriSpeech.

task           the task; `superb.yaml` holds its settings
lexicon        pronunciations of the corpus' words, and where they come from
pronounce      those of words that no lexicon has
corpus/        stands in for the module of s3prl's that reads the corpus
phoneme.txt    the vocabulary of phones
"""
