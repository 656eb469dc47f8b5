"""The running of s3prl: its programs, its settings, its experiments.

options            what the user asks for, typed
settings           SUPERB's settings, the user's changes, and the differences
settings_file      the settings as a file for s3prl's own command
upstream_check     whether s3prl can load the upstream
digests            hashes of the upstream's files
experiments/       one upstream and one task from the check to the result; a task of several parts
trainings/         one learning rate of it, in a folder of s3prl's
one_pass/          all learning rates over one pass of the frozen upstream
s3prl_run          s3prl's run_downstream.py without its traps
corpora_file       where the corpora of several tasks are
every_task         all of these tasks, and the report
"""
