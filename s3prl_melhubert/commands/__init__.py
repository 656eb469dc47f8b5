"""The subcommands of `melhubert`, a module each."""
