"""SUPERB's tasks, each in a folder of its own, and what they share.

phone_recognition/, ...      a folder a task: its settings, the check of its corpus, its `Task`
task, tasks                  what a `Task` is, and the tasks that there are
outputs                      what the outputs of a task's trained model stand for
signals                      those that enhancement and separation make of new audio
prediction_files             the files of predictions that tests write, and their places in a submission
difference                   what of a result is not as SUPERB has it
experiment_files             what an experiment's folder says of itself
corpora/                     corpora that several tasks share, checked
running/                     experiments with s3prl: its program and its settings, without its traps
prediction/                  a trained model on new audio
report/                      results, their table and picture, the leaderboard's predict.zip
quickstart/                  the whole path on a synthesized corpus
s3prl_files                  the folder in which s3prl is installed
espeak                       synthesized speech, and pronunciations
"""
