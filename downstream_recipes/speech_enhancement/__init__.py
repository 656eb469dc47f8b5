"""SUPERB's speech enhancement (SE) on VoiceBank-DEMAND: `task` is the task, `superb.yaml` its settings."""
