"""SUPERB's source separation (SS) on Libri2Mix: `task` is the task, `superb.yaml` its settings."""
