"""The subcommands of `melhubert` that take a checkpoint: a file for each, as in the folder above."""
