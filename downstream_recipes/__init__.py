"""SUPERB: phone recognition, speaker identification, speech recognition, each in a folder of its own.

superb                       the command: `melhubert superb pr|sid|asr|config|report|submit`
recipe, experiment, training what the tasks share: check, train, test, `results`
s3prl_run, settings          s3prl's own program and its settings, without its traps
librispeech, voxceleb, ...   the corpora, checked; `lexicon` and `pronounce` for phones
report, submission           a table and a picture; the leaderboard's predict.zip
quickstart/                  the whole path on a synthesized corpus
"""
