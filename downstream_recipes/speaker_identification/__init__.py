"""Speaker identification on VoxCeleb1: `recipe` is the task, `superb.yaml` its settings."""
