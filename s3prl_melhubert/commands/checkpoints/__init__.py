"""The subcommands on files of checkpoints: what is in one, another format of one, and what one computes."""
