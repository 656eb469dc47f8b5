"""SUPERB's keyword spotting (KS) on Speech Commands: `task` is the task, `superb.yaml` its settings."""
