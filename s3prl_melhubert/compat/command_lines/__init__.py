"""What people mistype on the command lines of s3prl's programs, told in a line before anything begins.

s3prl's own parser reads the arguments. What s3prl itself would fail at, in a traceback, is refused, and so is
going on with a copy of an experiment, because s3prl would write to the folder of the first one.

    line.py         what the two programs have in common
    downstream.py   the arguments of run_downstream.py
    pretrain.py     the arguments of run_pretrain.py
    names.py        whether s3prl has a task, or an upstream, of a name
    parser.py       has s3prl's parser hand over what it has read
"""
