"""SUPERB: phone recognition, speaker identification and speech recognition, each in a folder of its own.

phone_recognition/, ...      a folder a task: its settings, the check of its corpus, its `Task`
task, tasks                  what a `Task` is, and the tasks that there are
predictions, difference      what tasks share: the format of prediction files, differences from SUPERB
corpora/                     LibriSpeech and VoxCeleb1, checked
running/                     experiments with s3prl: its program and its settings, without its traps
report/                      results, their table and picture, the leaderboard's predict.zip
quickstart/                  the whole path on a synthesized corpus
espeak                       synthesized speech, and pronunciations
"""
