"""SUPERB's speaker identification (SID) on VoxCeleb1: `task` is the task, `superb.yaml` its settings."""
