"""The running of s3prl: its programs, its settings, its experiments.

options            what the user asks for, typed
experiment         one upstream and one task from the check to the result
identity           what an experiment is, by which its folder is continued or another one refused
second_test        a task's second test, with a language model
parts              a task of several parts, such as folds: an experiment for each, and their mean
corpora_file       where the corpora of several tasks are
every_task         all of these tasks, and the report
training           one learning rate of it
layers             one layer of an upstream in a task where nothing is trained
one_pass/          all learning rates over one pass of the frozen upstream
checkpoints        s3prl's, written whole
s3prl_run          s3prl's run_downstream.py without its traps
settings           SUPERB's settings, the user's changes, and the differences
settings_file      the settings as a file for s3prl's own command
upstream_check     whether s3prl can load the upstream
"""
