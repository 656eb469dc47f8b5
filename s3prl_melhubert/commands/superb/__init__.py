"""The subcommands of `melhubert superb`: a module for each, and one for all tasks.

superb      the table of them
task        a task, from the check of its corpus to its score
arguments   what several of them take
all, config, make_sd, predict, report, submit

Each has `add_arguments` and `run`, as every module of `commands` has.
"""
