"""The subcommands of `melhubert`: a file for each, with its arguments and a call.

A module has two things that `cli` uses:

    add_arguments(parser)    declares the arguments
    run(args) -> int         does the work and returns the exit status

The docstring of `run` is what `melhubert --help` prints: its first paragraph is the summary, and a paragraph
that begins with `Example:` holds the example. A module of two commands has a function for each in place of
`run`. A module without `add_arguments` takes its command's arguments as they are, as a list.

A room such as `superb` holds the commands under one name; their table stands in the module of that name.

`melhubert --help` reads these docstrings from the files without importing the modules, so that it answers at
once, and also where a library is broken.
"""
